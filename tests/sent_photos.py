"""Photos to send, and one call for what validators make of one."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from torchvision.transforms.v2 import functional

from natix_hf.photos.decode import Source
from natix_hf.streetvision.distortions import distort_pixels
from natix_hf.streetvision.profiles import apply_challenge, cached_photo, draw_challenge


def noise_photo(width: int = 97, height: int = 61) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def coded(image: Image.Image) -> Image.Image:
    """The photo through JPEG as Pillow writes it unless told otherwise."""
    file = io.BytesIO()
    image.save(file, "JPEG")
    return Image.open(file).convert("RGB")


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(float)


def challenge_photo(source: Source, profile: str, **options: Any) -> Image.Image:
    """A photo as validators send it; `options` are those of `draw_challenge`."""
    image = cached_photo(source)
    return apply_challenge(image, draw_challenge(profile, image.size, **options))


def distort(image: Image.Image, name: str, severity: int, *, seed: int = 0) -> Image.Image:
    """One distortion of a photo."""
    pixels = distort_pixels(functional.pil_to_tensor(image), name, severity, np.random.default_rng(seed))
    return functional.to_pil_image(pixels)
