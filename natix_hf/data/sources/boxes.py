"""Reads boxes around objects in any common notation, and sorts photos into classes by their tallest box.

Boxes are in COCO's format: left, top, width and height in pixels of the upright photo.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from datasets import Dataset, LargeList, List

from natix_hf.data.sources.columns import column_values
from natix_hf.data.sources.metadata import UNKNOWN

NAMES = ("bbox", "bboxes", "boxes")
NO_OBJECT = "none"
# Upper ends of the classes, as shares of the photo's height. In a view of 224 pixels, a patch of 16 is 7 % of it.
HEIGHTS = (
    (0.07, "small (under 7 % of the height)"),
    (0.21, "medium (7 to 21 % of the height)"),
    (math.inf, "large (21 % of the height up)"),
)


def boxes_column(features: Mapping[str, Any]) -> str | None:
    """The column, or path into a struct, that contains boxes; None if there is none.

    Its name is in `NAMES`. It is a list of boxes (also as JSON), or it is in a struct of lists or a list of structs,
    such as `objects` in detection data sets.
    """
    for name, feature in features.items():
        if name in NAMES and (_listed(feature) or getattr(feature, "dtype", "") in ("string", "large_string")):
            return name
        inner = feature.feature if _listed(feature) else feature
        field = next((box_name for box_name in NAMES if box_name in inner), None) if isinstance(inner, dict) else None
        if field:
            return name if _listed(feature) else f"{name}.{field}"
    return None


def _listed(feature: Any) -> bool:
    return isinstance(feature, List | LargeList)


def object_sizes(rows: Dataset, column: str) -> list[str]:
    """The size class of each photo's tallest box: `none` without a box, `unknown` if a box does not fit the photo.

    Args:
        rows: rows with `height` in pixels.
        column: the result of `boxes_column`.
    """
    values = column_values(rows, column, "slices")
    return [_size(value, height) for value, height in zip(values, rows["height"][:])]


def _size(value: Any, height: int | None) -> str:
    try:
        boxes = (json.loads(value) if isinstance(value, str) and value.strip() else value) or ()
        heights = [float(box_height) for _, _, _, box_height in map(_box, boxes)]
    except (ValueError, TypeError):
        return UNKNOWN
    if not heights:
        return NO_OBJECT
    # Heights below 1 are probably shares of the photo, not pixels.
    if not height or not 1 <= max(heights) <= height + 1:
        return UNKNOWN
    return next(name for end, name in HEIGHTS if max(heights) / height < end)


def _box(entry: Any) -> Any:
    """The box itself, if the entry is a struct that describes an object."""
    return next(entry[name] for name in NAMES if name in entry) if isinstance(entry, dict) else entry
