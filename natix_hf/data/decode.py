"""Photos from files and bytes: the quick path for training, the client's path for everything that is scored.

Four ways in. `open_photo` is for training: it may decode a JPEG at reduced size, lays transparency over white and
scales 16-bit grey. `client_photo` gives exactly the pixels that a client's `pipeline` sees, flaws included.
`stored_photo` gives the pixels as the file has them, without a turn or a conversion, for whoever sends photos on so.
`inspect_photo` only finds out whether a photo can be read, how large it is, which bytes it holds and, where asked,
how it looks. This file knows no labels, no splits and no model.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from natix_hf.errors import PhotoError

Source = str | Path | bytes | dict | Image.Image

MAX_PHOTO_MB = 64.0
LOOK_SIDE = 128  # pixels that a JPEG keeps on both sides for a look at it, so that no thumbnail of 64 is blown up
ORIENTATION = 0x0112  # the EXIF tag; values 5 to 8 swap width and height


def _name(source: Source) -> str:
    if isinstance(source, dict):
        return str(source.get("path") or "photo without a name")
    return "photo without a name" if isinstance(source, bytes | Image.Image) else str(source)


def _reason(error: Exception) -> str:
    """Why a photo cannot be read, without the memory addresses that Pillow's own words may hold."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a photo"
    if isinstance(error, UnidentifiedImageError):
        return "not a photo that Pillow can read"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"truncated or damaged ({' '.join(str(error).split()) or type(error).__name__})"


def _read(source: Source) -> bytes:
    """The bytes of a photo; bytes that travel with a row win over the path beside them."""
    if isinstance(source, bytes):
        content = source
    elif isinstance(source, dict) and source.get("bytes") is not None:
        content = source["bytes"]
    elif isinstance(source, dict) and source.get("path") is None:
        raise PhotoError(f"{_name(source)}: the row holds neither bytes nor a path")
    else:
        content = Path(source["path"] if isinstance(source, dict) else source).read_bytes()
    if not content:
        raise PhotoError(f"{_name(source)}: the file is empty (0 bytes)")
    return content


def _size(source: str | Path | bytes | dict) -> int:
    """How many bytes a photo's file has, found without reading it."""
    content = source["bytes"] if isinstance(source, dict) and source.get("bytes") is not None else source
    if isinstance(content, bytes):
        return len(content)
    path = content.get("path") if isinstance(content, dict) else content
    return 0 if path is None else os.stat(path).st_size


def _open(source: Source) -> Image.Image:
    """The photo with its header read. Over twice `MAX_IMAGE_PIXELS` Pillow refuses it; of its warning at half of that
    nobody learns anything."""
    if isinstance(source, Image.Image):
        return source
    content = io.BytesIO(_read(source))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(content)


def _upright(image: Image.Image, *, own: bool) -> Image.Image:
    """The decoded photo as its EXIF orientation says; the same object where it stands upright and is our own (Pillow
    would copy the pixels)."""
    image.load()
    if own and image.getexif().get(ORIENTATION, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB with transparency over white and 16-bit grey scaled to 8 bits (Pillow's own conversion clips it to
    white)."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image  # Pillow would copy the pixels
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float64) / 257.0  # 65535 / 255
        return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def open_photo(source: Source, *, min_side: int | None = None) -> Image.Image:
    """A photo in RGB as training sees it: upright, opaque, 8 bits, the first frame of an animation.

    Args:
        source: a path, the file's bytes, a row's `{"bytes": ..., "path": ...}`, or an image that is already open.
        min_side: if given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as both sides keep this
            many pixels (2 to 3 times as fast, pixels differ a little; never for photos that are scored).

    Raises:
        PhotoError: `<file>: <reason>` for a missing, empty, truncated or oversized file, or one that is no photo.
    """
    try:
        image = _open(source)
        if min_side is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (min_side, min_side))
        return _to_rgb(_upright(image, own=image is not source))
    except PhotoError:
        raise
    except Exception as error:  # a damaged file makes Pillow's readers raise nearly any type
        raise PhotoError(f"{_name(source)}: {_reason(error)}") from error


