"""Lists the photos of a source without using labels: the same photos that training finds there.

A source is what `reading.named_sources` accepts, or a glob or a single photo. `folders.py` decides what a folder
contains, and `reading.py` reads tables and data sets. No photo is opened.
"""

from __future__ import annotations

import glob
from collections.abc import Collection
from pathlib import Path

from datasets import Dataset

from natix_hf.data.sources.folders import PHOTO_SUFFIXES, SYSTEM_FOLDERS, WHOLE, photo_files
from natix_hf.data.sources.known_sources import SCENES, drawn_scenes
from natix_hf.data.sources.label_tables import READ, SHEETS
from natix_hf.data.sources.reading import Raw, Source, named_sources, read_source
from natix_hf.errors import UserError
from natix_hf.files import only_a_path, path_text, text_path
from natix_hf.photos.inspection import bars


def place_of(source: str) -> str:
    """The place of a source, without its name."""
    place = str(named_sources(source)[0].place)
    return drawn_scenes() if place == SCENES else place


def listed_photos(source: str, image_column_name: str = "image") -> list[Path] | None:
    """The photos of a folder or a glob, or a single photo. None if a table or a data set lists them.

    Raises:
        UserError: if there is no photo.
    """
    place = place_of(source)
    path = Path(text_path(place)).expanduser()
    if path.is_dir():
        photos = photo_files(path, image_column_name)
        if photos == []:
            raise UserError(f"{place}: no photos in this folder (endings such as .jpg, .png, .webp; no hidden ones)")
        return photos and [path / photo for photo in photos]
    if path.is_file():
        return None if path.suffix.lower() in (*READ, *SHEETS) else [path]
    if glob.has_magic(place):
        files = [file for file in _fitting(path) if not _of_a_system(file) and file.is_file()]
        if not files:
            raise UserError(f"{place}: no file matches this pattern")
        return [file for file in files if file.suffix.lower() in PHOTO_SUFFIXES] or files
    if only_a_path(place) or "/" not in place or path.suffix.lower() in PHOTO_SUFFIXES:
        raise UserError(f"{place}: no such file or folder")
    return None


def _of_a_system(file: Path) -> bool:
    return not SYSTEM_FOLDERS.isdisjoint(part.lower() for part in file.parts)


def _fitting(pattern: Path) -> list[Path]:
    """The files that match a glob.

    Brackets in the names of existing folders are literal, and all brackets are literal if nothing matches otherwise.
    """
    root = next(folder for folder in pattern.parents if folder.is_dir())
    rest = str(pattern.relative_to(root))
    for words in (rest, rest.replace("[", "[[]")):
        if names := glob.glob(words, root_dir=root, recursive=True):
            return sorted(root / file for file in names)
    return []


def read_photos(
    source: str,
    image_column_name: str = "image",
    text_columns: Collection[str] = (),
    dataset_config: str | None = None,
) -> Raw:
    """The rows of a source. Photos found in a folder have their relative path as `id`.

    Args:
        image_column_name: the column of photos in a table or a data set.
        text_columns: CSV columns to read as text.

    Raises:
        UserError: if the source does not exist or has no photo.
    """
    photos = listed_photos(source, image_column_name)
    place = place_of(source)
    if photos is None:
        with bars(not Path(place).expanduser().exists()):  # shown for downloads from the Hub
            return read_source(
                Source(WHOLE, place, False), dataset_config, image_column_name, None, {"id", *text_columns}, False
            )
    root = Path(text_path(place)).expanduser()
    ids = [path_text(photo.relative_to(root) if root.is_dir() else photo) for photo in photos]
    rows = Dataset.from_dict({"id": ids, image_column_name: [path_text(photo.absolute()) for photo in photos]})
    return read_source(Source(WHOLE, rows, False), None, image_column_name, None, set(), False)
