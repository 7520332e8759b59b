"""Makes `views.py`, a script beside a graph with tiles that prepares photos for it with numpy and Pillow.

The functions below, with their docstrings, are copied into that script.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from natix_hf.modeling.image_processing_natix_dinov3 import tile_boxes

HEADER = '''\
"""Prepares photos for the graph beside this file: the whole photo, then its tiles. Needs numpy and Pillow.

python views.py street.jpg pixels.npy
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
'''
FOOTER = """
if __name__ == "__main__":
    np.save(sys.argv[2], pixel_values(Image.open(sys.argv[1])))
"""


def resize_weights(length: int, size: int) -> np.ndarray:
    """Weights `(size, length)` that resize `length` pixels to `size`: a triangle filter, wider when shrinking.

    The rounding to float32 follows torch step by step, because the graph was trained on photos resized by torch.
    Pillow works in float64 and differs by a thousandth of a grey level.
    """
    scale = np.float32(length / size)
    reach = max(scale, np.float32(1))
    weights = np.zeros((size, length), dtype=np.float32)
    for row in range(size):
        centre = np.float32(float(scale) * (row + 0.5))
        first = max(int(float(centre - reach) + 0.5), 0)
        last = min(int(float(centre + reach) + 0.5), length)
        distance = (np.arange(first, last, dtype=np.float32) - centre).astype(np.float64) + 0.5
        triangle = np.maximum(1 - np.abs((distance / reach).astype(np.float32)), 0)
        weights[row, first:last] = triangle / triangle.sum()
    return weights


def pixel_values(photo: Image.Image) -> np.ndarray:
    """Pixels `(1, views, 3, H, W)` float32 of a photo, which is turned upright and converted to RGB."""
    settings = json.loads(Path(__file__).with_name("preprocessor_config.json").read_text(encoding="utf-8"))
    photo = ImageOps.exif_transpose(photo).convert("RGB")
    pixels = np.asarray(photo, dtype=np.float32) * np.float32(settings["rescale_factor"])
    mean, std = (np.array(settings[name], dtype=np.float32) for name in ("image_mean", "image_std"))
    boxes = tile_boxes(*photo.size, settings["views_grid"], settings["views_overlap"])
    views = []
    for left, top, wide, high in [(0, 0, *photo.size), *boxes]:
        part = pixels[top : top + high, left : left + wide].transpose(2, 0, 1)
        down = resize_weights(high, settings["size"]["height"])
        across = resize_weights(wide, settings["size"]["width"])
        views.append((down @ (part @ across.T) - mean[:, None, None]) / std[:, None, None])
    return np.stack(views)[None]


def views_script() -> str:
    """The text of `views.py`."""
    functions = "\n\n".join(map(inspect.getsource, (tile_boxes, resize_weights, pixel_values)))
    return f"{HEADER}\n\n{functions}\n{FOOTER}"