def client_photo(source: Source) -> Image.Image:
    """A photo in RGB exactly as `transformers.pipeline("image-classification")` sees it.

    These are the two steps of `transformers.image_utils.load_image` (EXIF orientation, then Pillow's conversion,
    which drops alpha and clips 16-bit grey). They stand here so that a worker that reads photos need not import
    transformers; a test holds them to it.

    Args:
        source: as for `open_photo`.

    Raises:
        PhotoError: `<file>: <reason>`, as for `open_photo`.
    """
    try:
        image = _open(source)
        image = _upright(image, own=image is not source)
        return image if image.mode == "RGB" else image.convert("RGB")
    except PhotoError:
        raise
    except Exception as error:  # as in open_photo
        raise PhotoError(f"{_name(source)}: {_reason(error)}") from error


def stored_photo(source: Source) -> Image.Image:
    """A photo as its file has it: neither turned as its EXIF orientation says nor converted; its `format` tells which
    kind of file it was.

    Args:
        source: as for `open_photo`.

    Raises:
        PhotoError: `<file>: <reason>`, as for `open_photo`.
    """
    try:
        image = _open(source)
        image.load()
        return image
    except PhotoError:
        raise
    except Exception as error:  # as in open_photo
        raise PhotoError(f"{_name(source)}: {_reason(error)}") from error


def photo_exif(source: Source) -> Image.Exif | None:
    """What a camera wrote into a photo, read without decoding it; None where the photo cannot be read."""
    try:
        return _open(source).getexif()
    except Exception:  # as in open_photo; whoever needs the photo itself is told why
        return None


def fingerprint_bytes(content: bytes) -> str:
    """The blake2b-128 of some bytes, as 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


class Inspection(NamedTuple):
    """What is known of a photo after it was opened once.

    Attributes:
        fingerprint: of its bytes; "" where they were not read.
        width: in pixels as displayed, 0 where unknown; `height` too.
        error: the reason why it cannot be used, or None.
        look: what `look` made of it; None where it was not asked for or there is an error.
    """

    fingerprint: str
    width: int
    height: int
    error: str | None
    look: bytes | None = None


def inspect_photo(
    source: str | Path | bytes | dict,
    *,
    look: Callable[[Image.Image], bytes] | None = None,
    max_mb: float = MAX_PHOTO_MB,
    max_pixels: int | None = None,
) -> Inspection:
    """Whether a photo can be read, found by a cheap but complete decode (JPEG at 1/8, which still reads every byte).

    A file over `max_mb` is not read and a photo over `max_pixels` is not decoded: its header says how large it is.

    Args:
        source: a path, the file's bytes, or a row's `{"bytes": ..., "path": ...}`.
        look: if given, it gets the photo upright and in RGB, a JPEG at the least scale at which both sides keep
            `LOOK_SIDE` pixels.
        max_mb: the most megabytes (10^6 bytes) of a file.
        max_pixels: the most pixels of a photo; at most Pillow's own limit against decompression bombs, which None
            stands for.
    """
    fingerprint, width, height = "", 0, 0
    try:
        size = _size(source)
        if size > max_mb * 1e6:
            return Inspection("", 0, 0, f"the file has {size / 1e6:.1f} MB, over max_photo_mb {max_mb:g}: not read")
        content = _read(source)
        fingerprint = fingerprint_bytes(content)
        image = _open(content)
        width, height = image.size
        if max_pixels is not None and width * height > max_pixels:
            reason = f"{width} x {height} pixels, over max_photo_pixels {max_pixels:,}: not decoded"
            return Inspection(fingerprint, width, height, reason)
        if image.getexif().get(ORIENTATION, 1) >= 5:
            width, height = height, width
        if image.format in ("JPEG", "MPO"):
            side = 1 if look is None else LOOK_SIDE
            image.draft(None, (side, side))
        image = ImageOps.exif_transpose(image)
        if look is None:
            image.convert("RGB")
            return Inspection(fingerprint, width, height, None)
        return Inspection(fingerprint, width, height, None, look(_to_rgb(image)))
    except PhotoError as error:
        return Inspection(fingerprint, width, height, str(error).removeprefix(f"{_name(source)}: "))
    except Exception as error:  # as in open_photo
        return Inspection(fingerprint, width, height, _reason(error))
