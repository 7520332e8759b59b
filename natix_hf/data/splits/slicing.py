"""Chooses the columns that figures are broken down by, and gives the kind of each row.

Columns such as daytime, weather, city, source, resolution and object size describe kinds of photos. Ids, links, free
text, dates and measurements do not. Coordinates are never used, whatever their column is called, because the values
are written to files that are shared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Value

from natix_hf.data.sources.boxes import boxes_column, object_sizes
from natix_hf.data.sources.columns import has_column
from natix_hf.data.sources.metadata import UNKNOWN, category
from natix_hf.errors import UserError

MOST_VALUES = 50
LONGEST = 60  # characters of a value; longer values are sentences
RESOLUTION, ORIENTATION, OBJECT_SIZE = "resolution", "orientation", "object_size"
# Upper limits of the resolution classes, in megapixels.
MEGAPIXELS = ((0.3, "under 0.3 MP"), (1.0, "0.3 to 1 MP"), (3.0, "1 to 3 MP"), (9.0, "3 to 9 MP"), (np.inf, "9 MP up"))

_OURS = {"id", "image", "label", "group", "fingerprint", "look", "width", "height"}
_PLACES = {"gps", "lat", "latitude", "lon", "lng", "long", "longitude", "latlon", "latlng", "lonlat"}
_PLACES |= {"coord", "coords", "coordinate", "coordinates", "geo", "geometry", "geohash"}
_NAMES = {"id", "ids", "uuid", "guid", "hash", "key", "fingerprint", "url", "uri", "link", "path", "file", "filename"}
_DATES = {"date", "datetime", "timestamp", "captured", "created", "modified"}
_TEXTS = {"description", "caption", "comment", "comments", "note", "notes", "text", "title", "prompt"}
_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_PLACE = re.compile(rf"[\[({{\s'\"]*{_NUMBER}[\s'\"]*[,; ][\s'\"]*{_NUMBER}")
_MEASURED = re.compile(r"-?\d*\.\d+(e-?\d+)?|-\d+")
_LONG_NUMBER = re.compile(r"\d{6,}")  # seconds since 1970, days as 20240501, ids
_DATE = re.compile(r"\d{4}[-:/]\d{1,2}[-:/]\d{1,2}")


def slice_values(
    parts: Sequence[Dataset], chosen: Sequence[str] = (), *, also: Sequence[str] = ()
) -> dict[str, list[str]]:
    """The kinds of the rows by each suitable column, one with 2 to 50 different values.

    Args:
        parts: the rows, one set after the other.
        chosen: use only these columns (names, dotted paths, `resolution`, `orientation`, `object_size`); by default
            all suitable ones except `orientation`.
        also: columns of `DERIVED` to add to the default.

    Returns:
        Column -> `(n,)` values as text. Several tags of a row form one value (`fog+rain`); a missing value is
        `unknown`. `resolution` is the class of width x height, `orientation` says which side is longer, `object_size`
        is the class of the highest box of a photo. Columns with one value, with more than 50 or with a different value
        for most rows are left out, as are columns that only rename the classes.
    """
    n = sum(len(part) for part in parts)
    if not n:
        return {}
    labels = [label for part in parts for label in part["label"][:]]
    slices = {}
    for column in chosen or _columns(parts[0], also):
        values = [value for part in parts for value in _values(part, column)]
        kinds = set(values)
        renamed = len(kinds) == len(set(labels)) == len(set(zip(values, labels)))
        fit = 2 <= len(kinds) <= MOST_VALUES and (chosen or 2 * len(kinds) <= n) and not renamed
        if fit and all(map(_is_kind, kinds)):
            slices[column] = values
    return slices


def check_slices(rows: Dataset, chosen: Sequence[str], key: str = "slices") -> None:
    """Refuse columns that figures cannot be broken down by. `key` is the recipe key that names them.

    Raises:
        UserError: if a column does not exist, contains places, links, dates or sentences, or has over 50 values.
    """
    for column in chosen:
        columns = _columns(rows, DERIVED)
        if column not in (*DERIVED, *columns) and not has_column(rows, column):
            raise UserError(f"{key}: no column {column!r}: the columns are {', '.join(columns)}")
        kinds = set(_values(rows, column))
        if _words(column) & _PLACES or not all(map(_is_kind, kinds)):
            raise UserError(  # does not name the value, which may be a place
                f"{key}: {column} contains places, dates, links, measurements or sentences, not kinds of photos: "
                "leave it out"
            )
        if len(kinds) > MOST_VALUES:
            raise UserError(f"{key}: {column} has {len(kinds)} values, over {MOST_VALUES}: leave it out")


def counted_values(rows: Dataset, column: str) -> dict[str, Counter]:
    """Value of a column, as used by `hold_out` -> number of its rows of each class number."""
    counts: dict[str, Counter] = {}
    for value, label in zip(category(rows, column), rows["label"][:]):
        counts.setdefault(value, Counter())[label] += 1
    return dict(sorted(counts.items()))


def resolution(width: int | None, height: int | None) -> str:
    """The resolution class of a photo."""
    if not width or not height:
        return UNKNOWN
    return next(name for end, name in MEGAPIXELS if width * height / 1e6 < end)


def orientation(width: int | None, height: int | None) -> str:
    """`landscape`, `portrait` or `square`."""
    if not width or not height:
        return UNKNOWN
    if width == height:
        return "square"
    return "landscape" if width > height else "portrait"


# Kinds derived from a photo's `width` and `height` in pixels.
DERIVED = {RESOLUTION: resolution, ORIENTATION: orientation}


def _columns(rows: Dataset, also: Iterable[str] = ()) -> list[str]:
    """Columns and paths into structs that may hold kinds, by name and type, and kinds derived from sizes."""
    names = [name for name, feature in _leaves(rows.features) if _may_be(name, feature)]
    sized = {"width", "height"} <= set(rows.column_names)
    boxed = [OBJECT_SIZE] if sized and boxes_column(rows.features) is not None else []
    return [*names, *boxed, *(dict.fromkeys([RESOLUTION, *also]) if sized else [])]


def _leaves(features: dict[str, Any], front: str = "") -> Iterator[tuple[str, Any]]:
    for name, feature in features.items():
        if isinstance(feature, dict):
            yield from _leaves(feature, f"{front}{name}.")
        else:
            yield front + name, feature


def _may_be(name: str, feature: Any) -> bool:
    if name in _OURS or _words(name) & (_PLACES | _NAMES | _DATES | _TEXTS):
        return False
    inner = getattr(feature, "feature", feature)  # the items of a list
    if isinstance(inner, ClassLabel):
        return True
    return isinstance(inner, Value) and inner.dtype.startswith(
        ("string", "large_string", "bool", "int", "uint", "flo")
    )


def _words(name: str) -> set[str]:
    """Lower-case words of a name: `videoInfo.GPSLat` has video, info, gps, lat."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def _values(rows: Dataset, column: str) -> list[str]:
    if column in DERIVED and not has_column(rows, column):
        return [DERIVED[column](*size) for size in zip(rows["width"][:], rows["height"][:])]
    if column == OBJECT_SIZE and not has_column(rows, column):
        return object_sizes(rows, boxes_column(rows.features))
    return category(rows, column)


def _is_kind(value: str) -> bool:
    """Whether a value can name a kind, that is, it is not a place, date, link, measurement or sentence."""
    odd = _PLACE.match(value) or _DATE.match(value) or "://" in value or "°" in value or "\n" in value
    parts = value.split("+")  # of a list
    odd = odd or any(_MEASURED.fullmatch(part) or _LONG_NUMBER.fullmatch(part) for part in parts)
    return not odd and len(value) <= LONGEST
