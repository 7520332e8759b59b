"""What a source's columns mean: values by name, labels as class numbers, groups as text. Knows neither photos nor
splits."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetInfo

from natix_hf.errors import UserError

_WHOLE_NUMBER = re.compile(r"-?\d+")


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
    """That value of every row, without touching other columns.

    Args:
        data: any rows.
        key: name of a column, or dotted path into one.
        what: the recipe's key that named it, for the message.

    Raises:
        UserError: if there is no such column, with those there are.
    """
    top = key if key in data.column_names else key.split(".")[0]
    if top in data.column_names:
        try:
            return [column_value({top: value}, key) for value in data[top][:]]
        except (KeyError, TypeError):
            pass
    raise UserError(f"{what}: no column {key!r}; there are {', '.join(data.column_names)}")


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


def class_numbers(values: Sequence, feature: Any, label_names: Sequence[str] | None) -> tuple[list[int], list[str]]:
    """Labels as class numbers.

    Args:
        values: one label per row: numbers or text.
        feature: what `datasets` knows of the column; a `ClassLabel` gives the names of its numbers.
        label_names: the K names. Numbers (also as text) are places in this list, other labels must be in it. Without
            it the names are the ClassLabel's, else the distinct labels in sorted order (numbers by value).

    Returns:
        `(n,)` class numbers and the names.

    Raises:
        UserError: for missing labels and labels outside the mapping.
    """
    if isinstance(feature, ClassLabel):
        named = [
            feature.names[value] if value is not None and 0 <= value < len(feature.names) else None for value in values
        ]
    else:
        named = [as_text(value) for value in values]
    missing = [row for row, name in enumerate(named) if name is None]
    if missing:
        raise UserError(
            f"{len(missing)} rows have no label (the first is row {missing[0]}): label them or take them out"
        )
    found = set(named)
    numeric = all(_WHOLE_NUMBER.fullmatch(name) for name in found)
    if label_names is None:
        names = list(feature.names) if isinstance(feature, ClassLabel) else sorted(found, key=int if numeric else str)
        place = {name: i for i, name in enumerate(names)}
    else:
        names = list(label_names)
        if len(set(names)) != len(names):
            raise UserError(f"label_names: {', '.join(names)} names a class twice")
        place = {name: i for i, name in enumerate(names)}
        if numeric and not found <= set(names):
            place = {name: int(name) for name in found if 0 <= int(name) < len(names)}
    outside = sorted(found - set(place))
    if outside:
        row = named.index(outside[0])
        raise UserError(
            f"label {outside[0]!r} (row {row}{f' and {len(outside) - 1} other labels' if len(outside) > 1 else ''}) "
            f"is outside label_names: expected one of {', '.join(f'{i}={name}' for i, name in enumerate(names))}"
        )
    return [place[name] for name in named], names


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
    table = data.data.table
    whole = np.full(len(table), None, dtype=object)
    rows = np.arange(len(data)) if data._indices is None else data._indices.column(0).to_numpy()
    whole[rows] = np.asarray(values, dtype=object)
    table = table.set_column(table.column_names.index(column), column, pa.array(whole, pa.string()))
    return Dataset(table, info=DatasetInfo(features=data.features), indices_table=data._indices)
