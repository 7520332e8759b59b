"""Finds the tables of paths and labels in a folder, and reads one.

Reads CSV, TSV and text with a header, JSON lines and JSON. Other files that may contain labels (spreadsheets, other
JSON) are recognised by the photo names in them and refused, never silently ignored. `folders.py` reads parquet files
with photos inside. Labels are not interpreted and no photo is opened.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import os
import re
import reprlib
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from datasets import Dataset

from natix_hf.data.sources.columns import check_paths
from natix_hf.errors import UserError
from natix_hf.files import path_text, shown, text_path

# Names of the path column, besides the image column that the user names.
PHOTO_COLUMNS = ("image_path", "file_name")
DIVIDED = (".csv", ".tsv", ".txt")
JSON = (".jsonl", ".ndjson", ".json")
SHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
READ = (*DIVIDED, *JSON, ".parquet")
MENTIONED = 0.1  # a table that names a smaller share of the photos does not describe them
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # names that imagefolder uses
_ELSEWHERE = re.compile(r"(?P<url>[A-Za-z][A-Za-z0-9+.-]+://)|(?P<windows>[A-Za-z]:[\\/]|\\\\)")


@dataclass(frozen=True)
class Tables:
    """The tables below a folder.

    Attributes:
        used: tables with a column of photos, in the order of the folder.
        passed: ignored tables, each with the reason.
        unclear: error messages for tables that seem to contain labels but cannot be used.
    """

    used: list[Path]
    passed: list[tuple[Path, str]]
    unclear: list[str]


def find_tables(
    folder: Path, files: Sequence[Path], photos: Sequence[Path], photo_column: str, text_columns: set[str]
) -> Tables:
    """Examine every file that may be a table of photos.

    Args:
        files: all files, relative to the folder.
        photos: the photos among them.
        text_columns: the columns of ids, labels and groups.
    """
    tables = Tables([], [], [])
    columns = (photo_column, *PHOTO_COLUMNS)
    names = {photo.name for photo in photos}
    names |= {photo.stem for photo in photos if len(photo.stem) > 3 and not photo.stem.isdigit()}
    for file in files:
        suffix, top = file.suffix.lower(), len(file.parts) == 1
        if suffix not in (*READ, *SHEETS) or (suffix in (".txt", ".json") and not top):
            continue  # text and JSON files in sub-folders describe one photo, or nothing
        header = _header(folder / file, top)
        if set(columns) & set(header):
            tables.used.append(file)
        elif not top:
            tables.passed.append((file, "no column of photos"))
        elif {"file", "label"} < set(header) and {"error", "probabilities"} & set(header):
            tables.passed.append((file, "written by natix_hf.predict"))
        elif suffix == ".csv" and not header:
            tables.used.append(file)  # an empty file: reading it raises the error
        elif fault := _fault(folder / file, header, columns, names, text_columns - {"id"}):
            tables.unclear.append(f"{folder / file}: {fault}; if it is not to be used, move it out of {folder}")
        elif suffix not in (".txt", ".json"):
            tables.passed.append((file, "no column of photos"))
    return tables


def _header(file: Path, top: bool) -> list[str]:
    """The column names of a table; empty if they cannot be read."""
    suffix = file.suffix.lower()
    if suffix in SHEETS:
        return []
    if suffix == ".parquet":
        try:
            return pq.read_schema(file).names
        except pa.ArrowException as error:
            if not top:
                return []
            raise UserError(f"{file}: cannot read {file.name} as parquet ({error})") from error
    text = _decoded(file.read_bytes(), errors="replace")
    if suffix in DIVIDED:
        return next(_cells(text), [])
    try:
        return _columns(_records(text))
    except (json.JSONDecodeError, TypeError):
        return []


def _fault(file: Path, header: list[str], columns: Sequence[str], names: set[str], wanted: set[str]) -> str | None:
    """What is wrong with a table without a photo column, or None if it describes neither labels nor these photos."""
    suffix, known = file.suffix.lower(), names & _words(file)
    known = known if len(known) >= MENTIONED * len(names) else set()
    if suffix in SHEETS:
        return "a spreadsheet that names these photos: save it as CSV (UTF-8)" if known else None
    if suffix in JSON and (not header or known & set(map(os.path.basename, header))):
        return f"names these photos, but {_NO_RECORDS}" if known else None
    words = [*header, *header[0].split()] if header else []
    if known & set(map(os.path.basename, words)):  # a plain list of photos has no labels
        first = ",".join(header)
        alone = os.path.basename(first) in names
        return None if alone else f"its first line is a photo ({first}), not a header: write image_path,label above it"
    labelled = wanted & set(header) if len(header) > 1 else set()
    if not known and not labelled:
        return None
    return _no_photos(columns[0], header) + ("" if labelled else " and label_column_name")


def _no_photos(photo_column: str, header: Sequence[str]) -> str:
    return (
        f"no column {photo_column!r}, {' or '.join(map(repr, PHOTO_COLUMNS))} with the photos' paths; it has "
        f"{', '.join(header)}: rename one, or set image_column_name"
    )


_NO_RECORDS = (
    'it is neither a list of records such as [{"image_path": "a.jpg", "label": "None"}] nor one record per line'
)


def _words(file: Path) -> set[str]:
    """All words in a file that may be names of photos."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        table = pq.ParquetFile(file)
        plain = [field.name for field in table.schema_arrow if pa.types.is_string(field.type)]
        rows = table.read(columns=plain)
        return {os.path.basename(value) for name in plain for value in rows.column(name).to_pylist() if value}
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as parts:
            contents = [parts.read(name) for name in parts.namelist() if name.endswith(".xml")]
        return set().union(*(_split(content.decode(errors="replace")) for content in contents))
    raw = file.read_bytes()
    if suffix in SHEETS:  # the old binary format stores text as Latin-1 or UTF-16
        words = re.findall(rb"[\w .()-]{3,}", raw) + re.findall(rb"[\w .()-]{3,}", raw.replace(b"\0", b""))
        return {word.decode(errors="replace").strip() for word in words}
    return _split(_decoded(raw, errors="replace"))


