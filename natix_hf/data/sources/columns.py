"""What a source's columns mean: values by name, numbers as the names that they stand for, groups as text. Knows
neither photos nor splits."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetInfo, Features, LargeList, List, Value

from natix_hf.errors import UserError

_WHOLE_FLOAT = re.compile(r"(-?(?:0|[1-9]\d*))\.0+")
# The first letters of JPEG, PNG, GIF and WebP files in base64, or of a link that holds one.
_BASE64 = re.compile(r"data:image/|/9j/|iVBORw0KGgo|R0lGOD|UklGR")
_LONGEST_PATH = 4096
# Soft hyphen, zero-width space and joiner of words, marks of direction and of byte order.
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))


def positive_class(label_names: Sequence[str], label: str | None) -> int:
    """The id of the class that is called positive; without a label 1.

    Raises:
        UserError: no class has this name.
    """
    if (name := as_name(label)) is None:
        return 1
    if name not in label_names:
        raise UserError(f"positive_label {name}: the classes are {', '.join(label_names)}")
    return list(label_names).index(name)


def column_value(row: dict, key: str) -> Any:
    """A value of a row: the column of exactly that name (NATIX has dots in flat names), else the path of that name
    into structs.

    Returns:
        The value; None where a struct on the way is null.

    Raises:
        KeyError: if there is neither.
    """
    if key in row:
        return row[key]
    value: Any = row
    for name in key.split("."):
        if value is None:
            return None
        value = value[name]
    return value


def has_column(data: Dataset, key: str) -> bool:
    """Whether the rows have a column of exactly that name, or a path of that name into structs."""
    if key in data.column_names:
        return True
    feature: Any = data.features
    for name in key.split("."):
        if not isinstance(feature, dict) or name not in feature:
            return False
        feature = feature[name]
    return True


def column_values(data: Dataset, key: str, what: str) -> list:
    """That value of every row, without touching other columns; numbers that stand for names (`ClassLabel`, also within
    structs and lists) as these names, None for a number without one (-1).

    Args:
        key: name of a column, or dotted path into one.
        what: the recipe's key that named it, for the message.

    Raises:
        UserError: if there is no such column, with those there are.
    """
    top = key if key in data.column_names else key.split(".")[0]
    if top in data.column_names:
        named = _naming(data.features[top]) or (lambda value: value)
        try:
            return [column_value({top: named(value)}, key) for value in data[top][:]]
        except (KeyError, TypeError):
            pass
    raise UserError(f"{what}: no column {key!r}; there are {', '.join(data.column_names)}")


def _naming(feature: Any) -> Callable[[Any], Any] | None:
    """How values become the names that they stand for; None where they stand for none."""
    if isinstance(feature, ClassLabel):
        return lambda value: feature.names[value] if value is not None and 0 <= value < len(feature.names) else None
    if isinstance(feature, List | LargeList):
        inner = _naming(feature.feature)
        return inner and (lambda value: None if value is None else [inner(part) for part in value])
    if isinstance(feature, dict):
        fields = {name: naming for name, part in feature.items() if (naming := _naming(part))}
        if fields:
            return lambda value: value and value | {name: naming(value[name]) for name, naming in fields.items()}
    return None


def names_in(feature: Any, path: str = "") -> dict[str, tuple[str, ...]]:
    """What numbers stand for: column, or dotted path into one -> the names of 0, 1, 2, ..."""
    if isinstance(feature, ClassLabel):
        return {path: tuple(feature.names)}
    if isinstance(feature, List | LargeList):
        return names_in(feature.feature, path)
    found = {}
    for name, part in feature.items() if isinstance(feature, dict) else ():
        found |= names_in(part, f"{path}.{name}" if path else name)
    return found


def as_text(value: Any) -> str | None:
    """A label, group or tag as text; 3.0 is 3, since a missing value turns whole numbers into floats. None for a
    missing one."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def as_name(value: Any) -> str | None:
    """A label, group or tag in one writing, so that two of them differ only where a reader sees it: without outer and
    double spaces, composed (NFC), `3.0` as `3`. None for a missing one."""
    text = as_text(value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value)
    return None if text is None else _one_writing(text)


@lru_cache(1 << 16)
def _one_writing(text: str) -> str | None:
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.translate(_INVISIBLE))
    text = " ".join(text.split())
    whole = _WHOLE_FLOAT.fullmatch(text)
    return str(int(whole[1])) if whole else text or None


def differing_by_case(names: Sequence[str | None]) -> list[list[str]]:
    """The names that differ by case alone, those of one word together, in sorted order."""
    found: dict[str, list[str]] = {}
    for name in sorted(set(names) - {None}):
        found.setdefault(name.casefold(), []).append(name)
    return [alike for alike in found.values() if len(alike) > 1]


def check_paths(values: Sequence, where: str) -> None:
    """Raise where the paths of photos are the photos themselves, in base64.

    Args:
        values: what a table holds in place of paths; other than text is let through.
    """
    for row, value in enumerate(values):
        if isinstance(value, str) and len(value) > 200 and (_BASE64.match(value) or len(value) > _LONGEST_PATH):
            raise UserError(
                f"{where} holds a text of {len(value):,} letters (row {row}: {value[:30]}...), where a path or the "
                "bytes of a photo are expected; if it is base64, decode it first (base64.b64decode in Python) and "
                "write files or bytes"
            )


def group_names(values: Mapping[str, Sequence[str | None]], ids: Sequence[str]) -> list[str]:
    """The group of each row as one name: its value, of several columns `<column>=<value>` of the first that has one; a
    row without any is its own group, `row:<id>`.

    Args:
        values: group column -> `(n,)` values as text, None where there is none.
        ids: `(n,)` ids.
    """
    names = [f"row:{i}" for i in ids]
    for column, found in reversed(values.items()):
        front = f"{column}=" if len(values) > 1 else ""
        names = [name if value is None else front + value for name, value in zip(names, found)]
    return names


def with_text(data: Dataset, column: str, values: Sequence[str]) -> Dataset:
    """The same rows with other text in a column, `(n,)` values; nothing else is copied, photos neither."""
    whole = np.full(len(data.data.table), None, dtype=object)
    rows = np.arange(len(data)) if data._indices is None else data._indices.column(0).to_numpy()
    whole[rows] = np.asarray(values, dtype=object)
    return with_column(data, column, pa.array(whole, pa.string()), Value("string"))


def with_column(data: Dataset, column: str, values: pa.Array | pa.ChunkedArray, feature: Any) -> Dataset:
    """The same rows with other values in a column of the table below them, `(rows of that table,)`."""
    table = data.data.table
    table = table.set_column(table.column_names.index(column), column, values)
    features = Features({**data.features, column: feature})
    return Dataset(table, info=DatasetInfo(features=features), indices_table=data._indices)
