"""Finds out how a local folder or file holds its photos, and reads it as raw tables, one for each part ("origin")
that it is divided in.

Forms: class folders, one CSV or JSONL beside the photos, `metadata.csv` / `.jsonl` / `.parquet` as imagefolder has
it, parquet files, `save_to_disk`. Written here rather than left to `datasets`' imagefolder because that reads the
class name `None` as a missing value and forgets where in the folder a photo lay. This file does not interpret labels
or groups and opens no photo.
"""

from __future__ import annotations

import csv
import glob
import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from natix_hf.errors import UserError
from natix_hf.files import check_name, path_text, shown, text_path

# heic, heif and jxl stand here although Pillow cannot read them: such photos are to be named as unreadable, not
# passed over in silence.
_SUFFIXES = "jpg jpeg jpe jfif mpo png apng webp bmp dib gif tif tiff tga ppm pgm pbm pnm jp2 j2k jpx avif"
_SUFFIXES += " heic heif jxl"
PHOTO_SUFFIXES = frozenset(f".{name}" for name in _SUFFIXES.split())
# What a table of paths calls them, besides the image column that the user names.
PHOTO_COLUMNS = ("image_path", "file_name")
_SPLITS = "train training val valid validation dev eval test testing val_select val_calib val_test"
SPLIT_FOLDERS = frozenset(_SPLITS.split())
TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
# What lies in the folders that this package writes: runs, splits, range tests.
WRITTEN = ({"run.json", "splits.json"}, {"splits.json", "SPLITS.md"}, {"find_lr.json"})
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
WHOLE = "all"  # the origin of rows of a source that is not divided


def _files(folder: Path) -> list[Path]:
    """All files below a folder, links to folders followed once, sorted, as paths relative to it; none that are hidden
    or that this package wrote.

    Raises:
        OSError: a folder cannot be looked into.
    """
    found, seen = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(parent)
        ours = any(written.issubset(names) for written in WRITTEN)  # figures are no photos
        if ours or real in seen:  # a link back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        found += [Path(parent, name).relative_to(folder) for name in names if not name.startswith(".")]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def read_local(path: Path, photo_column: str, text_columns: set[str]) -> dict[str, Dataset]:
    """Read a folder or a file in any of the forms above.

    Args:
        path: an existing file or folder.
        photo_column: what the user calls the column of photos.
        text_columns: columns of a CSV that are text whatever they look like (ids, groups, labels).

    Returns:
        Origin -> rows; photos are in `photo_column`, paths in a table are resolved to absolute ones.

    Raises:
        UserError: if the folder is empty, of no known form, or a table cannot be read.
    """
    if path.is_file():
        return {WHOLE: _table(path, photo_column, text_columns)}
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _saved(path)
    files = _files(path)
    metadata = [file for file in files if file.name in METADATA]
    if metadata:
        return _tables(path, metadata, photo_column, text_columns)
    parquet = [file for file in files if file.suffix == ".parquet"]
    if parquet:
        return _shards(path, parquet, photo_column)
    beside = [file for file in files if len(file.parts) == 1 and file.suffix in (".csv", ".jsonl")]
    if len(beside) > 1:
        names = ", ".join(map(str, beside))
        raise UserError(f"{path}: several tables ({names}); name one as dataset_name, such as {path / beside[0]}")
    if beside:
        return {WHOLE: _table(path / beside[0], photo_column, text_columns)}
    return _class_folders(path, [file for file in files if file.suffix.lower() in PHOTO_SUFFIXES], photo_column)