def _split(text: str) -> set[str]:
    """The words of a text that may be file names, with and without spaces in them."""
    parts = {part.strip() for part in re.split(r"[,;|\t\r\n\"'<>/\\\[\]{}]+", text)}
    return parts | {word for part in parts for word in part.split()}


def read_table(path: Path, photo_column: str, text_columns: set[str]) -> Dataset:
    """Read one text table. Its paths are relative to its own folder.

    Args:
        path: of a type in `DIVIDED` or `JSON`.
        text_columns: CSV columns to read as text (ids, groups, labels).

    Raises:
        UserError: if it has another type, cannot be read, has no rows or no photo column, or has paths of another
            machine.
    """
    suffix = path.suffix.lower()
    if suffix in SHEETS:
        raise UserError(f"{path}: a spreadsheet: save it as CSV (UTF-8) and use that")
    if suffix not in (*DIVIDED, *JSON):
        raise UserError(f"{path}: expected a folder, or a {', '.join(READ[:-1])} or {READ[-1]} file")
    try:
        text = _decoded(path.read_bytes())
        if suffix in DIVIDED:
            table = _from_cells(text, {photo_column, *PHOTO_COLUMNS, *text_columns})
        else:
            table = _from_records(_records(text))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}: cannot be read as {suffix[1:]} in UTF-8 (line {line} has the byte "
            f"{error.object[error.start]:#04x}, perhaps a letter in Latin-1 or Windows-1252): save it in UTF-8 (in "
            "Excel: CSV UTF-8)"
        ) from error
    except (pa.ArrowException, csv.Error, json.JSONDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read as {suffix[1:]} in UTF-8 ({error})" + f": {_NO_RECORDS}" * (suffix == ".json")
        ) from error
    except TypeError:
        raise UserError(f"{path}: {_NO_RECORDS}") from None
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise UserError(f"{path}: {table.column_names.count(twice[0])} columns are called {twice[0]!r}: rename one")
    if not table.num_rows:
        raise UserError(f"{path}: the table has no rows")
    column = next((name for name in (photo_column, *PHOTO_COLUMNS) if name in table.column_names), None)
    if column is None:
        raise UserError(f"{path}: {_no_photos(photo_column, table.column_names)}")
    paths = resolved(table.column(column).to_pylist(), f"{path}: column {column!r}", path.parent)
    return Dataset(table.set_column(table.column_names.index(column), photo_column, pa.array(paths, pa.string())))


