"""Transforms photos as StreetVision's validators do before they send them, at three points in time.

| profile | size | frame | distortions |
| --- | --- | --- | --- |
| `challenge@2025` | 224 x 224 | level 0: centre square; levels 1 to 3: rotation, square crop of 20 to 100 % | yes |
| `challenge@2026-04` | 224 x 224 | letterbox with black bars; levels 1 to 3: then a rotation | yes |
| `challenge@2026-05` | unchanged | unchanged | no |

In the first two profiles, level 2 adds saturation, contrast and downsampling at severity 0 or 1. Level 3 adds these,
noise and blur at severity 0 to 2. Every photo is finally encoded as JPEG at Pillow's default quality (75).

All profiles start from the photo in the validators' cache (`cached_photo`). The cache ignores the EXIF orientation, so
such a photo can be sideways, and it encodes JPEG files again at the default quality.

Every figure that is measured with a profile must be reported with the profile's dated name and with `SENT`. The
profiles follow the public description of the task. Where it is ambiguous, we chose:

- Severities of one photo are drawn independently and uniformly. The order is that of `distortions.SEVERITIES`.
- A rotation keeps the size of the frame.
- The square crop is drawn like torchvision's RandomResizedCrop at ratio 1, so its side is at most the photo's short
  side.
- If the letterbox bars have an odd number of pixels, the extra one is below or on the right.
- Resizing is bilinear with antialiasing.
- The description lists mirror images that never happen; we make none.

Validators also send pictures from a diffusion model, which this module does not make.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from torchvision.transforms.v2 import functional

from natix_hf.errors import UserError
from natix_hf.photos.decode import Source, stored_photo
from natix_hf.streetvision.distortions import SEVERITIES, distort_pixels

SIDE = 224  # side of the sent photo in pixels, except in challenge@2026-05
DEGREES = 20.0  # rotations are uniform in -DEGREES to DEGREES
AREA = (0.2, 1.0)  # area of the square crop as a share of the photo's area
ATTEMPTS = 10  # draws of a square that fits; after them the largest centred square is taken
QUALITY = 75  # Pillow's default

# Level -> the highest severity of each distortion.
LEVELS: tuple[dict[str, int], ...] = (
    {},
    {},
    {"saturation": 1, "contrast": 1, "downsampling": 1},
    dict.fromkeys(SEVERITIES, 2),
)
# Profile -> its number of levels.
PROFILES = {"challenge@2025": 4, "challenge@2026-04": 4, "challenge@2026-05": 1}
LETTERBOXED = "challenge@2026-04"

# How profiles read photos; reported with every figure.
SENT = "pixels as stored, without EXIF orientation; JPEG files coded twice at quality 75"


@dataclass(frozen=True)
class Challenge:
    """The random choices for one photo.

    Args:
        profile: dated name of the profile.
        level: 0 to 3.
        angle: degrees counter-clockwise, or None for no rotation.
        crop: left, top and side in pixels of the photo, or None for the whole frame.
        severities: distortion -> 0, 1 or 2, in the order of application.
        noise_seed: seed of the noise.
    """

    profile: str
    level: int
    angle: float | None = None
    crop: tuple[int, int, int] | None = None
    severities: Mapping[str, int] = field(default_factory=dict)
    noise_seed: int = 0


def check_profile(profile: str, level: int | None = None) -> None:
    """Raise `UserError` if the profile, or this level of it, does not exist."""
    if profile not in PROFILES:
        raise UserError(f"challenge profile {profile!r} is unknown: choose one of {', '.join(PROFILES)}")
    if level is not None and not 0 <= level < PROFILES[profile]:
        raise UserError(f"{profile}: expected level 0 to {PROFILES[profile] - 1}, found {level}")


def check_profiles(profiles: Sequence[str], key: str) -> None:
    """Raise `UserError` if a profile is unknown or listed twice; `key` is the option that lists them."""
    for profile in profiles:
        try:
            check_profile(profile)
        except UserError as error:
            raise UserError(f"{key}: {error}") from None
        if list(profiles).count(profile) > 1:
            raise UserError(f"{key}: {profile} is listed twice: list it once")


def file_name(profile: str) -> str:
    """The profile's name in the form that file names use: `challenge-2025`."""
    return profile.replace("@", "-")


def check_levels(profile: str, probabilities: Sequence[float]) -> None:
    """Raise `UserError` unless there is one probability for each level of the profile and they sum to 1."""
    levels, chances = PROFILES[profile], list(probabilities)
    # Not `min(chances) < 0`, which NaN would pass.
    if len(chances) != levels or not all(p >= 0 for p in chances) or not math.isclose(sum(chances), 1, abs_tol=1e-6):
        raise UserError(f"{profile}: expected {levels} probabilities that sum to 1, found {chances}")


