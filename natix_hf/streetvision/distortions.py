"""The five distortions that StreetVision's validators put on photos, each at the two severities that they use.

Written from the public description of the task. Where it leaves something open, the choice stands in the docstring of
the distortion. All work on 8-bit RGB and cut off decimals where the description names no rounding, as a cast to
integers does. Which of them a photo gets is the business of `profiles.py`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from natix_hf.errors import UserError

# Name -> the parameter at severity 1 and 2; in the order in which validators apply them.
SEVERITIES = {
    "saturation": (0.4, 0.3),  # factor of the chroma
    "contrast": (0.85, 0.725),  # factor of every pixel
    "downsampling": (2, 3),  # sides are divided by it, then restored; validators call it "JPEG"
    "noise": (0.001, 0.002),  # variance, in units where 255 is 1
    "blur": (7, 9),  # kernel in pixels
}

_LUMA = torch.tensor([0.299, 0.587, 0.114])
# What a change of 1 in Y, Cb and Cr (in the broadcast range, 8 bits) does to R, G and B: BT.601, columns Y, Cb, Cr.
_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]]) * (
    np.array([255 / 219, 255 / 224, 255 / 224])
)


def _saturation(pixels: Tensor, factor: float, rng: np.random.Generator) -> Tensor:
    luma = torch.tensordot(_LUMA, pixels.float(), dims=1)
    # A thousandth more, so that a grey stays what it is in spite of the last binary digit.
    return (luma + factor * (pixels - luma) + 1e-3).to(torch.uint8)


def _contrast(pixels: Tensor, factor: float, rng: np.random.Generator) -> Tensor:
    return functional.adjust_brightness(pixels, factor)


def _downsampling(pixels: Tensor, divisor: int, rng: np.random.Generator) -> Tensor:
    height, width = pixels.shape[-2:]
    small = [max(1, height // divisor), max(1, width // divisor)]
    for size in (small, [height, width]):
        # As floats, since torch's way for whole numbers is off by two here and there.
        pixels = functional.resize(pixels.float(), size, antialias=False).round()
    return pixels.to(torch.uint8)


def _noise(pixels: Tensor, variance: float, rng: np.random.Generator) -> Tensor:
    height, width = pixels.shape[-2:]
    ycbcr = rng.normal(0, 255 * math.sqrt(variance), (3, height * width))
    noise = torch.from_numpy((_TO_RGB @ ycbcr).reshape(3, height, width))
    return (pixels + noise).clamp(0, 255).to(torch.uint8)


def _blur(pixels: Tensor, kernel: int, rng: np.random.Generator) -> Tensor:
    return functional.gaussian_blur(pixels, [kernel, kernel], [kernel / 6, kernel / 6])


DISTORTIONS = {
    "saturation": _saturation,
    "contrast": _contrast,
    "downsampling": _downsampling,
    "noise": _noise,
    "blur": _blur,
}


def distort_pixels(pixels: Tensor, name: str, severity: int, rng: np.random.Generator) -> Tensor:
    """One distortion of a photo, a pure function of its arguments.

    Args:
        pixels: `(3, height, width)` uint8; validators distort what they have brought to 224 x 224 before.
        name: one of

            - `saturation`: colours are drawn towards their own luma, `Y + factor (RGB - Y)` with BT.601's Y, which
              scales the chroma and keeps the luma; factor 0.4, 0.3.
            - `contrast`: every pixel is multiplied by 0.85, 0.725, which darkens it as well.
            - `downsampling` ("JPEG" to validators): bilinear without antialiasing to whole parts of a half, a third
              of the sides, and back. The description says "by 2/3"; since every other pair in it is that of the two
              severities, so is this.
            - `noise`: Gaussian in YCbCr, independent by pixel and channel, of variance 0.001, 0.002. Taken as that
              of 8-bit YCbCr in the broadcast range (Y 16 to 235) in units where 255 is 1: a grey of 128 gets a
              standard deviation of 9.4, 13.3 grey levels.
            - `blur`: Gaussian, kernel k of 7, 9 pixels with sigma k / 6; edges are mirrored.
        severity: 1 or 2; 0 returns the photo as it is.
        rng: of the noise; the others draw nothing.

    Raises:
        UserError: no such distortion, or no such severity.
    """
    if name not in SEVERITIES:
        raise UserError(f"distortion {name!r} is unknown; choose one of {', '.join(SEVERITIES)}")
    if severity not in (0, 1, 2):
        raise UserError(f"distortion {name}: severity {severity} given, 0 (none), 1 or 2 expected")
    if severity == 0:
        return pixels
    return DISTORTIONS[name](pixels, SEVERITIES[name][severity - 1], rng)