def _from_records(rows: list[dict]) -> pa.Table:
    """A table with a column for each key; a record without it has a missing value."""
    names = _columns(rows)
    return pa.Table.from_pylist([{name: _text(row.get(name)) for name in names} for row in rows])


def _text(value: object) -> object:
    return shown(value) if isinstance(value, str) else value


def _decoded(raw: bytes, errors: str = "strict") -> str:
    """Decode UTF-8, or UTF-16 (Excel's "Unicode text") if a byte-order mark or a zero byte at the start shows it."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", errors)
    if b"\0" in raw[:2]:
        return raw.decode("utf-16-be" if raw[0] == 0 else "utf-16-le", errors)
    return raw.decode("utf-8-sig", errors)


def _cells(text: str):
    """The rows of a text table as lists of stripped cells.

    The delimiter is a comma. If that gives a single column, it is a semicolon, tab or bar.
    """
    csv.field_size_limit(2**31 - 1)
    text = re.sub(r"\Asep=.[\r\n]+", "", text)  # names the delimiter, for Excel only
    header = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    divided = (mark for mark in ",;\t|" if len(next(csv.reader([header], delimiter=mark), "")) > 1)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=next(divided, ","), skipinitialspace=True)
    return ([cell.strip() for cell in row] for row in rows if row)


def _from_cells(text: str, text_columns: set[str]) -> pa.Table:
    """A table in which only empty fields are missing values: `None`, `NA` and `null` are ordinary words."""
    plain = io.StringIO(newline="")
    csv.writer(plain, lineterminator="\n").writerows(_cells(text))
    convert = pyarrow.csv.ConvertOptions(
        null_values=[""],
        strings_can_be_null=True,
        column_types=dict.fromkeys(text_columns, pa.string()),
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return pyarrow.csv.read_csv(io.BytesIO(plain.getvalue().encode()), parse_options=parse, convert_options=convert)


def _records(text: str) -> list[dict]:
    """The records of JSON lines or of one JSON list.

    Raises:
        json.JSONDecodeError: if it is not JSON.
        TypeError: if it is JSON but contains something else.
    """
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise TypeError
    return rows


def _columns(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def resolved(names: Sequence, where: str, *folders: Path) -> list[str | None]:
    """The absolute paths of photos that a table names.

    Args:
        names: the paths in the table.
        where: the table and its column, for messages.
        folders: folders that the paths may be relative to.

    Raises:
        UserError: for URLs and Windows paths, and if none of the photos exists.
    """
    check_paths(names, where)
    for row, name in enumerate(names):
        if name is not None and not isinstance(name, str):
            raise UserError(f"{where}: expected the path of a photo, found {reprlib.repr(name)} (row {row})")
        if name and (match := _ELSEWHERE.match(name)):
            url = match["url"] is not None
            what = "a URL" if url else "a Windows path"
            mend = "download the photos and write their paths" if url else "write paths relative to the table's folder"
            raise UserError(f"{where} has {name!r} (row {row}), {what}: {mend}, such as images/a.jpg")
    paths = [resolve(name, *folders) for name in names]
    if any(paths) and not any(path and os.path.isfile(text_path(path)) for path in paths):
        first = next(filter(None, paths))
        raise UserError(
            f"{where}: none of its {len(paths)} photos exists, the first would be {first}: write paths relative to "
            "the table's folder, such as images/a.jpg"
        )
    return paths


def resolve(name: str | None, *folders: Path) -> str | None:
    """The absolute path of a photo that a table names, as `path_text`.

    The path is relative to one of the folders or to `images/` in it, with slashes or backslashes. If no such file
    exists, the result is the first candidate.
    """
    if name is None:
        return None
    names = dict.fromkeys((name, name.replace("\\", "/")))
    places = itertools.product(names, folders, ("", "images"))
    guesses = [text_path(Path(folder, inner, one)) for one, folder, inner in places]
    return path_text(os.path.abspath(next((guess for guess in guesses if os.path.isfile(guess)), guesses[0])))
