"""Turns the `photos` argument of a command into names and readable photos."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import count
from typing import Any

from natix_hf.data.sources.columns import as_text
from natix_hf.data.sources.ids import photo_paths
from natix_hf.data.sources.reading import Raw
from natix_hf.data.sources.unlabelled_photos import listed_photos, read_photos
from natix_hf.files import path_text


def find_photos(
    photos: str, image_column_name: str = "image", dataset_config: str | None = None
) -> tuple[list[str], Sequence[Any]]:
    """Names of photos and, in the same order, the photos as `client_pixels` takes them.

    Args:
        photos: a folder (searched with its subfolders, like a training folder), a glob, one photo, a
            table, a `save_to_disk` folder, a Hub id, or one of these as `name=path`.
        image_column_name: the column of photos in a table or a data set.

    Returns:
        Names and photos. A photo's name is its path; in a table or data set it is the id. If ids are missing or
        repeated, it is the path or the name stored with the bytes, else the row number. The split's name is prepended
        (`train/7`) if names are not unique without it.

    Raises:
        UserError: nothing of that name exists, or it holds no photo.
    """
    files = listed_photos(photos, image_column_name)
    if files is not None:
        names = [path_text(file) for file in files]
        return names, names
    raw = read_photos(photos, image_column_name, dataset_config=dataset_config)
    return _names(raw, image_column_name), raw.pool[image_column_name]  # a column that reads one record at a time


def _names(raw: Raw, column: str) -> list[str]:
    """The first of these that is unique for all rows: ids, paths, row numbers within splits."""
    paths = raw.pool.select_columns([column]).flatten()[f"{column}.path"][:]
    ids = [as_text(value) for value in raw.pool["id"][:]] if "id" in raw.pool.column_names else [None]
    root = path_text(raw.root or "")
    places = [
        os.path.join(root, inside) if inside and os.path.isabs(path) else inside or path
        for inside, path in zip(photo_paths(raw, paths), paths)
    ]
    for plain in (ids, places):
        for names in (plain, [f"{part}/{name}" for part, name in zip(raw.parts, plain)]):
            if None not in plain and len(set(names)) == len(raw.parts):
                return names
    counts = {part: count() for part in raw.parts}
    several = len(counts) > 1
    return [f"{part}/{next(counts[part])}" if several else str(next(counts[part])) for part in raw.parts]
