"""The five distortions that StreetVision's validators apply to photos, each at their two severities.

They follow the public description of the task. Where it is ambiguous, the docstring of the distortion says what we
chose. All distortions work on 8-bit RGB. If the description does not mention rounding, they truncate decimals, like a
cast to integers. `profiles.py` decides which distortions a photo gets.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from natix_hf.errors import UserError

# Name -> the parameter at severity 1 and 2, in the order in which validators apply the distortions.
SEVERITIES = {
    "saturation": (0.4, 0.3),  # factor of the chroma
    "contrast": (0.85, 0.725),  # factor of every pixel
    "downsampling": (2, 3),  # divisor of the sides, which are then restored; validators call it "JPEG"
    "noise": (0.001, 0.002),  # variance, in units where 255 is 1
    "blur": (7, 9),  # kernel size in pixels
}

_LUMA = torch.tensor([0.299, 0.587, 0.114])
# Change of R, G, B (rows) per change of 1 in Y, Cb, Cr (columns): BT.601, 8 bits, broadcast range.
_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]]) * (
    np.array([255 / 219, 255 / 224, 255 / 224])
)


def _saturation(pixels: Tensor, factor: float, rng: np.random.Generator) -> Tensor:
    luma = torch.tensordot(_LUMA, pixels.float(), dims=1)
    # Adding 0.001 keeps grey pixels unchanged despite rounding errors in the last binary digit.
    return (luma + factor * (pixels - luma) + 1e-3).to(torch.uint8)


def _contrast(pixels: Tensor, factor: float, rng: np.random.Generator) -> Tensor:
    return functional.adjust_brightness(pixels, factor)


def _downsampling(pixels: Tensor, divisor: int, rng: np.random.Generator) -> Tensor:
    height, width = pixels.shape[-2:]
    small = [max(1, height // divisor), max(1, width // divisor)]
    for size in (small, [height, width]):
        # As floats, because torch's integer kernel differs by up to two grey levels.
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
    """Apply one distortion to a photo. The result depends only on the arguments.

    Args:
        pixels: `(3, height, width)` uint8; validators resize photos to 224 x 224 first.
        name: one of the following; pairs are the values at severity 1 and 2.

            - `saturation`: moves colours towards their luma, `Y + factor (RGB - Y)` with Y of BT.601, which scales the
              chroma and keeps the luma. Factor 0.4, 0.3.
            - `contrast`: multiplies every pixel by 0.85, 0.725, which also darkens the photo.
            - `downsampling` ("JPEG" to validators): resizes to a half, a third of the sides (rounded down) and back,
              bilinear without antialiasing. The description says "by 2/3". We read this as 2 and 3 at the two
              severities, because all its other pairs are values at the two severities.
            - `noise`: adds Gaussian noise in YCbCr, independent by pixel and channel, of variance 0.001, 0.002. We
              read this as 8-bit YCbCr in the broadcast range (Y 16 to 235) in units where 255 is 1. A grey of 128 then
              gets a standard deviation of 9.4, 13.3 grey levels.
            - `blur`: Gaussian with kernel k of 7, 9 pixels and sigma k / 6; edges are mirrored.
        severity: 1 or 2; 0 returns the photo unchanged.
        rng: generator of the noise; the other distortions are deterministic.

    Raises:
        UserError: the distortion or the severity does not exist.
    """
    if name not in SEVERITIES:
        raise UserError(f"distortion {name!r} is unknown: choose one of {', '.join(SEVERITIES)}")
    if severity not in (0, 1, 2):
        raise UserError(f"distortion {name}: expected severity 0 (none), 1 or 2, found {severity}")
    if severity == 0:
        return pixels
    return DISTORTIONS[name](pixels, SEVERITIES[name][severity - 1], rng)
