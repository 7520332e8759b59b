"""Reads EXIF tags. A damaged tag is skipped; the photo and the other tags stay usable."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from PIL import Image

ORIENTATION, CAMERA, GPS = 0x0112, 0x8769, 0x8825  # a tag, and two blocks of tags
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Transpositions that swap width and height.
SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)


def readable_tags(exif: Image.Exif, block: int) -> dict[int, Any]:
    """The readable tags of a block (`CAMERA` or `GPS`): tag -> Pillow's value."""
    readable = {}
    try:
        tags = exif.get_ifd(block)
        for tag in tags:
            with suppress(Exception):  # Pillow decodes a tag on access, and can raise nearly any type
                readable[tag] = tags[tag]
    except Exception:  # the block itself
        return {}
    return readable


def orientation(image: Image.Image) -> Any:
    """The EXIF orientation of a decoded photo, 1 if not set, None if its EXIF cannot be read."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # as in `readable_tags`
        return None


def turn(image: Image.Image) -> Image.Transpose | None:
    """The transposition that makes a decoded photo upright, or None if it is upright or the tag is invalid."""
    return TURNS.get(orientation(image))
