"""What a client's `pipeline` makes of a photo, and where that is another picture than the one trained and scored on.

`transformers.image_utils.load_image` turns a photo as its EXIF says and converts it with Pillow, which clips grey of
more than 8 bits and drops transparency. No saved processor can change that: it gets the converted picture. This file
knows one decoded photo at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from PIL import Image, ImageOps

DEEP, TRANSPARENT, REFUSED = "deep", "transparent", "refused"
_SEEN = {
    DEEP: (
        "photos hold grey of more than 8 bits, scaled to 8 here",
        "clips it at 255 and sees mostly white (mostly black where white is 1)",
    ),
    TRANSPARENT: (
        "photos have transparent parts, laid over white here",
        "ignores the transparency and sees the colours stored beneath it",
    ),
    REFUSED: ("photos hold EXIF that cannot be read, passed over here", "stops with an error"),
}


def is_deep(mode: str) -> bool:
    """Whether a Pillow mode holds grey of more than 8 bits: 16-bit, 32-bit or float."""
    return mode in ("I", "F") or mode.startswith("I;16")


def load_as_client(image: Image.Image) -> Image.Image | None:
    """The photo exactly as `transformers.image_utils.load_image` has it; None where that raises.

    The two steps stand here so that a worker that reads photos need not import transformers; a test holds them to it.

    Args:
        image: just opened: Pillow complains of damaged EXIF only the first time that it is asked for.
    """
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except Exception:  # damaged EXIF makes Pillow raise nearly any type
        return None


def seen_otherwise(image: Image.Image, photo: Image.Image, theirs: Image.Image | None) -> str:
    """How a client's picture differs from ours: `deep`, `transparent`, `refused`; "" where it is the same.

    Args:
        image: decoded, as Pillow has it.
        photo: of it, as `decode.open_photo` has it.
        theirs: of it, from `load_as_client`.
    """
    if theirs is None:
        return REFUSED
    deep = is_deep(image.mode)
    if not (deep or image.has_transparency_data) or theirs.tobytes() == photo.tobytes():
        return ""
    return DEEP if deep else TRANSPARENT


def client_notes(kinds: Sequence[str], names: Sequence[str]) -> list[str]:
    """One line for each way in which a client sees some of the photos otherwise.

    Args:
        kinds: `(n,)` of `seen_otherwise`.
        names: `(n,)` of the photos.
    """
    tally = ClientTally()
    for kind, name in zip(kinds, names, strict=True):
        tally.count(kind, name)
    return tally.notes()


class ClientTally:
    """Counts photos that a client sees otherwise, one after the other."""

    def __init__(self) -> None:
        self.photos = 0
        self.first: dict[str, str] = {}  # kind -> name of the first photo
        self.counts: Counter[str] = Counter()

    def count(self, kind: str, name: str) -> None:
        """Note a photo; `kind` is that of `seen_otherwise`."""
        self.photos += 1
        self.counts[kind] += 1
        self.first.setdefault(kind, name)

    def notes(self) -> list[str]:
        """One line for each way in which a client sees some of the photos otherwise."""
        return [
            f"{self.counts[kind]:,} of {self.photos:,} {what} (the first is {self.first[kind]}); a client's pipeline "
            f"{seen}; python -m natix_hf.data split PHOTOS --output FOLDER --convert_photos stores them as 8-bit PNG, "
            "which everybody sees alike"
            for kind, (what, seen) in _SEEN.items()
            if self.counts[kind]
        ]
