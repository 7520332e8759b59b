"""Perceptual hashes that find copies of a photo, and a thumbnail that confirms them.

A hash contains the signs of the 64 lowest frequencies of the cosine transform of the photo, stretched to a square
(after Zauner, 2010; without the mean, whose sign carries no information). The signs survive changes of JPEG quality,
size and brightness, but mirroring and cropping change them. Therefore hashes of the mirror image and of some windows
are stored too, and compared with the plain hashes of other photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image

SIZE = 64  # side of the thumbnail in pixels
FINE = 2 * SIZE  # side in pixels of the grey image from which the hashes are computed
CUTS = (0.05, 0.10)  # shares of width and height that the windows cut off
# Along each axis a window keeps everything (0) or cuts off both ends equally (1), the end (2) or the beginning (3).
PLACEMENTS = ((1, 1), (2, 2), (2, 3), (3, 2), (3, 3), (0, 2), (0, 3), (2, 0), (3, 0))


def _spans() -> list[tuple[float, float]]:
    """Beginning and length of each span along one axis, as shares of it; the first is the whole axis."""
    spans = [(0.0, 1.0)]
    for cut in CUTS:
        spans += [(cut / 2, 1 - cut), (0.0, 1 - cut), (cut, 1 - cut)]
    return spans


# Each window as the numbers of its spans down and across; the first is the whole photo.
WINDOWS = ((0, 0), *((y and y + 3 * i, x and x + 3 * i) for i in range(len(CUTS)) for y, x in PLACEMENTS))
QUERIES = 2 * len(WINDOWS)  # all windows, then their mirror images; query 0 is the whole photo
LOOK_BYTES = 8 * QUERIES + SIZE * SIZE


def window(query: int) -> tuple[bool, tuple[float, float], tuple[float, float]]:
    """Whether a query is mirrored, and beginning and length of its window down and across."""
    down, across = WINDOWS[query % len(WINDOWS)]
    return query >= len(WINDOWS), _spans()[down], _spans()[across]


@lru_cache(maxsize=1)
def _transform() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`(spans * frequencies, FINE)` cosines, and for each hash bit its frequency down, across and mirror sign."""
    order = sorted(product(range(11), repeat=2), key=lambda f: (sum(f), f))[1:65]
    down, across = np.array(order).T
    edges = np.linspace(0, 1, FINE + 1)
    rows = []
    for start, length in _spans():
        x = np.clip((edges - start) / length, 0, 1)
        for frequency in range(int(max(down.max(), across.max())) + 1):
            # The exact integral of the cosine over the part of each pixel inside the window.
            integral = np.sin(np.pi * frequency * x) / (np.pi * frequency) if frequency else x
            rows.append(np.diff(integral))
    # The mirror image of a cosine of odd frequency is its negative. The bits are reordered so that no byte of a hash
    # consists of neighbouring frequencies.
    spread = np.arange(64).reshape(8, 8).T.ravel()
    down, across = down[spread], across[spread]
    return np.array(rows, dtype=np.float32), down, across, np.where(across % 2, -1, 1).astype(np.float32)


def look(image: Image.Image) -> bytes:
    """The look of a photo: `QUERIES` hashes of 64 bits, then a grey thumbnail.

    Args:
        image: RGB, upright, any size; a JPEG may have been decoded at reduced size.

    Returns:
        `LOOK_BYTES` bytes.
    """
    grey = np.asarray(image.convert("L").resize((FINE, FINE), Image.Resampling.BILINEAR, reducing_gap=3.0))
    cosines, down, across, sign = _transform()
    spans = len(_spans())
    spectrum = cosines @ grey.astype(np.float32) @ cosines.T
    spectrum = spectrum.reshape(spans, -1, spans, len(cosines) // spans)
    wy, wx = np.array(WINDOWS).T
    values = spectrum[wy[:, None], down, wx[:, None], across]  # (windows, 64)
    bits = np.concatenate([values, values * sign]) > 0
    small = grey.reshape(SIZE, 2, SIZE, 2).mean(axis=(1, 3))
    return np.packbits(bits, axis=1).tobytes() + np.rint(small).astype(np.uint8).tobytes()


def hashes(looks: Sequence[bytes]) -> np.ndarray:
    """Hashes of n looks, `(n, QUERIES)` uint64: the photo, its windows, and the mirror images of both."""
    joined = b"".join(photo[: 8 * QUERIES] for photo in looks)
    return np.frombuffer(joined, dtype=np.uint64).reshape(len(looks), QUERIES)


def thumbnails(looks: Sequence[bytes]) -> np.ndarray:
    """Grey thumbnails of n looks, `(n, SIZE, SIZE)` uint8, stretched to a square."""
    joined = b"".join(photo[8 * QUERIES :] for photo in looks)
    return np.frombuffer(joined, dtype=np.uint8).reshape(len(looks), SIZE, SIZE)
