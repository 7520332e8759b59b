"""Decodes photos from files and bytes, in the same way for training, scoring and `predict`.

`open_photo` returns the pixels that a client's `pipeline` sees, except for photos that Pillow's own conversion spoils:
`open_photo` blends transparency with white and scales grey values of more than 8 bits. For training it can decode a
JPEG at reduced size. `stored_photo` returns the pixels as stored, without rotation or conversion. `inspect_photo`
checks whether a photo can be read, and reports its size, its fingerprint, whether a client sees other pixels, and
optionally its look.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from natix_hf.errors import PhotoError
from natix_hf.files import fingerprint_bytes, text_path
from natix_hf.photos.client_view import is_deep, load_as_client, seen_otherwise
from natix_hf.photos.exif import SIDEWAYS, orientation, turn


class StoredPhoto(TypedDict):
    """An undecoded photo in a row of `datasets`: the bytes of the file, or its path."""

    bytes: bytes | None
    path: str | None


Source = str | Path | bytes | StoredPhoto | Image.Image

MAX_PHOTO_MB = 64.0
LOOK_SIDE = 128  # minimum side in pixels of a JPEG that is decoded for its look, so that nothing is enlarged
WHITES = (255, 65535, 2**31 - 1, 2**32 - 1)  # largest values of the integer types of grey photos
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF tags


def _name(source: Source) -> str:
    if isinstance(source, dict):
        return str(source.get("path") or "photo without a name")
    return "photo without a name" if isinstance(source, bytes | Image.Image) else str(source)


def _reason(error: Exception) -> str:
    """Why a photo cannot be read, without the memory addresses that Pillow's messages may contain."""
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


def photo_bytes(source: Source) -> bytes:
    """The bytes of a photo. If a row has both bytes and a path, the bytes are used.

    Raises:
        PhotoError: the row has neither bytes nor a path, or the file is empty.
        OSError: the file cannot be read.
    """
    if isinstance(source, bytes):
        content = source
    elif isinstance(source, dict) and source.get("bytes") is not None:
        content = source["bytes"]
    elif isinstance(source, dict) and source.get("path") is None:
        raise PhotoError(f"{_name(source)}: the row has no photo, neither bytes nor a path")
    else:
        path = Path(text_path(source["path"] if isinstance(source, dict) else source))
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading a named pipe would wait for ever
            raise PhotoError(f"{_name(source)}: not a regular file")
        content = path.read_bytes()
    if not content:
        raise PhotoError(f"{_name(source)}: the file is empty (0 bytes)")
    return content


def _size(source: str | Path | bytes | StoredPhoto) -> int:
    """File size of a photo in bytes, without reading the file."""
    content = source["bytes"] if isinstance(source, dict) and source.get("bytes") is not None else source
    if isinstance(content, bytes):
        return len(content)
    path = content.get("path") if isinstance(content, dict) else content
    return 0 if path is None else os.stat(text_path(path)).st_size


def _open(source: Source) -> Image.Image:
    """Read the header of the photo. Pillow raises if it has more than twice `MAX_IMAGE_PIXELS` pixels."""
    return source if isinstance(source, Image.Image) else Image.open(io.BytesIO(photo_bytes(source)))


@contextmanager
def reading(source: Source) -> Iterator[None]:
    """Convert errors inside the block to a `PhotoError` that names the photo, and hide Pillow's warnings.

    The warnings (large photos, odd palettes, damaged metadata) do not help the user.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except PhotoError:
        raise
    except Exception as error:  # a damaged file makes Pillow's readers raise nearly any type
        raise PhotoError(f"{_name(source)}: {_reason(error)}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale grey values of more than 8 bits to 8 bits; Pillow's own conversion clips at 255.

    Black is 0. In a TIFF of 9 to 15 bits, white is the largest possible value. Otherwise it is the smallest of
    `WHITES` that no value exceeds, so that 8-bit values in a wider type are unchanged. For floats white can also be 1,
    and values may be up to twice the white, because resampling overshoots.
    """
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    values = np.asarray(image)
    if values.dtype == np.int32 and tags.get(SAMPLE_FORMAT, (1,)) == (1,):
        values = values.view(np.uint32)  # Pillow has no mode for uint32
    floats = image.mode == "F"
    grey = np.nan_to_num(values.astype(np.float64), nan=0.0)
    bits = tags.get(BITS, (16,))[0]
    largest = float(values[np.isfinite(values)].max(initial=0)) / (2 if floats else 1)
    whites = (2**bits - 1,) if 8 < bits < 16 else ((1,) if floats else ()) + WHITES
    white = next((white for white in whites if largest <= white), largest)
    grey = np.clip(np.rint(grey * (255.0 / white)), 0, 255).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == 0:  # 0 is white; Pillow inverts only 8-bit photos
        grey = 255 - grey
    if isinstance(image.info.get("transparency"), int):
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey)


def _to_rgb(image: Image.Image) -> Image.Image:
    """The decoded photo in RGB. An RGB photo is returned as it is, since Pillow would copy the pixels."""
    if is_deep(image.mode):
        return _eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _picture(image: Image.Image) -> Image.Image:
    """The photo in RGB, rotated upright according to its EXIF orientation."""
    image.load()
    photo, how = _to_rgb(image), turn(image)
    return photo if how is None else photo.transpose(how)


