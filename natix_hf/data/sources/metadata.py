"""Reads metadata of photos: where and when they were taken, tags and descriptions.

Columns in any common notation become arrays and texts.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time
from typing import Any

import numpy as np
from datasets import Dataset

from natix_hf.data.sources.columns import as_name, as_text, column_values, positive_class
from natix_hf.errors import UserError

UNKNOWN = "unknown"  # the category of a row without a tag
_LATITUDE = ("lat", "latitude")
_LONGITUDE = ("lon", "lng", "long", "longitude")
_LAST_SECOND = 253_402_300_799  # the end of the year 9999; larger numbers are not in seconds


def places(data: Dataset, column: str) -> np.ndarray:
    """Where each photo was taken.

    Args:
        column: holds `[lat, lon]` as a list or as its text, `"lat,lon"`, or a struct with `lat` and `lon`
            (`latitude`, `longitude`, `lng`).

    Returns:
        `(n, 2)` float64 latitude and longitude in degrees, NaN where missing. `0, 0` counts as missing: it is in the
        ocean, and receivers without a fix write it.

    Raises:
        UserError: if a value is not a place on earth. The message names the row.
    """
    expected = "latitude (-90 to 90) and longitude (-180 to 180) in degrees, such as [39.7, -86.1]"
    return _numbers(data, column, "gps", _place, expected).reshape(-1, 2)


def _numbers(data: Dataset, column: str, what: str, read: Callable[[Any], Any], expected: str) -> np.ndarray:
    """Each row's value converted by `read`, as float64. `UserError` with the row if it fails."""
    numbers = []
    for row, value in enumerate(column_values(data, column, what)):
        try:
            numbers.append(read(value))
        except (ValueError, TypeError):
            raise UserError(
                f"{column}: row {row}: expected {expected}; found {value!r}: correct or empty it"
            ) from None
    return np.array(numbers, dtype=np.float64)


def _place(value: Any) -> tuple[float, float]:
    nowhere = (math.nan, math.nan)
    if isinstance(value, str):
        parts = [part.strip() for part in value.strip("[]() ").split(",")]
        value = [None if part in ("", "None", "null") else part for part in parts]
    if isinstance(value, dict):
        value = [next((value[name] for name in names if name in value), "") for names in (_LATITUDE, _LONGITUDE)]
    if value is None or all(part is None for part in value):
        return nowhere
    latitude, longitude = (float(part) for part in value)
    if (math.isnan(latitude) and math.isnan(longitude)) or latitude == longitude == 0:
        return nowhere
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise ValueError
    return latitude, longitude


def times(data: Dataset, column: str) -> np.ndarray:
    """When each photo was taken.

    Args:
        column: holds seconds since 1970 (also as text), dates, ISO text, or EXIF's `2024:05:01 10:00:00`. Without a
            zone it is UTC.

    Returns:
        `(n,)` float64 seconds since 1970, NaN where missing. 0 counts as missing, as in NATIX's data.

    Raises:
        UserError: if a value is not a time. The message names the row.
    """
    expected = "seconds since 1970, an ISO date or EXIF's 2024:05:01 10:00:00"
    return _numbers(data, column, "date", _time, expected)


def _time(value: Any) -> float:
    if isinstance(value, str):
        value = _read_time(value.strip().rstrip("\0"))
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if value is None or value == 0 or math.isnan(value):
        return math.nan
    if abs(value) > _LAST_SECOND:
        raise ValueError
    return float(value)


def _read_time(text: str) -> datetime | float | None:
    """A date or a number of seconds from text; eight digits are a date (20240501)."""
    if not text or text.startswith("0000"):  # EXIF of a camera whose clock is not set
        return None
    if text[4:5] == ":" == text[7:8]:
        text = text[:10].replace(":", "-") + text[10:]
    elif not (len(text) == 8 and text.isdigit()):
        try:
            return float(text)
        except ValueError:
            pass
    return datetime.fromisoformat(text)


def category(data: Dataset, column: str) -> list[str]:
    """A tag of each row as one name for strata and slices, in the form of `as_name`.

    Args:
        column: contains text, numbers, class ids, lists of these, or lists as text (`"['day']"`).

    Returns:
        `(n,)` names. Several elements of a list are sorted and joined with `+`; a missing value is `unknown`.
    """
    return [_category(value) for value in column_values(data, column, "stratify_by")]


def _category(value: Any) -> str:
    if isinstance(value, str):
        value = value.strip()
        if value.startswith("[") and value.endswith("]"):
            with suppress(ValueError, SyntaxError):  # text in brackets stays text
                value = ast.literal_eval(value)
    if isinstance(value, list):
        return "+".join(sorted({as_name(part) or UNKNOWN for part in value})) or UNKNOWN
    return as_name(value) or UNKNOWN


def contradictions(
    labels: Sequence[int], names: Sequence[str], descriptions: Sequence, column: str, positive_label: str | None
) -> dict[int, str]:
    """Rows whose class and description contradict each other: only the positive class has descriptions.

    Args:
        labels: `(n,)` class numbers.
        descriptions: `(n,)` texts. None and blank texts do not count as descriptions.
        column: their column, for the reasons.
        positive_label: the class that is described; by default the one with id 1.

    Returns:
        Row -> reason to exclude it.

    Raises:
        UserError: if there are not two classes, or if none of them is the positive class.
    """
    if len(names) != 2:
        raise UserError(
            f"description_column: works with two classes only; there are {len(names)} "
            f"({', '.join(names)}): leave it out"
        )
    positive = positive_class(names, positive_label)
    reasons = {}
    for row, (label, description) in enumerate(zip(labels, descriptions)):
        text = " ".join((as_text(description) or "").split())
        if label == positive and not text:
            reasons[row] = f"label {names[label]}, but {column} is empty"
        elif label != positive and text:
            short = text if len(text) <= 80 else text[:77] + "..."
            reasons[row] = f"label {names[label]}, but {column} says {short}"
    return reasons
