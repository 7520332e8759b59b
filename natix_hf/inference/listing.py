"""What a user points at with "photos": a folder, a glob, one file or a data set becomes names and readable sources."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from natix_hf.errors import UserError, one_line


class _Column(Sequence):
    """The photos of a data set, one record at a time."""

    def __init__(self, rows: Any, column: str) -> None:
        self.rows, self.column = rows, column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index][self.column]


def find_photos(photos: str, image_column_name: str = "image") -> tuple[list[str], Sequence[Any]]:
    """Names of photos and, in the same order, what `client_pixels` reads.

    Args:
        photos: a folder (searched with its subfolders, by the file endings that Pillow reads), a glob, one file, a
            parquet file, a `save_to_disk` folder, or a Hub id.
        image_column_name: the column of photos in a data set.

    Returns:
        Names (paths; for a data set ids or row numbers, with the split's name in front where there are several) and
        photos.

    Raises:
        UserError: there is nothing of that name, or no photo in it.
    """
    path = Path(photos).expanduser()
    if path.is_dir():
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            from datasets import load_from_disk

            return _from_data_set(photos, lambda: load_from_disk(str(path)), image_column_name)
        endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
        found = sorted(str(p) for p in path.rglob("*") if p.suffix.lower() in endings and p.is_file())
        parquet = sorted(str(p) for p in path.rglob("*.parquet"))
        if not found and parquet:
            return _from_parquet(photos, parquet, image_column_name)
        if not found:
            raise UserError(f"{photos}: no photos in this folder (endings such as .jpg, .png, .webp)")
        return found, found
    if path.is_file():
        if path.suffix == ".parquet":
            return _from_parquet(photos, [str(path)], image_column_name)
        return [str(path)], [str(path)]
    if glob.has_magic(photos):
        found = sorted(p for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        if not found:
            raise UserError(f"{photos}: no file fits this pattern")
        return found, found
    if photos.startswith((".", "/", "~")) or photos.count("/") != 1 or path.suffix:
        raise UserError(f"{photos}: no such file or folder")
    return _from_hub(photos, image_column_name)


def _from_parquet(name: str, files: list[str], column: str) -> tuple[list[str], Sequence[Any]]:
    import datasets

    datasets.disable_progress_bars()  # it is copied to the cache in a moment
    try:
        return _from_data_set(name, lambda: datasets.Dataset.from_parquet(files), column)
    finally:
        datasets.enable_progress_bars()


def _from_hub(name: str, column: str) -> tuple[list[str], Sequence[Any]]:
    from datasets import load_dataset

    return _from_data_set(name, lambda: load_dataset(name), column)


def _from_data_set(name: str, load: Callable[[], Any], column: str) -> tuple[list[str], Sequence[Any]]:
    from datasets import DatasetDict, Features, concatenate_datasets
    from datasets import Image as ImageFeature
    from datasets.exceptions import DatasetsError

    try:
        data = load()
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        raise UserError(f"{name}: no data set that can be read: {one_line(error.__cause__ or error)}") from None
    parts = data if isinstance(data, DatasetDict) else {"": data}
    names, tables = [], []
    for split, rows in parts.items():
        if column not in rows.column_names:
            raise UserError(
                f"{name}: no column '{column}'; there are {', '.join(rows.column_names)}: set --image_column_name"
            )
        ids = [str(i) for i in rows["id"][:]] if "id" in rows.column_names else []
        ids = ids if len(set(ids)) == len(rows) else [str(i) for i in range(len(rows))]
        names += [f"{split}/{i}" if split else i for i in ids]
        try:
            tables.append(rows.select_columns([column]).cast(Features({column: ImageFeature(decode=False)})))
        except (TypeError, ValueError, NotImplementedError):
            kind = rows.features[column]
            raise UserError(f"{name}: column '{column}' holds {kind}, no photos: set --image_column_name") from None
    if not names:
        raise UserError(f"{name}: no photos in this data set")
    return names, _Column(concatenate_datasets(tables), column)