def open_photo(source: Source, *, min_side: int | None = None) -> Image.Image:
    """A photo in RGB: upright, opaque, 8 bits, the first frame of an animation.

    Without `min_side` these are the pixels that `transformers.pipeline("image-classification")` sees, except for the
    photos that `client_view` reports.

    Args:
        source: a path, the file's bytes, a row's `{"bytes": ..., "path": ...}`, or an image that is already open.
        min_side: if given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as both sides keep at least
            this many pixels. This is 2 to 3 times as fast, but changes pixels a little: never use it for scoring.

    Raises:
        PhotoError: `<file>: <reason>` if the file is missing, empty, truncated, oversized or not a photo.
    """
    with reading(source):
        image = _open(source)
        if min_side is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (min_side, min_side))
        photo = _picture(image)
    return photo.copy() if photo is source else photo


def client_photo(source: Source) -> tuple[Image.Image, str]:
    """A photo as `open_photo` returns it, and how a client's view differs (`client_view.seen_otherwise`), or ""."""
    if isinstance(source, Image.Image):  # already decoded: a client gets the same pixels
        return open_photo(source), ""
    with reading(source):
        image = _open(source)
        image.load()
        # Load the client's view only where it can differ: copying a large photo twice takes as long as decoding it.
        exif_orientation = orientation(image)  # must come first: Pillow reports damaged EXIF only once
        odd = exif_orientation != 1 or is_deep(image.mode) or image.has_transparency_data
        theirs = load_as_client(image) if odd and exif_orientation is not None else None
        photo = _picture(image)
        return photo, seen_otherwise(image, photo, theirs) if odd else ""


def stored_photo(source: Source) -> Image.Image:
    """A photo as stored in its file, neither rotated nor converted; its `format` names the file type.

    Raises:
        PhotoError: the photo cannot be read.
    """
    with reading(source):
        image = _open(source)
        image.load()
    return image


def photo_exif(source: Source) -> Image.Exif | None:
    """The EXIF data of a photo, read without decoding its pixels; None if the photo cannot be read."""
    try:
        with reading(source):
            return _open(source).getexif()
    except PhotoError:  # a caller that opens the photo gets the reason
        return None


def eight_bit_png(source: Source) -> bytes:
    """A PNG file of the photo as `open_photo` returns it, for clients that would see other pixels in the original."""
    file = io.BytesIO()
    open_photo(source).save(file, "PNG")
    return file.getvalue()


class Inspection(NamedTuple):
    """Result of `inspect_photo`.

    Attributes:
        fingerprint: of the file's bytes; "" if they were not read.
        width, height: in pixels, after rotation; 0 if unknown.
        error: the reason why the photo cannot be used, or None.
        look: result of the `look` function; None if there was no such function, or an error.
        client: how a client's view differs (`client_view.seen_otherwise`); "" if it does not.
    """

    fingerprint: str
    width: int
    height: int
    error: str | None
    look: bytes | None = None
    client: str = ""


def inspect_photo(
    source: str | Path | bytes | StoredPhoto,
    *,
    look: Callable[[Image.Image], bytes] | None = None,
    max_mb: float = MAX_PHOTO_MB,
    max_pixels: int | None = None,
) -> Inspection:
    """Check whether a photo can be read, by decoding it cheaply but completely (JPEG at 1/8, which reads every byte).

    A file over `max_mb` is not read, and a photo whose header says more than `max_pixels` is not decoded.

    Args:
        source: a path, the file's bytes, or the photo of a row.
        look: function that gets the photo upright and in RGB; a JPEG comes at the smallest scale at which both sides
            keep `LOOK_SIDE` pixels.
        max_mb: largest size of a file in megabytes (10^6 bytes).
        max_pixels: largest number of pixels; None leaves only Pillow's own limit against decompression bombs, which
            always applies.
    """
    fingerprint, width, height = "", 0, 0
    try:
        with reading(source):
            size = _size(source)
            if size > max_mb * 1e6:
                over = f"the file has {size / 1e6:.1f} MB, over max_photo_mb {max_mb:g}: not read"
                return Inspection("", 0, 0, over)
            content = photo_bytes(source)
            fingerprint = fingerprint_bytes(content)
            image = _open(content)
            width, height = image.size
            if max_pixels is not None and width * height > max_pixels:
                reason = f"{width} x {height} pixels, over max_photo_pixels {max_pixels:,}: not decoded"
                return Inspection(fingerprint, width, height, reason)
            if image.format in ("JPEG", "MPO"):
                side = 1 if look is None else LOOK_SIDE
                image.draft(None, (side, side))
            image.load()  # a damaged photo fails here, before the client's view is made
            theirs = load_as_client(image)
            photo = _picture(image)
            if turn(image) in SIDEWAYS:
                width, height = height, width
            client = seen_otherwise(image, photo, theirs)
            return Inspection(fingerprint, width, height, None, look and look(photo), client)
    except PhotoError as error:
        return Inspection(fingerprint, width, height, str(error).removeprefix(f"{_name(source)}: "))
