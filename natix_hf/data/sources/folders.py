"""Finds out how a local folder or file holds its photos, and reads it as raw tables, one for each part ("origin")
that it is divided in.

Forms: class folders, also below or above folders that name splits; a table of paths beside the photos (CSV, TSV,
JSON lines, ...), also one in each folder as imagefolder has it; parquet files; `save_to_disk`. Labels come from one
of these: where two could give them, the folder is refused. Written here rather than left to `datasets`' imagefolder
because that reads the class name `None` as a missing value and forgets where in the folder a photo lay. This file
does not interpret labels or groups and opens no photo.
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

# heic, heif and jxl stand here although Pillow cannot read them: such photos are to be named as unreadable, not
# passed over in silence.
_SUFFIXES = "jpg jpeg jpe jfif mpo png apng webp bmp dib gif tif tiff tga ppm pgm pbm pnm jp2 j2k jpx avif"
_SUFFIXES += " heic heif jxl"
PHOTO_SUFFIXES = frozenset(f".{name}" for name in _SUFFIXES.split())
# Folders that systems make by themselves, in small letters: copies, previews and what was deleted.
SYSTEM_FOLDERS = frozenset(
    (
        *("__macosx", "@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "$recycle.bin"),
        *("recycler", "system volume information", "found.000", "lost+found", "thumbnails", "thumbs"),
    )
)
# What lies in the folders that this package writes: runs, splits, range tests.
WRITTEN = ({"run.json", "splits.json"}, {"splits.json", "SPLITS.md"}, {"find_lr.json"})
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
        folders[:] = sorted(name for name in folders if not (name.startswith(".") or name.lower() in SYSTEM_FOLDERS))
        found += [Path(parent, name).relative_to(folder) for name in names if not name.startswith(".")]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


@dataclass(frozen=True)
class Local:
    """A folder or file as it was read.

    Attributes:
        parts: origin -> rows; photos are in the column that the user names, paths are absolute.
        told: one line: what gave the labels, which photos stay unused, which tables were passed over.
    """

    parts: dict[str, Dataset]
    told: str


def read_local(path: Path, photo_column: str, text_columns: set[str]) -> Local:
    """Read a folder or a file in any of the forms above.

    Args:
        path: an existing file or folder.
        text_columns: columns of a CSV that are text whatever they look like (ids, groups, labels).

    Raises:
        UserError: if the folder is empty, of no known form, divided in splits and something else, or has two sources
            of labels; if a table cannot be read.
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
    """The photos below a folder that holds nothing but photos, relative to it; None where there is a table, a saved
    data set or no folder, so that something else says what the photos are."""
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
    """The photos that lie directly in a folder, as absolute paths; `folder` and they as `path_text`."""
    folder = text_path(folder)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    names = [name for name in _photos(map(Path, names)) if not str(name).startswith(".")]
    return [path_text(os.path.join(folder, name)) for name in names]


def _few(names: Sequence) -> str:
    return few(shown(str(name)) for name in names)


def _sizes(parts: dict[str, Dataset]) -> str:
    """` (test 12, train 28)`; nothing where there are no parts."""
    sizes = ", ".join(f"{origin} {len(rows)}" for origin, rows in parts.items())
    return f" ({sizes})" if len(parts) > 1 else ""


def _passed(tables: Sequence[tuple[Path, str]]) -> list[str]:
    """The tables that were looked into and not used, in words."""
    by_reason: dict[str, list[Path]] = {}
    for file, reason in tables:
        by_reason.setdefault(reason, []).append(file)
    return [f"passed over: {_few(files)} ({reason})" for reason, files in by_reason.items()]


def _named(parts: dict[str, Dataset], photo_column: str) -> set[str]:
    """The paths of photos in some rows; none where the photos are inside."""
    columns = [rows.data.table.column(photo_column) for rows in parts.values() if photo_column in rows.column_names]
    return {name for column in columns if pa.types.is_string(column.type) for name in column.to_pylist() if name}


def _unused(photos: Sequence[str], named: set[str]) -> list[str]:
    """How many photos a table does not name, in words."""
    unused = sorted(set(photos) - named)
    if not unused:
        return []
    first = os.path.basename(unused[0])
    return [f"{len(unused)} of {len(set(photos))} photos there are not in it and stay unused ({first}, ...)"]


def _is_shard(file: Path) -> bool:
    return file.suffix.lower() == ".parquet" and file.name.lower() not in METADATA


def _check_one_source(path: Path, tables: list[Path], shards: list[Path], photos: list[Path]) -> None:
    """Raise where two tables are about the same photos, or tables about one part of the folders alone."""
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
            f"{path}: several tables ({_few(sorted(set(clash[0])))}) could give the labels; name one as dataset_name, "
            f"such as {path / min(clash[0])}"
        )
    outside = [
        photo
        for photo in photos
        if lists and len(photo.parts) > 1 and not any(photo.is_relative_to(file.parent) for file in lists)
    ]
    if outside:
        raise UserError(
            f"{path}: two sources of labels: {_few(lists)} for the photos beside it, and folders for {len(outside)} "
            f"others ({outside[0]}, ...): move the table out where the folders are the classes, and to {path} where "
            f"its paths begin there, else name it as dataset_name, such as {path / lists[0]}"
        )


