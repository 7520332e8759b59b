"""Recognises the form of a local folder or file, and reads it as raw tables, one for each part (its "origin").

Forms: class folders, also below or above folders named after splits; tables of paths beside the photos (CSV, TSV, JSON
lines, ...), also one per folder as in imagefolder; parquet files; `save_to_disk`. If two of them could give the
labels, the folder is refused. `datasets`' imagefolder is not used because it reads the class name `None` as a missing
value and loses the paths of photos within the folder. Labels are not interpreted and no photo is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Value, load_from_disk
from datasets.exceptions import DatasetsError

from natix_hf.data.sources.columns import with_column
from natix_hf.data.sources.label_tables import METADATA, PHOTO_COLUMNS, find_tables, read_table, resolved
from natix_hf.data.sources.parquet_files import read_parquet
from natix_hf.data.sources.split_names import names_split, split_word
from natix_hf.data.sources.stacking import stacked
from natix_hf.errors import UserError, few
from natix_hf.files import check_name, path_text, shown, text_path

# Pillow cannot read heic, heif and jxl. They are listed so that such photos are reported as unreadable, not ignored.
_SUFFIXES = "jpg jpeg jpe jfif mpo png apng webp bmp dib gif tif tiff tga ppm pgm pbm pnm jp2 j2k jpx avif"
_SUFFIXES += " heic heif jxl"
PHOTO_SUFFIXES = frozenset(f".{name}" for name in _SUFFIXES.split())
# Folders that operating systems create for copies, previews and deleted files, in lower case.
SYSTEM_FOLDERS = frozenset(
    (
        *("__macosx", "@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "$recycle.bin"),
        *("recycler", "system volume information", "found.000", "lost+found", "thumbnails", "thumbs"),
    )
)
# Files that identify the folders this package writes: runs, splits, range tests.
WRITTEN = ({"run.json", "splits.json"}, {"splits.json", "SPLITS.md"}, {"find_lr.json"})
WHOLE = "all"  # the origin of rows of a source that is not divided


def _files(folder: Path) -> list[Path]:
    """All files below a folder, as sorted relative paths, without hidden files and those that this package wrote.

    Links to folders are followed once.

    Raises:
        OSError: if a folder cannot be read.
    """
    files, seen = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(parent)
        ours = any(written.issubset(names) for written in WRITTEN)  # do not take its charts for photos
        if ours or real in seen:  # a link back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not (name.startswith(".") or name.lower() in SYSTEM_FOLDERS))
        files += [Path(parent, name).relative_to(folder) for name in names if not name.startswith(".")]
    return sorted(files)


def _raise(error: OSError) -> None:
    raise error


@dataclass(frozen=True)
class Local:
    """The content of a folder or file.

    Attributes:
        parts: origin -> rows. Photos are in the column that the user named, with absolute paths.
        labels_from: one line: where the labels come from, which photos are unused, which tables were ignored.
    """

    parts: dict[str, Dataset]
    labels_from: str


def read_local(path: Path, photo_column: str, text_columns: set[str]) -> Local:
    """Read a folder or a file in any of the forms above.

    Args:
        path: an existing file or folder.
        text_columns: CSV columns to read as text (ids, groups, labels).

    Raises:
        UserError: if the folder is empty or of no known form, mixes folders of splits with others, or has two sources
            of labels, or if a table cannot be read.
    """
    if path.is_file():
        parts = {WHOLE: _table(path, photo_column, text_columns)}
        named = _named(parts, photo_column)
        beside = [file for folder in {os.path.dirname(name) for name in named} for file in _photos_in(folder)]
        return Local(parts, "; ".join([str(path), *_unused(beside, named)]))
    if _is_saved(path):
        parts = _saved(path)
        return Local(parts, f"the saved data set {path}{_sizes(parts)}")
    files = _files(path)
    photos = _photos(files)
    tables = find_tables(path, files, photos, photo_column, text_columns)
    if tables.unclear:
        raise UserError(tables.unclear[0])
    passed = _passed(tables.passed)
    if not tables.used:
        parts = _class_folders(path, photos, photo_column)
        return Local(parts, "; ".join([f"class folders of {path}{_sizes(parts)}", *passed]))
    shards = [file for file in tables.used if _is_shard(file)]
    _check_one_source(path, tables.used, shards, photos)
    parts = _shards(path, shards, photo_column) if shards else _tables(path, tables.used, photo_column, text_columns)
    named = _named(parts, photo_column)
    folders = sorted({photo.parts[0] for photo in photos if len(photo.parts) > 1})
    if shards and not named and len(folders) > 1:
        raise UserError(
            f"{path}: two sources of labels: {_few(shards)} with photos inside, and folders of photos "
            f"({_few(folders)}): name the table as dataset_name, such as {path / shards[0]}, or move it out"
        )
    beside = [path_text(os.path.abspath(path / photo)) for photo in photos]
    return Local(parts, "; ".join([f"{_few(tables.used)} in {path}{_sizes(parts)}", *_unused(beside, named), *passed]))


def photo_files(path: Path, photo_column: str) -> list[Path] | None:
    """The photos below a folder, as relative paths.

    None if it is not a folder, or if a table or a saved data set in it lists the photos.
    """
    if not path.is_dir() or _is_saved(path):
        return None
    files = _files(path)
    photos = _photos(files)
    return None if find_tables(path, files, photos, photo_column, set()).used else photos


def _is_saved(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _photos(files: Iterable[Path]) -> list[Path]:
    return [file for file in files if file.suffix.lower() in PHOTO_SUFFIXES]


def _photos_in(folder: str) -> list[str]:
    """The photos directly in a folder, as absolute paths. All paths are in the form of `path_text`."""
    folder = text_path(folder)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    names = [name for name in _photos(map(Path, names)) if not str(name).startswith(".")]
    return [path_text(os.path.join(folder, name)) for name in names]


def _few(names: Sequence) -> str:
    return few(shown(str(name)) for name in names)


def _sizes(parts: dict[str, Dataset]) -> str:
    """` (test 12, train 28)`, or "" for a single part."""
    sizes = ", ".join(f"{origin} {len(rows)}" for origin, rows in parts.items())
    return f" ({sizes})" if len(parts) > 1 else ""


def _passed(tables: Sequence[tuple[Path, str]]) -> list[str]:
    """Lines about tables that were found but not used."""
    by_reason: dict[str, list[Path]] = {}
    for file, reason in tables:
        by_reason.setdefault(reason, []).append(file)
    return [f"ignored: {_few(files)} ({reason})" for reason, files in by_reason.items()]


def _named(parts: dict[str, Dataset], photo_column: str) -> set[str]:
    """The photo paths in the rows; empty if the rows contain the photos themselves."""
    columns = [rows.data.table.column(photo_column) for rows in parts.values() if photo_column in rows.column_names]
    return {name for column in columns if pa.types.is_string(column.type) for name in column.to_pylist() if name}


def _unused(photos: Sequence[str], named: set[str]) -> list[str]:
    """A line about photos that no table lists, if there are any."""
    unused = sorted(set(photos) - named)
    if not unused:
        return []
    first = os.path.basename(unused[0])
    return [f"{len(unused)} of {len(set(photos))} photos there are not listed in it and are not used ({first}, ...)"]


def _is_shard(file: Path) -> bool:
    return file.suffix.lower() == ".parquet" and file.name.lower() not in METADATA


def _check_one_source(path: Path, tables: list[Path], shards: list[Path], photos: list[Path]) -> None:
    """Raise `UserError` if two tables could list the same photos, or if tables cover only some of the folders."""
    lists = [file for file in tables if file not in shards]
    clash = [(file, other) for file in lists for other in shards[:1]]
    for i, file in enumerate(lists):
        for other in lists[:i]:
            words = {names_split(file.stem), names_split(other.stem)} if file.parent == other.parent else {None}
            apart = None not in words and len(words) == 2  # train.csv and test.csv
            if not apart and (file.is_relative_to(other.parent) or other.is_relative_to(file.parent)):
                clash.append((other, file))
    if clash:
        raise UserError(
            f"{path}: several tables ({_few(sorted(set(clash[0])))}) could give the labels: name one as dataset_name, "
            f"such as {path / min(clash[0])}"
        )
    in_folders = [photo for photo in photos if len(photo.parts) > 1]
    outside = [photo for photo in in_folders if not any(photo.is_relative_to(file.parent) for file in lists)]
    if lists and outside:
        raise UserError(
            f"{path}: two sources of labels: {_few(lists)} for the photos beside it, and folders for {len(outside)} "
            f"others ({outside[0]}, ...): if the folders are the classes, move the table out; if its paths start at "
            f"{path}, move it there; else name it as dataset_name, such as {path / lists[0]}"
        )


def _saved(path: Path) -> dict[str, Dataset]:
    check_name(path.absolute())
    try:
        saved = load_from_disk(str(path))
    except (OSError, ValueError, KeyError, pa.ArrowException, DatasetsError) as error:
        raise UserError(f"{path}: not a complete save_to_disk folder ({error}): save it again") from error
    except IndexError as error:  # datasets writes no file if there are no rows, and then fails to find one
        raise UserError(f"{path}: the data set has no rows") from error
    return dict(saved) if isinstance(saved, DatasetDict) else {WHOLE: saved}


def _split_level(path: Path, photos: list[Path]) -> int | None:
    """Which level of folders is named after splits: 0 (the first), 1 (the second) or None.

    Raises:
        UserError: if some first-level folders are named after splits and others are not.
    """
    below: dict[str, list[Path]] = {}
    for photo in photos:
        if len(photo.parts) > 1:
            below.setdefault(photo.parts[0], []).append(photo)
    deep = {name for name, inside in below.items() if all(len(photo.parts) > 2 for photo in inside)}
    # `seg_train` is a split if it contains class folders; `train_station` with photos in it is a class.
    splits = {name for name in below if names_split(name) or (name in deep and split_word(name))}
    if [name.lower() for name in splits] == ["train"] and len(below) > 1 and not splits & deep:
        splits = set()  # `train` is a class beside other vehicles
    others = sorted(set(below) - splits)
    if splits and others:
        raise UserError(
            f"{path}: folders named after splits ({_few(sorted(splits))}) are beside others ({_few(others)}): move "
            "the others out, or name one folder as dataset_name; if all are classes, rename those named after splits"
        )
    if splits:
        return 0
    inner = {photo.parts[1] if len(photo.parts) > 2 else "" for photo in photos}
    return 1 if len(inner) > 1 and all(map(names_split, inner)) else None


def _class_folders(path: Path, photos: list[Path], photo_column: str) -> dict[str, Dataset]:
    """Rows of class folders: one level of folders is the class, the other, if named after splits, the origin."""
    if not photos:
        raise UserError(
            f"{path}: expected one folder per class, or photos with a CSV of image_path,label; found no photos, "
            "tables or saved data set"
        )
    level = _split_level(path, photos)
    depth = 1 if level is None else 2
    first = {photo.parts[0] for photo in photos}
    if level != 0 and len(first) == 1 and all(len(photo.parts) > 2 for photo in photos):
        raise UserError(
            f"{path}: all photos are below one folder ({first.pop()}), which would be the only class: name the folder "
            "that contains the class folders as dataset_name"
        )
    loose = [photo for photo in photos if len(photo.parts) <= depth]
    if loose:
        raise UserError(
            f"{path}: {len(loose)} photos are not in a class folder ({loose[0]}, ...): put each into a folder named "
            "after its class, or add a CSV of image_path,label"
        )
    parts: dict[str, list[Path]] = {}
    for photo in photos:
        parts.setdefault(WHOLE if level is None else split_word(photo.parts[level]), []).append(photo)
    place = 1 if level == 0 else 0
    if level == 0 and all(photo.parts[0] == photo.parts[1] for photo in photos):
        raise UserError(
            f"{path}: {photos[0].parts[0]} contains only a folder of the same name: move the class folders up one "
            "level"
        )
    rows = {}
    for origin, members in parts.items():
        paths = [path_text(os.path.abspath(path / photo)) for photo in members]
        labels = [path_text(photo.parts[place]) for photo in members]
        rows[origin] = Dataset.from_dict({photo_column: paths, "label": labels})
    return rows


def _tables(path: Path, tables: list[Path], photo_column: str, text_columns: set[str]) -> dict[str, Dataset]:
    """Origin -> rows of the tables.

    The origin is the split named by the first folder, or by the file if a folder has several tables.
    """
    parts: dict[str, dict[str, Dataset]] = {}
    for file in tables:
        several = sum(other.parent == file.parent for other in tables) > 1
        origin = names_split(file.stem if several else file.parts[0]) or WHOLE
        parts.setdefault(origin, {})[str(path / file)] = _table(path / file, photo_column, text_columns)
    return {origin: stacked(list(members.values()), list(members)) for origin, members in parts.items()}


def _table(path: Path, photo_column: str, text_columns: set[str]) -> Dataset:
    """The rows of one table. Its paths are relative to its own folder."""
    if path.suffix.lower() == ".parquet":
        return _shards(path.parent, [Path(path.name)], photo_column)[path_origin(path)]
    return read_table(path, photo_column, text_columns)


def path_origin(file: Path) -> str:
    """The origin of a parquet file, from its name: `data/train-00000-of-00002.parquet` -> `train`."""
    return re.sub(r"\W+", "_", re.sub(r"-\d+-of-\d+(-[0-9a-f]+)?$", "", file.stem)) or WHOLE


def _shards(path: Path, files: list[Path], photo_column: str) -> dict[str, Dataset]:
    """Origin -> rows of parquet files, memory-mapped, with photos inside or as paths relative to the folder."""
    parts: dict[str, list[Path]] = {}
    for file in files:
        check_name((path / file).absolute())
        parts.setdefault(path_origin(file), []).append(path / file)
    try:
        read = read_parquet(parts)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (pa.ArrowException, DatasetsError, ValueError) as error:
        raise UserError(
            f"{path}: cannot read {', '.join(map(str, files[:3]))} as parquet ({error.__cause__ or error})"
        ) from error
    folders = dict.fromkeys([path, *(path / file.parent for file in files)])
    return {origin: _resolved(rows, photo_column, list(folders)) for origin, rows in read.items()}


def _resolved(rows: Dataset, photo_column: str, folders: list[Path]) -> Dataset:
    """The rows with absolute paths, if the photo column has only paths (as `Dataset.to_parquet` writes it)."""
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
    paths = resolved(column.to_pylist(), f"{folders[0]}: column {photo_column!r}", *folders)
    return with_column(rows, photo_column, pa.array(paths, pa.string()), Value("string"))
