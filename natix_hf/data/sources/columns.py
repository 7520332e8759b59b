"""Reads columns of a source: values by name, class ids as names, groups as text."""

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
# How JPEG, PNG, GIF and WebP files begin in base64 or as a data URL.
_BASE64 = re.compile(r"data:image/|/9j/|iVBORw0KGgo|R0lGOD|UklGR")
_LONGEST_PATH = 4096
# Soft hyphen, zero-width space, word joiner, direction marks and byte-order mark.
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))


def positive_class(label_names: Sequence[str], label: str | None) -> int:
    """The id of the positive class, by default 1.

    Raises:
        UserError: if no class has this name.
    """
    if (name := as_name(label)) is None:
        return 1
    if name not in label_names:
        raise UserError(f"positive_label {name}: the classes are {', '.join(label_names)}")
    return list(label_names).index(name)


def column_value(row: dict, key: str) -> Any:
    """A value of a row, by column name (NATIX has dots in column names) or else by path into structs.

    Returns:
        The value; None if a struct on the path is null.

    Raises:
        KeyError: if there is no such column or path.
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
    """Whether the rows have a column of this name, or such a path into structs."""
    if key in data.column_names:
        return True
    feature: Any = data.features
    for name in key.split("."):
        if not isinstance(feature, dict) or name not in feature:
            return False
        feature = feature[name]
    return True


def column_values(data: Dataset, key: str, what: str) -> list:
    """The value of every row, without reading other columns.

    `ClassLabel` ids, also within structs and lists, become names; an id without a name (-1) becomes None.

    Args:
        key: name of a column, or dotted path into one.
        what: the recipe key that names the column, for the message.

    Raises:
        UserError: if there is no such column. The message lists the columns.
    """
    top = key if key in data.column_names else key.split(".")[0]
    if top in data.column_names:
        named = _naming(data.features[top]) or (lambda value: value)
        try:
            return [column_value({top: named(value)}, key) for value in data[top][:]]
        except (KeyError, TypeError):
            pass
    raise UserError(f"{what}: no column {key!r}: the columns are {', '.join(data.column_names)}")


def _naming(feature: Any) -> Callable[[Any], Any] | None:
    """A function that replaces class ids by names, or None if the feature has no class ids."""
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
    """The names of class ids: column, or dotted path into one -> names of 0, 1, 2, ..."""
    if isinstance(feature, ClassLabel):
        return {path: tuple(feature.names)}
    if isinstance(feature, List | LargeList):
        return names_in(feature.feature, path)
    names = {}
    for name, part in feature.items() if isinstance(feature, dict) else ():
        names |= names_in(part, f"{path}.{name}" if path else name)
    return names


def as_text(value: Any) -> str | None:
    """A label, group or tag as text, None if missing.

    3.0 becomes `3`, because a missing value in a column turns its integers into floats.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def as_name(value: Any) -> str | None:
    """A label, group or tag in normal form, so that different names look different. None if missing.

    Surrounding and double spaces are removed, characters are composed (NFC) and `3.0` becomes `3`.
    """
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
    """Sets of names that differ only in case, in sorted order."""
    spellings: dict[str, list[str]] = {}
    for name in sorted(set(names) - {None}):
        spellings.setdefault(name.casefold(), []).append(name)
    return [alike for alike in spellings.values() if len(alike) > 1]


def check_paths(values: Sequence, where: str) -> None:
    """Raise `UserError` if the paths of photos are in fact photos in base64.

    Args:
        values: the path column of a table. Values other than text are not checked.
    """
    for row, value in enumerate(values):
        if isinstance(value, str) and len(value) > 200 and (_BASE64.match(value) or len(value) > _LONGEST_PATH):
            raise UserError(
                f"{where}: expected a path or the bytes of a photo, found a text of {len(value):,} characters in row "
                f"{row} ({value[:30]}...): if it is base64, decode it first (base64.b64decode in Python) and write "
                "files or bytes"
            )


def group_names(values: Mapping[str, Sequence[str | None]], ids: Sequence[str]) -> list[str]:
    """The group name of each row.

    With one group column it is the row's value. With several it is `<column>=<value>` of the first column that has a
    value. A row without a value is its own group, `row:<id>`.

    Args:
        values: group column -> `(n,)` values as text, None if missing.
        ids: `(n,)` ids.
    """
    names = [f"row:{i}" for i in ids]
    for column, of_column in reversed(values.items()):
        front = f"{column}=" if len(values) > 1 else ""
        names = [name if value is None else front + value for name, value in zip(names, of_column)]
    return names


def with_text(data: Dataset, column: str, values: Sequence[str]) -> Dataset:
    """The rows with other texts `(n,)` in a column. Photos and other columns are not copied."""
    whole = np.full(len(data.data.table), None, dtype=object)
    rows = np.arange(len(data)) if data._indices is None else data._indices.column(0).to_numpy()
    whole[rows] = np.asarray(values, dtype=object)
    return with_column(data, column, pa.array(whole, pa.string()), Value("string"))


def with_column(data: Dataset, column: str, values: pa.Array | pa.ChunkedArray, feature: Any) -> Dataset:
    """The rows with other values in a column: one value per row of the underlying table."""
    table = data.data.table
    table = table.set_column(table.column_names.index(column), column, values)
    features = Features({**data.features, column: feature})
    return Dataset(table, info=DatasetInfo(features=features), indices_table=data._indices)
