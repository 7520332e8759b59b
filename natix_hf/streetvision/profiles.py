"""What StreetVision's validators make of a photo before they send it, at three points in time.

| profile | size | frame | after it |
| --- | --- | --- | --- |
| `challenge@2025` | 224 x 224 | level 0: centre square; levels 1 to 3: rotation, then a square crop of 20 to 100 % | |
| `challenge@2026-04` | 224 x 224 | letterbox with black bars; levels 1 to 3: then a rotation | distortions |
| `challenge@2026-05` | the photo's own | as it is | nothing |

In the first two, level 2 adds saturation, contrast and downsampling at severity 0 or 1, level 3 these at severity 0
to 2, and noise and blur at severity 0 to 2. All end with a JPEG coding at Pillow's default quality (75).

Before that, all profiles take a photo as the validators' cache holds it (`cached_photo`): its pixels as stored, so a
photo with an EXIF orientation arrives sideways, and a JPEG coded once more at the default quality.

The name with its date, and `SENT`, have to be told with every figure that was made with a profile. Written from the
public description of the task; what that leaves open is decided thus: the severities of one photo are drawn
independently, each value equally likely; distortions come in the order of `distortions.SEVERITIES`; a rotation keeps
the frame's size; the square crop is drawn as by torchvision's RandomResizedCrop at ratio 1, so a wide photo gives
squares of at most its short side; an odd pixel of the letterbox's bars goes below or to the right; resizing is
bilinear with antialiasing. The description also lists mirror images that never happen: there are none here.

This file knows neither labels nor the network. The other half of what validators send, pictures that a diffusion model
drew, is not made here.
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

SIDE = 224  # pixels of what is sent, but for challenge@2026-05
DEGREES = 20.0  # rotations are uniform in -DEGREES to DEGREES
AREA = (0.2, 1.0)  # share of the photo's area in the square crop
ATTEMPTS = 10  # at a square that fits, then the largest centred one is taken
QUALITY = 75  # Pillow's default

# Level -> the greatest severity of each distortion.
LEVELS: tuple[dict[str, int], ...] = (
    {},
    {},
    {"saturation": 1, "contrast": 1, "downsampling": 1},
    dict.fromkeys(SEVERITIES, 2),
)
# Profile -> how many levels it has.
PROFILES = {"challenge@2025": 4, "challenge@2026-04": 4, "challenge@2026-05": 1}
LETTERBOXED = "challenge@2026-04"

# How profiles take photos, as it is told with every figure.
SENT = "pixels as stored, without EXIF orientation; JPEG files coded twice at quality 75"


@dataclass(frozen=True)
class Challenge:
    """What was drawn for one photo.

    Args:
        profile: its name with its date.
        level: 0 to 3.
        angle: degrees counter-clockwise, or None where nothing is rotated.
        crop: left, top and side in pixels of the photo, or None where the whole frame is kept.
        severities: distortion -> 0, 1 or 2, in the order of application.
        noise_seed: of the noise.
    """

    profile: str
    level: int
    angle: float | None = None
    crop: tuple[int, int, int] | None = None
    severities: Mapping[str, int] = field(default_factory=dict)
    noise_seed: int = 0


def check_profile(profile: str, level: int | None = None) -> None:
    """Raise `UserError` unless there is such a profile, and such a level in it."""
    if profile not in PROFILES:
        raise UserError(f"challenge profile {profile!r} is unknown; choose one of {', '.join(PROFILES)}")
    if level is not None and not 0 <= level < PROFILES[profile]:
        raise UserError(f"{profile}: level {level} given, 0 to {PROFILES[profile] - 1} expected")


def check_profiles(profiles: Sequence[str], key: str) -> None:
    """Raise `UserError` where a profile is unknown or there twice; `key` is the option that named them."""
    for profile in profiles:
        try:
            check_profile(profile)
        except UserError as error:
            raise UserError(f"{key}: {error}") from None
        if list(profiles).count(profile) > 1:
            raise UserError(f"{key}: {profile} is there twice: name it once")


def file_name(profile: str) -> str:
    """The profile as it stands in names of files: `challenge-2025`."""
    return profile.replace("@", "-")


def check_levels(profile: str, probabilities: Sequence[float]) -> None:
    """Raise `UserError` unless there is one probability for each level of the profile and they sum to 1."""
    levels, given = PROFILES[profile], list(probabilities)
    # Not `min(given) < 0`, which a NaN would pass.
    if len(given) != levels or not all(p >= 0 for p in given) or not math.isclose(sum(given), 1, abs_tol=1e-6):
        raise UserError(f"{profile}: probabilities {given} given, {levels} that sum to 1 expected")


def check_sendable(profile: str, size: tuple[int, int], name: str = "a photo") -> None:
    """Raise `UserError` where validators never send a photo of this width and height in pixels."""
    if profile == LETTERBOXED and 0 in letterboxed(size):
        strip = " x ".join(map(str, letterboxed(size)))
        raise UserError(
            f"{profile}: {name} of {size[0]} x {size[1]} pixels would be shrunk to {strip}, which is an error there "
            "and never sent: leave that photo or the profile out"
        )


def draw_challenge(
    profile: str,
    size: tuple[int, int],
    *,
    level: int | None = None,
    seed: int = 0,
    level_probabilities: Sequence[float] | None = None,
) -> Challenge:
    """What one photo will get, a pure function of the arguments.

    Args:
        profile: a key of `PROFILES`.
        size: width and height of the photo in pixels.
        level: drawn where it is None.
        seed: a whole number of at least 0; another one for each photo.
        level_probabilities: of the levels, in order; by default all are equally likely, as the validators' are.

    Raises:
        UserError: no such profile or level, probabilities that do not fit it, or a photo that is never sent.
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
    """Width and height of a photo within a square of `SIDE` pixels, cut to whole pixels in floating point.

    As validators compute it: 640 x 360 becomes 224 x 125, not 126; of very long strips the short side is 0.
    """
    scale = min(SIDE / size[0], SIDE / size[1])
    return int(size[0] * scale), int(size[1] * scale)


def letterbox(image: Image.Image) -> Image.Image:
    """The whole photo in a square of `SIDE` pixels between black bars; `check_sendable` tells which have no place."""
    width, height = letterboxed(image.size)
    square = Image.new("RGB", (SIDE, SIDE))
    square.paste(image.resize((width, height), Image.Resampling.BILINEAR), ((SIDE - width) // 2, (SIDE - height) // 2))
    return square


def cached_photo(source: Source) -> Image.Image:
    """A photo in RGB as the validators' cache holds it, where they take it from.

    Its pixels are those that are stored: no EXIF orientation is followed. Their cache saves a photo in its own format,
    so a JPEG is coded once more, at the default quality.

    Args:
        source: a path, the file's bytes, a row's `{"bytes": ..., "path": ...}`, or an image that is open. One that was
            not read from a file has no format, and is taken as it is.

    Raises:
        PhotoError: the photo cannot be read.
    """
    image = stored_photo(source)
    if image.format in ("JPEG", "MPO"):
        image = _coded(image)
    return image.convert("RGB")


def apply_challenge(image: Image.Image, challenge: Challenge) -> Image.Image:
    """The photo as it is sent.

    Args:
        image: as `cached_photo` gives it.
        challenge: drawn for a photo of this size.
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
    """The photo in RGB after it was written as JPEG at the quality that validators use, and read again."""
    return _coded(image).convert("RGB")


def _coded(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return Image.open(file)