def check_sendable(profile: str, size: tuple[int, int], name: str = "a photo") -> None:
    """Raise `UserError` if validators cannot send a photo of this width and height in pixels."""
    if profile == LETTERBOXED and 0 in letterboxed(size):
        strip = " x ".join(map(str, letterboxed(size)))
        raise UserError(
            f"{profile}: {name} of {size[0]} x {size[1]} pixels would be shrunk to {strip} pixels, which fails at the "
            "validators, so they never send it: leave out the photo or the profile"
        )


def draw_challenge(
    profile: str,
    size: tuple[int, int],
    *,
    level: int | None = None,
    seed: int = 0,
    level_probabilities: Sequence[float] | None = None,
) -> Challenge:
    """Draw the random choices for one photo. The result depends only on the arguments.

    Args:
        profile: a key of `PROFILES`.
        size: width and height of the photo in pixels.
        level: None draws a level.
        seed: an integer of at least 0; use a different one for each photo.
        level_probabilities: probabilities of the levels; by default all are equally likely, as at the validators.

    Raises:
        UserError: the profile or the level does not exist, the probabilities do not fit the profile, or validators
            cannot send the photo.
    """
    check_profile(profile, level)
    check_sendable(profile, size)
    rng, levels = np.random.default_rng(seed), PROFILES[profile]
    chances = [1 / levels] * levels if level_probabilities is None else list(level_probabilities)
    check_levels(profile, chances)
    drawn = int(np.searchsorted(np.cumsum(chances), rng.random(), side="right"))
    level = min(drawn, levels - 1) if level is None else level
    if profile == "challenge@2026-05":
        return Challenge(profile, level)
    square = profile == "challenge@2025"
    if level == 0:
        return Challenge(profile, level, crop=_centre(*size) if square else None)
    angle = rng.uniform(-DEGREES, DEGREES)
    crop = _crop(*size, rng) if square else None
    severities = {name: int(rng.integers(most + 1)) for name, most in LEVELS[level].items()}
    return Challenge(profile, level, angle, crop, severities, noise_seed=int(rng.integers(2**63)))


def _centre(width: int, height: int) -> tuple[int, int, int]:
    side = min(width, height)
    return round((width - side) / 2), round((height - side) / 2), side


def _crop(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int]:
    for _ in range(ATTEMPTS):
        side = round(math.sqrt(rng.uniform(*AREA) * width * height))
        if 0 < side <= min(width, height):
            return int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1)), side
    return _centre(width, height)


def letterboxed(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a photo resized into a square of `SIDE` pixels, truncated to whole pixels.

    Floating point errors are those of the validators: 640 x 360 becomes 224 x 125, not 126. The short side of a very
    long strip becomes 0.
    """
    scale = min(SIDE / size[0], SIDE / size[1])
    return int(size[0] * scale), int(size[1] * scale)


def letterbox(image: Image.Image) -> Image.Image:
    """The whole photo in a square of `SIDE` pixels with black bars. `check_sendable` refuses photos that don't fit."""
    width, height = letterboxed(image.size)
    square = Image.new("RGB", (SIDE, SIDE))
    square.paste(image.resize((width, height), Image.Resampling.BILINEAR), ((SIDE - width) // 2, (SIDE - height) // 2))
    return square


def cached_photo(source: Source) -> Image.Image:
    """A photo in RGB as it is in the validators' cache.

    The cache ignores the EXIF orientation. It saves a photo in its original format, so a JPEG file is encoded again at
    the default quality.

    Args:
        source: a path, the file's bytes, a row's `{"bytes": ..., "path": ...}`, or an open image. An image that was
            not read from a file has no format and is not encoded again.

    Raises:
        PhotoError: the photo cannot be read.
    """
    image = stored_photo(source)
    if image.format in ("JPEG", "MPO"):
        return jpeg(image)
    return image.convert("RGB")


def apply_challenge(image: Image.Image, challenge: Challenge) -> Image.Image:
    """The photo in the form in which it is sent.

    Args:
        image: result of `cached_photo`.
        challenge: result of `draw_challenge` for a photo of this size.
    """
    if challenge.profile == LETTERBOXED:
        image = letterbox(image)
    if challenge.angle is not None:
        image = image.rotate(challenge.angle, Image.Resampling.NEAREST, fillcolor=(0, 0, 0))
    if challenge.crop is not None:
        left, top, side = challenge.crop
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    if any(challenge.severities.values()):
        pixels, rng = functional.pil_to_tensor(image), np.random.default_rng(challenge.noise_seed)
        for name, severity in challenge.severities.items():
            pixels = distort_pixels(pixels, name, severity, rng)
        image = functional.to_pil_image(pixels)
    return jpeg(image)


def jpeg(image: Image.Image) -> Image.Image:
    """The photo in RGB after encoding and decoding it as JPEG at the validators' quality."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return Image.open(file).convert("RGB")