def photo_files(path: Path) -> list[Path] | None:
    """The photos below a folder that holds nothing but photos, relative to it; None where there is a table, a saved
    data set or no folder, so that something else says what the photos are."""
    if not path.is_dir() or (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return None
    files = _files(path)
    tables = [f for f in files if f.name in METADATA or f.suffix == ".parquet"]
    beside = [f for f in files if len(f.parts) == 1 and f.suffix in (".csv", ".jsonl") and not _predicted(path / f)]
    return None if tables or beside else [f for f in files if f.suffix.lower() in PHOTO_SUFFIXES]


def _predicted(table: Path) -> bool:
    """Whether `natix_hf.predict` wrote a table."""
    with table.open("rb") as file:
        return file.readline().startswith((b"file,label,p_", b'{"file": '))


def _saved(path: Path) -> dict[str, Dataset]:
    check_name(path.absolute())
    try:
        saved = load_from_disk(str(path))
    except (OSError, ValueError, KeyError, pa.ArrowException, DatasetsError) as error:
        raise UserError(f"{path}: not a whole save_to_disk folder ({error}); save it again") from error
    except IndexError as error:  # datasets writes no file for no rows, and then finds none
        raise UserError(f"{path}: the data set has no rows") from error
    return dict(saved) if isinstance(saved, DatasetDict) else {WHOLE: saved}


def _class_folders(path: Path, photos: list[Path], photo_column: str) -> dict[str, Dataset]:
    """The class is the first folder; where all first folders are names of splits, they are the origin and the second
    is the class."""
    if not photos:
        raise UserError(
            f"{path}: no photos, tables or saved data set in this folder; expected one folder per class, or photos "
            "with a CSV of image_path,label"
        )
    divided = all(photo.parts[0] in SPLIT_FOLDERS for photo in photos)
    depth = 2 if divided else 1
    loose = [photo for photo in photos if len(photo.parts) <= depth]
    if loose:
        raise UserError(
            f"{path}: {len(loose)} photos lie in no class folder ({loose[0]}, ...); put each into a folder named "
            "after its class, or add a CSV of image_path,label"
        )
    parts: dict[str, list[Path]] = {}
    for photo in photos:
        parts.setdefault(photo.parts[0] if divided else WHOLE, []).append(photo)
    return {
        origin: Dataset.from_dict(
            {
                photo_column: [path_text(os.path.abspath(path / photo)) for photo in members],
                "label": [path_text(photo.parts[depth - 1]) for photo in members],
            }
        )
        for origin, members in parts.items()
    }


def _tables(path: Path, tables: list[Path], photo_column: str, text_columns: set[str]) -> dict[str, Dataset]:
    """One or more metadata files; a first folder with the name of a split is the origin."""
    parts: dict[str, list[pa.Table]] = {}
    for file in tables:
        origin = file.parts[0] if file.parts[0] in SPLIT_FOLDERS else WHOLE
        parts.setdefault(origin, []).append(_table(path / file, photo_column, text_columns).data.table)
    return {
        origin: Dataset(pa.concat_tables(members, promote_options="permissive").replace_schema_metadata(None))
        for origin, members in parts.items()
    }


def _table(path: Path, photo_column: str, text_columns: set[str]) -> Dataset:
    """One CSV, JSONL or parquet file, paths resolved from its own folder."""
    if path.suffix == ".parquet":
        return _shards(path.parent, [Path(path.name)], photo_column)[path_origin(path)]
    try:
        if path.suffix == ".csv":
            table = _read_csv(path, {photo_column, *PHOTO_COLUMNS, *text_columns})
        elif path.suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            rows = [json.loads(line) for line in lines if line.strip()]
            table = pa.Table.from_pylist([{name: _text(value) for name, value in row.items()} for row in rows])
        else:
            raise UserError(f"{path}: expected a folder, or a .csv, .jsonl or .parquet file")
    except (pa.ArrowException, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read as {path.suffix[1:]} in UTF-8 ({error})") from error
    if not table.num_rows:
        raise UserError(f"{path}: the table has no rows")
    column = next((name for name in (photo_column, *PHOTO_COLUMNS) if name in table.column_names), None)
    if column is None:
        raise UserError(
            f"{path}: no column {photo_column!r}, {' or '.join(map(repr, PHOTO_COLUMNS))} with the photos' paths; "
            f"it has {', '.join(table.column_names)}: rename one or set image_column_name"
        )
    position = table.column_names.index(column)
    paths = [resolve(name, path.parent) for name in table.column(column).to_pylist()]
    return Dataset(table.set_column(position, photo_column, pa.array(paths, pa.string())))


def _text(value: object) -> object:
    return shown(value) if isinstance(value, str) else value


def _read_csv(path: Path, text_columns: set[str]) -> pa.Table:
    """A CSV in which an empty field alone is missing: `None`, `NA` and `null` are words like others. Commas divide
    it, or, where they leave one column only, semicolons or tabs."""
    with path.open(encoding="utf-8", errors="replace") as file:
        header = file.readline()
    divided = (mark for mark in ",;\t" if len(next(csv.reader([header], delimiter=mark), "")) > 1)
    convert = pyarrow.csv.ConvertOptions(
        null_values=[""],
        strings_can_be_null=True,
        column_types=dict.fromkeys(text_columns, pa.string()),
    )
    parse = pyarrow.csv.ParseOptions(delimiter=next(divided, ","), newlines_in_values=True)
    with path.open("rb") as file:
        return pyarrow.csv.read_csv(file, parse_options=parse, convert_options=convert)


def resolve(name: str | None, *folders: Path) -> str | None:
    """The absolute path of a photo that a table names, as `path_text`: from a folder, or from the `images/` in it; the
    first guess if it is in neither."""
    if name is None:
        return None
    guesses = [text_path(Path(folder, *inner, name)) for folder in folders for inner in ((), ("images",))]
    return path_text(os.path.abspath(next((guess for guess in guesses if os.path.isfile(guess)), guesses[0])))


def path_origin(file: Path) -> str:
    """What a parquet file holds, by its name without shard numbers: `data/train-00000-of-00002.parquet` -> `train`."""
    return re.sub(r"\W+", "_", re.sub(r"-\d+-of-\d+(-[0-9a-f]+)?$", "", file.stem)) or WHOLE


def _shards(path: Path, files: list[Path], photo_column: str) -> dict[str, Dataset]:
    """Parquet files, memory-mapped; photos inside, or as paths from the folder."""
    parts: dict[str, list[str]] = {}
    for file in files:
        check_name((path / file).absolute())
        parts.setdefault(path_origin(file), []).append(glob.escape(str(path / file)))
    try:
        read = dict(load_dataset("parquet", data_files=parts))
    except (pa.ArrowException, DatasetsError, ValueError) as error:
        raise UserError(
            f"{path}: cannot read {', '.join(map(str, files[:3]))} as parquet ({error.__cause__ or error})"
        ) from error
    folders = dict.fromkeys([path, *(path / file.parent for file in files)])
    return {origin: _resolved(rows, photo_column, list(folders)) for origin, rows in read.items()}


def _resolved(rows: Dataset, photo_column: str, folders: list[Path]) -> Dataset:
    """The same rows with absolute paths, where the column holds paths alone (`Dataset.to_parquet` writes such)."""
    if photo_column not in rows.column_names:
        named = [name for name in PHOTO_COLUMNS if name in rows.column_names]
        if not named:
            return rows
        rows = rows.rename_column(named[0], photo_column)
    column = rows.data.table.column(photo_column)
    if pa.types.is_struct(column.type) and {field.name for field in column.type} == {"bytes", "path"}:
        if pc.struct_field(column, "bytes").null_count < len(column):
            return rows
        column = pc.struct_field(column, "path")
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return rows
    paths = [resolve(name, *folders) for name in column.to_pylist()]
    position = rows.column_names.index(photo_column)
    table = rows.data.table.set_column(position, photo_column, pa.array(paths, pa.string()))
    return Dataset(table.replace_schema_metadata(None))