def _saved(path: Path) -> dict[str, Dataset]:
    check_name(path.absolute())
    try:
        saved = load_from_disk(str(path))
    except (OSError, ValueError, KeyError, pa.ArrowException, DatasetsError) as error:
        raise UserError(f"{path}: not a whole save_to_disk folder ({error}); save it again") from error
    except IndexError as error:  # datasets writes no file for no rows, and then finds none
        raise UserError(f"{path}: the data set has no rows") from error
    return dict(saved) if isinstance(saved, DatasetDict) else {WHOLE: saved}


def _split_level(path: Path, photos: list[Path]) -> int | None:
    """Which folders on the way to a photo name splits: 0 the first, 1 the second; None: no folder does.

    Raises:
        UserError: some first folders name splits and others do not.
    """
    below: dict[str, list[Path]] = {}
    for photo in photos:
        if len(photo.parts) > 1:
            below.setdefault(photo.parts[0], []).append(photo)
    deep = {name for name, inside in below.items() if all(len(photo.parts) > 2 for photo in inside)}
    # `seg_train` names a split where it holds folders of classes; `train_station` with photos in it is a class.
    splits = {name for name in below if names_split(name) or (name in deep and split_word(name))}
    if [name.lower() for name in splits] == ["train"] and len(below) > 1 and not splits & deep:
        splits = set()  # a class of trains beside other vehicles
    others = sorted(set(below) - splits)
    if splits and others:
        raise UserError(
            f"{path}: folders that name splits ({_few(sorted(splits))}) lie beside others ({_few(others)}): move the "
            "others out of it, or name one folder as dataset_name; if all are classes, rename the first"
        )
    if splits:
        return 0
    inner = {photo.parts[1] if len(photo.parts) > 2 else "" for photo in photos}
    return 1 if len(inner) > 1 and all(map(names_split, inner)) else None


def _class_folders(path: Path, photos: list[Path], photo_column: str) -> dict[str, Dataset]:
    """The class is the first folder; where first folders name splits, they are the origin and the second is the
    class, and the other way round."""
    if not photos:
        raise UserError(
            f"{path}: no photos, tables or saved data set in this folder; expected one folder per class, or photos "
            "with a CSV of image_path,label"
        )
    level = _split_level(path, photos)
    depth = 1 if level is None else 2
    first = {photo.parts[0] for photo in photos}
    if level != 0 and len(first) == 1 and all(len(photo.parts) > 2 for photo in photos):
        raise UserError(
            f"{path}: all photos lie below one folder ({first.pop()}), so there would be one class: name the folder "
            "that holds the folders of the classes as dataset_name"
        )
    loose = [photo for photo in photos if len(photo.parts) <= depth]
    if loose:
        raise UserError(
            f"{path}: {len(loose)} photos lie in no class folder ({loose[0]}, ...); put each into a folder named "
            "after its class, or add a CSV of image_path,label"
        )
    parts: dict[str, list[Path]] = {}
    for photo in photos:
        parts.setdefault(WHOLE if level is None else split_word(photo.parts[level]), []).append(photo)
    place = 1 if level == 0 else 0
    if level == 0 and all(photo.parts[0] == photo.parts[1] for photo in photos):
        raise UserError(
            f"{path}: {photos[0].parts[0]} holds a folder of the same name and no other: move the folders of the "
            "classes up by one"
        )
    return {
        origin: Dataset.from_dict(
            {
                photo_column: [path_text(os.path.abspath(path / photo)) for photo in members],
                "label": [path_text(photo.parts[place]) for photo in members],
            }
        )
        for origin, members in parts.items()
    }


def _tables(path: Path, tables: list[Path], photo_column: str, text_columns: set[str]) -> dict[str, Dataset]:
    """One or more tables; a first folder that names a split is the origin, of several in one folder their names."""
    parts: dict[str, dict[str, Dataset]] = {}
    for file in tables:
        several = sum(other.parent == file.parent for other in tables) > 1
        origin = names_split(file.stem if several else file.parts[0]) or WHOLE
        parts.setdefault(origin, {})[str(path / file)] = _table(path / file, photo_column, text_columns)
    return {origin: stacked(list(members.values()), list(members)) for origin, members in parts.items()}


def _table(path: Path, photo_column: str, text_columns: set[str]) -> Dataset:
    """One table of any kind, paths resolved from its own folder."""
    if path.suffix.lower() == ".parquet":
        return _shards(path.parent, [Path(path.name)], photo_column)[path_origin(path)]
    return read_table(path, photo_column, text_columns)


def path_origin(file: Path) -> str:
    """What a parquet file holds, by its name without shard numbers: `data/train-00000-of-00002.parquet` -> `train`."""
    return re.sub(r"\W+", "_", re.sub(r"-\d+-of-\d+(-[0-9a-f]+)?$", "", file.stem)) or WHOLE


def _shards(path: Path, files: list[Path], photo_column: str) -> dict[str, Dataset]:
    """Parquet files, memory-mapped; photos inside, or as paths from the folder."""
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
    paths = resolved(column.to_pylist(), f"{folders[0]}: column {photo_column!r}", *folders)
    return with_column(rows, photo_column, pa.array(paths, pa.string()), Value("string"))
