"""Converts photos that a client would see differently to 8-bit PNG, for `data split --convert_photos`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
from datasets import Dataset, concatenate_datasets

from natix_hf.files import fingerprint_bytes
from natix_hf.photos.decode import StoredPhoto, eight_bit_png
from natix_hf.photos.inspection import MANY, bars


def _converted(photo: StoredPhoto) -> dict[str, StoredPhoto | str]:
    content, path = eight_bit_png(photo), photo["path"]
    name = None if path is None else str(PurePath(path).with_suffix(".png"))
    return {"image": {"bytes": content, "path": name}, "fingerprint": fingerprint_bytes(content)}


def converted(data: Dataset, rows: Sequence[int]) -> Dataset:
    """The rows in the same order, with some photos converted to upright, opaque 8-bit RGB PNG.

    The new files are kept in memory. All other photos are unchanged.

    Args:
        data: rows with undecoded `image` and `fingerprint`.
        rows: numbers of the photos to convert.
    """
    if not rows:
        return data
    with bars(len(rows) >= MANY):
        new = data.select(rows, keep_in_memory=True).map(
            _converted,
            input_columns=["image"],
            features=data.features,
            keep_in_memory=True,
            load_from_cache_file=False,
            desc="converting photos",
        )
    order = np.arange(len(data))
    order[list(rows)] = len(data) + np.arange(len(rows))
    return concatenate_datasets([data, new]).select(order, keep_in_memory=True)
