"""The cases in which a profile sends a photo: each of its levels, and each distortion separately.

Random choices depend only on profile, row and view. All levels and distortions of a photo therefore share its
rotation, crop and noise, and differ in nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from PIL import Image

from natix_hf.files import text_seed
from natix_hf.streetvision.distortions import SEVERITIES
from natix_hf.streetvision.profiles import PROFILES, apply_challenge, check_profile, draw_challenge

CLEAN_SIDES = "challenge@2026-05"  # sends photos in their original size without distortions


@dataclass(frozen=True)
class Case:
    """One way of sending every photo.

    Args:
        profile: a key of `profiles.PROFILES`.
        level: level of the profile; None draws one for each photo as validators do.
        distortion: a single distortion to apply at level 0, or None.
        severity: 1 or 2, severity of the distortion.
        view: number of the random draw, for several draws of the same photo.
    """

    profile: str
    level: int | None = None
    distortion: str | None = None
    severity: int | None = None
    view: int = 0


def cases_of(profile: str) -> list[Case]:
    """Every level of a profile, then every distortion separately at severity 1 and 2.

    Raises:
        UserError: the profile does not exist.
    """
    check_profile(profile)
    levels = [Case(profile, level) for level in range(PROFILES[profile])]
    if profile == CLEAN_SIDES:
        return levels
    return levels + [Case(profile, 0, name, severity) for name in SEVERITIES for severity in (1, 2)]


def photo_seed(profile: str, row_id: str, view: int = 0) -> int:
    """The 63-bit seed of the random choices for one photo."""
    return text_seed(f"{profile}\0{row_id}\0{view}")


def sent_photo(image: Image.Image, case: Case, row_id: str) -> Image.Image:
    """The photo in the form in which it is sent.

    Args:
        image: result of `profiles.cached_photo`.
        case: the way of sending it.
        row_id: id of the photo's row.
    """
    seed = photo_seed(case.profile, row_id, case.view)
    challenge = draw_challenge(case.profile, image.size, level=case.level, seed=seed)
    if case.distortion is not None:
        challenge = replace(challenge, severities={case.distortion: case.severity}, noise_seed=seed)
    return apply_challenge(image, challenge)
