"""What a camera wrote into a photo. A tag that cannot be read costs itself, never the photo or the other tags."""

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
# Those that swap width and height.
SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)


def readable_tags(exif: Image.Exif, block: int) -> dict[int, Any]:
    """The tags of a block (`CAMERA` or `GPS`) that can be read, tag -> value as Pillow has it."""
    found = {}
    try:
        tags = exif.get_ifd(block)
        for tag in tags:
            with suppress(Exception):  # Pillow decodes a tag when it is asked for, and raises nearly any type
                found[tag] = tags[tag]
    except Exception:  # the block itself
        return {}
    return found


def orientation(image: Image.Image) -> Any:
    """The orientation of a decoded photo, 1 where nothing is said; None where its EXIF cannot be read."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # as in `readable_tags`
        return None


def turn(image: Image.Image) -> Image.Transpose | None:
    """How a decoded photo must be turned to stand upright; None: it does, or the tag makes no sense."""
    return TURNS.get(orientation(image))
