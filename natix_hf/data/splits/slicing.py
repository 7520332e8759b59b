"""Which columns of a data set tell kinds of photos apart, and the kind of each row: what figures are broken down by.

Daytime, weather, city, source, resolution and the size of what is boxed do; ids, links, free text, dates and
measurements do not. Coordinates never leave through here, whatever their column is called: what is chosen is written
into files that are passed on. This file knows no figures.
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
LONGEST = 60  # characters of a value; longer ones are sentences
RESOLUTION, ORIENTATION, OBJECT_SIZE = "resolution", "orientation", "object_size"
# Upper ends of the classes of resolution, in megapixels.
MEGAPIXELS = ((0.3, "under 0.3 MP"), (1.0, "0.3 to 1 MP"), (3.0, "1 to 3 MP"), (9.0, "3 to 9 MP"), (np.inf, "9 MP up"))

_OURS = {"id", "image", "label", "group", "fingerprint", "look", "width", "height"}
_PLACES = {"gps", "lat", "latitude", "lon", "lng", "long", "longitude", "latlon", "latlng", "lonlat"}
_PLACES |= {"coord", "coords", "coordinate", "coordinates", "geo", "geometry", "geohash"}
_NAMES = {"id", "ids", "uuid", "guid", "hash", "key", "fingerprint", "url", "uri", "link", "path", "file", "filename"}
_DATES = {"date", "datetime", "timestamp", "captured", "created", "modified"}
_TEXTS = {"description", "caption", "comment", "comments", "note", "notes", "text", "title", "prompt"}
_TYPES = ("string", "large_string", "bool", "int", "uint", "float")
_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_PLACE = re.compile(rf"[\[({{\s'\"]*{_NUMBER}[\s'\"]*[,; ][\s'\"]*{_NUMBER}")
_MEASURED = re.compile(r"-?\d*\.\d+(e-?\d+)?|-\d+")
_LONG_NUMBER = re.compile(r"\d{6,}")  # seconds since 1970, days as 20240501, ids
_DATE = re.compile(r"\d{4}[-:/]\d{1,2}[-:/]\d{1,2}")


def slice_values(
    parts: Sequence[Dataset], chosen: Sequence[str] = (), *, also: Sequence[str] = ()
) -> dict[str, list[str]]:
    """The kinds of some rows, by every column that tells 2 to 50 kinds apart.

    Args:
        parts: rows of one source, one set behind the other.
        chosen: only these columns (flat names, dotted paths, `resolution`, `orientation`, `object_size`); by default
            all that are fit, `orientation` not among them.
        also: of `DERIVED`, beside those of the default.

    Returns:
        Column -> `(n,)` values as text; several tags of a row are one value (`fog+rain`), `unknown` stands where there
        is none. `resolution` is the class of width x height, `orientation` says which is longer, `object_size` is the
        class of the highest of a photo's boxes. A column with one value, with more than 50, or with a value of its own
        for most rows is left out; so is one that only renames the classes.
    """
    n = sum(len(part) for part in parts)
    if not n:
        return {}
    labels = [label for part in parts for label in part["label"][:]]
    found = {}
    for column in chosen or _columns(parts[0], also):
        values = [value for part in parts for value in _values(part, column)]
        kinds = set(values)
        renamed = len(kinds) == len(set(labels)) == len(set(zip(values, labels)))
        fit = 2 <= len(kinds) <= MOST_VALUES and (chosen or 2 * len(kinds) <= n) and not renamed
        if fit and all(map(_is_kind, kinds)):
            found[column] = values
    return found


def check_slices(rows: Dataset, chosen: Sequence[str], key: str = "slices") -> None:
    """Refuse columns that figures cannot be broken down by; `key` is the recipe's key that named them.

    Raises:
        UserError: a column that is not there, that holds places, links, dates or sentences, or more than 50 values.
    """
    for column in chosen:
        there = _columns(rows, DERIVED)
        if column not in (*DERIVED, *there) and not has_column(rows, column):
            raise UserError(f"{key}: no column {column!r}; there are {', '.join(there)}")
        kinds = set(_values(rows, column))
        if _words(column) & _PLACES or not all(map(_is_kind, kinds)):
            raise UserError(  # without the value: it may be a place
                f"{key}: {column} holds places, dates, links, measurements or sentences, and no kinds of photos: "
                "leave it out"
            )
        if len(kinds) > MOST_VALUES:
            raise UserError(f"{key}: {column} has {len(kinds)} values, over {MOST_VALUES}: leave it out")


def counted_values(rows: Dataset, column: str) -> dict[str, Counter]:
    """The values of a column as `hold_out` takes them, and how many rows of each class number have each."""
    found: dict[str, Counter] = {}
    for value, label in zip(category(rows, column), rows["label"][:]):
        found.setdefault(value, Counter())[label] += 1
    return dict(sorted(found.items()))


def resolution(width: int | None, height: int | None) -> str:
    """The class of a photo's size."""
    if not width or not height:
        return UNKNOWN
    return next(name for end, name in MEGAPIXELS if width * height / 1e6 < end)


def orientation(width: int | None, height: int | None) -> str:
    """Which side of a photo is longer."""
    if not width or not height:
        return UNKNOWN
    return "square" if width == height else "landscape" if width > height else "portrait"


# What the size of a photo tells, `width` and `height` in pixels to a kind.
DERIVED = {RESOLUTION: resolution, ORIENTATION: orientation}


def _columns(rows: Dataset, also: Iterable[str] = ()) -> list[str]:
    """The columns, and paths into structs, that may hold kinds, by their names and types; and what sizes tell."""
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
    inner = getattr(feature, "feature", feature)  # of a list
    if isinstance(inner, ClassLabel):
        return True
    return isinstance(inner, Value) and inner.dtype.startswith(
        ("string", "large_string", "bool", "int", "uint", "flo")
    )


def _words(name: str) -> set[str]:
    """`videoInfo.GPSLat` is made of video, info, gps, lat."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def _values(rows: Dataset, column: str) -> list[str]:
    if column in DERIVED and not has_column(rows, column):
        return [DERIVED[column](*size) for size in zip(rows["width"][:], rows["height"][:])]
    if column == OBJECT_SIZE and not has_column(rows, column):
        return object_sizes(rows, boxes_column(rows.features))
    return category(rows, column)


def _is_kind(value: str) -> bool:
    """Whether a value can be the name of a kind, and not a place, a date, a link, a measurement or a sentence."""
    odd = _PLACE.match(value) or _DATE.match(value) or "://" in value or "°" in value or "\n" in value
    parts = value.split("+")  # of a list
    odd = odd or any(_MEASURED.fullmatch(part) or _LONG_NUMBER.fullmatch(part) for part in parts)
    return not odd and len(value) <= LONGEST
