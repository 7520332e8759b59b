"""Converts labels in any common notation to class ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from datasets import ClassLabel

from natix_hf.data.sources.columns import as_name
from natix_hf.errors import UserError

_BOOLEANS = {"false": 0, "true": 1}
_WHOLE = re.compile(r"-?\d+")
_NUMBER = re.compile(r"-?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
# A list or dictionary as text: brackets that are empty, or whose content begins with a quote or a number.
_WRITTEN = re.compile(r"""(\[\s*(['"\d.+-].*)?\])|(\{\s*(['"\d.+-].*)?\})""", re.DOTALL)


def class_numbers(
    values: Sequence, feature: Any, label_names: Sequence[str] | None, where: str = "label"
) -> tuple[list[int], list[str]]:
    """Labels as class numbers.

    Args:
        values: one label per row: numbers, text or booleans (also as text).
        feature: the feature of the column in `datasets`. A `ClassLabel` has the names of its ids.
        label_names: the K names. Integers (also as text) are positions in this list, False and True are the first and
            the second name, other labels must be in it. By default the names of the `ClassLabel`, else the distinct
            labels in sorted order (numbers by value).

    Returns:
        `(n,)` class ids and the names, in the form of `as_name`.

    Raises:
        UserError: if labels are missing, unknown or not single values.
    """
    given = None if label_names is None else _checked_names(label_names)
    if isinstance(feature, ClassLabel):
        _refuse_unlabelled(values)
        feature_names = [as_name(name) for name in feature.names]
        named = [None if value is None else feature_names[value] for value in values]
    else:
        _refuse_several(values, given or (), where)
        named = _words([str(value) if isinstance(value, bool) else as_name(value) for value in values], given or ())
        _refuse_fractions(named, given or (), where)
    missing = [row for row, name in enumerate(named) if name is None]
    if missing:
        raise UserError(
            f"{len(missing)} rows have no label (the first is row {missing[0]}): label them or remove them"
        )
    distinct = set(named)
    whole = {name: int(name) for name in distinct if _WHOLE.fullmatch(name)}
    number = _BOOLEANS if distinct <= set(_BOOLEANS) else whole
    numeric = distinct <= set(number)
    if given is not None:
        names = given
    elif isinstance(feature, ClassLabel):
        names = [name for name in dict.fromkeys(feature_names) if name]
    else:
        names = sorted(distinct, key=number.get if numeric else str)
    place = {name: i for i, name in enumerate(names)}
    if given is not None and numeric and not distinct <= set(names):
        place = {name: number[name] for name in distinct if 0 <= number[name] < len(names)}
    outside = sorted(distinct - set(place))
    if outside:
        row = named.index(outside[0])
        raise UserError(
            f"label {outside[0]!r} (row {row}{f' and {len(outside) - 1} other labels' if len(outside) > 1 else ''}) "
            f"is outside label_names: expected one of {', '.join(f'{i}={name}' for i, name in enumerate(names))}"
            + ("; -1 often marks photos without a label: remove them" if "-1" in outside else "")
        )
    return [place[name] for name in named], names


def _words(named: list[str | None], label_names: Sequence[str]) -> list[str | None]:
    """The labels. If all are booleans, they are spelled as in `label_names`, or else in lower case."""
    if not {name.lower() for name in set(named) - {None}} <= set(_BOOLEANS):
        return named
    written = {name.lower(): name for name in label_names}
    return [name and written.get(name.lower(), name.lower()) for name in named]


def _checked_names(label_names: Sequence[str]) -> list[str]:
    names = [as_name(name) for name in label_names]
    if None in names:
        raise UserError(f"label_names: {', '.join(map(repr, label_names))} has an empty name")
    if len(set(names)) != len(names):
        raise UserError(f"label_names: {', '.join(names)} names a class twice")
    return names


def _refuse_unlabelled(values: Sequence[int | None]) -> None:
    """Raise `UserError` if a `ClassLabel` has negative ids."""
    rows = [row for row, value in enumerate(values) if value is not None and value < 0]
    if rows:
        raise UserError(
            f"{len(rows)} rows have no label: their class id is {values[rows[0]]} (the first is row {rows[0]}), as in "
            "the test split of many Hub data sets: label them or remove them"
        )


_ONE = "expected one label per photo, a class name or an integer"


def _refuse_several(values: Sequence, label_names: Sequence[str], where: str) -> None:
    """Raise `UserError` if a label is a list or a dictionary, or one of these as text."""
    for row, value in enumerate(values):
        text = value.strip() if isinstance(value, str) else ""
        written = text[:1] in ("[", "{") and _WRITTEN.fullmatch(text) and as_name(text) not in label_names
        if written or isinstance(value, list | dict):
            what = "dictionary" if isinstance(value, dict) or text.startswith("{") else "list"
            shown = text or str(value)
            raise UserError(
                f"{where}: {_ONE}; found a {what} ({shown if len(shown) <= 60 else f'{shown[:57]}...'}, row {row}): "
                "write one class per photo (several labels per photo and one-hot codes are not supported)"
            )


def _refuse_fractions(names: Sequence[str | None], label_names: Sequence[str], where: str) -> None:
    """Raise `UserError` if all labels are numbers and some are fractions, such as probabilities."""
    distinct = set(names) - {None}
    fractions = {name for name in distinct if not _WHOLE.fullmatch(name)} - set(label_names)
    if fractions and all(map(_NUMBER.fullmatch, distinct)):
        row = next(row for row, name in enumerate(names) if name in fractions)
        raise UserError(
            f"{where}: {_ONE}; found a fraction ({names[row]}, row {row}): write the class instead of a probability "
            "or score; if the fractions are class names, list them in label_names"
        )
