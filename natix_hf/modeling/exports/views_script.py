"""`views.py`, which lies beside a graph that sees tiles: photos as the graph takes them, in numpy and Pillow alone."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from natix_hf.modeling.image_processing_natix_dinov3 import tile_boxes

HEADER = '''\
"""Photos as the graph beside this file takes them: the whole photo, then its tiles. Needs numpy and Pillow.

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


def pixel_values(photo: Image.Image) -> np.ndarray:
    """A photo, upright and in RGB, as `(1, views, 3, H, W)` float32."""
    settings = json.loads(Path(__file__).with_name("preprocessor_config.json").read_text(encoding="utf-8"))
    photo = ImageOps.exif_transpose(photo).convert("RGB")
    pixels = np.asarray(photo, dtype=np.float32) * np.float32(settings["rescale_factor"])
    mean, std = (np.array(settings[name], dtype=np.float32) for name in ("image_mean", "image_std"))
    size = (settings["size"]["width"], settings["size"]["height"])
    boxes = tile_boxes(*photo.size, settings["views_grid"], settings["views_overlap"])
    views = []
    for left, top, wide, high in [(0, 0, *photo.size), *boxes]:
        part = pixels[top : top + high, left : left + wide]
        # Channel by channel, since Pillow resizes floats of one channel alone.
        bands = [Image.fromarray(part[..., band]).resize(size, Image.Resampling.BILINEAR) for band in range(3)]
        views.append((np.stack(bands) - mean[:, None, None]) / std[:, None, None])
    return np.stack(views)[None]


def views_script() -> str:
    """The text of the file."""
    return "\n".join([HEADER, inspect.getsource(tile_boxes), "", inspect.getsource(pixel_values), FOOTER])
