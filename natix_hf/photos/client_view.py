"""Compares a photo as a client's `pipeline` loads it with the photo that training and scoring use.

`transformers.image_utils.load_image` rotates a photo by its EXIF orientation and converts it with Pillow, which clips
grey values of more than 8 bits and ignores transparency. A saved processor cannot change that, because it gets the
converted image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from PIL import Image, ImageOps

DEEP, TRANSPARENT, REFUSED = "deep", "transparent", "refused"
_SEEN = {
    DEEP: (
        "photos have grey values of more than 8 bits, which are scaled to 8 bits here",
        "clips them at 255 and sees mostly white (mostly black if white is 1)",
    ),
    TRANSPARENT: (
        "photos have transparent parts, which are blended with white here",
        "ignores the transparency and sees the colours stored beneath it",
    ),
    REFUSED: ("photos have EXIF data that cannot be read, which is ignored here", "stops with an error"),
}


def is_deep(mode: str) -> bool:
    """Whether a Pillow mode has grey values of more than 8 bits: 16-bit, 32-bit or float."""
    return mode in ("I", "F") or mode.startswith("I;16")


def load_as_client(image: Image.Image) -> Image.Image | None:
    """The photo exactly as `transformers.image_utils.load_image` loads it, or None if that fails.

    The two steps are repeated here so that workers need not import transformers. A test compares the two.

    Args:
        image: newly opened, because Pillow reports damaged EXIF only at the first access.
    """
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except Exception:  # damaged EXIF can raise nearly any type in Pillow
        return None


def seen_otherwise(image: Image.Image, photo: Image.Image, theirs: Image.Image | None) -> str:
    """How the client's image differs from ours: `deep`, `transparent`, `refused`, or "" if they are equal.

    Args:
        image: the image decoded by Pillow.
        photo: the photo from `decode.open_photo`.
        theirs: the image from `load_as_client`.
    """
    if theirs is None:
        return REFUSED
    deep = is_deep(image.mode)
    if not (deep or image.has_transparency_data) or theirs.tobytes() == photo.tobytes():
        return ""
    return DEEP if deep else TRANSPARENT


def client_notes(kinds: Sequence[str], names: Sequence[str]) -> list[str]:
    """A line for each way in which a client sees some photos differently.

    Args:
        kinds: `(n,)` results of `seen_otherwise`.
        names: `(n,)` names of the photos.
    """
    tally = ClientTally()
    for kind, name in zip(kinds, names, strict=True):
        tally.count(kind, name)
    return tally.notes()


class ClientTally:
    """Counts the photos that a client sees differently."""

    def __init__(self) -> None:
        self.photos = 0
        self.first: dict[str, str] = {}  # kind -> name of the first photo
        self.counts: Counter[str] = Counter()

    def count(self, kind: str, name: str) -> None:
        """Count a photo with its `kind` from `seen_otherwise`."""
        self.photos += 1
        self.counts[kind] += 1
        self.first.setdefault(kind, name)

    def notes(self) -> list[str]:
        """A line for each way in which a client sees some photos differently."""
        return [
            f"{self.counts[kind]:,} of {self.photos:,} {what} (the first is {self.first[kind]}); a client's pipeline "
            f"{seen}; python -m natix_hf.data split PHOTOS --output FOLDER --convert_photos stores them as 8-bit PNG, "
            "which look the same to every client"
            for kind, (what, seen) in _SEEN.items()
            if self.counts[kind]
        ]
