"""The ways in which a profile sends a photo, one by one: its levels, and its distortions by themselves.

What is drawn is a function of profile, row and view: all levels and distortions of a photo share its rotation, crop
and noise, so that they differ in nothing else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from PIL import Image

from natix_hf.streetvision.distortions import SEVERITIES
from natix_hf.streetvision.profiles import PROFILES, apply_challenge, check_profile, draw_challenge

CLEAN_SIDES = "challenge@2026-05"  # sends photos of their own size, and distorts none


@dataclass(frozen=True)
class Case:
    """One way in which every photo is sent.

    Args:
        profile: a key of `profiles.PROFILES`.
        level: of the profile; None: drawn for each photo as validators draw it.
        distortion: with `level` 0 alone: this one is put on the frame, at `severity` 1 or 2.
        severity: of the distortion.
    """

    profile: str
    level: int | None = None
    distortion: str | None = None
    severity: int | None = None
    view: int = 0


def cases_of(profile: str) -> list[Case]:
    """Every level of a profile, then every distortion by itself at severity 1 and 2 (at 0 it is level 0).

    Raises:
        UserError: no such profile.
    """
    check_profile(profile)
    levels = [Case(profile, level) for level in range(PROFILES[profile])]
    if profile == CLEAN_SIDES:
        return levels
    return levels + [Case(profile, 0, name, severity) for name in SEVERITIES for severity in (1, 2)]


def photo_seed(profile: str, row_id: str, view: int = 0) -> int:
    """The seed of what is drawn for one photo, 63 bits."""
    digest = hashlib.blake2b(f"{profile}\0{row_id}\0{view}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def sent_photo(image: Image.Image, case: Case, row_id: str) -> Image.Image:
    """A photo as it is sent.

    Args:
        image: as `profiles.cached_photo` gives it.
        row_id: of the photo.
    """
    seed = photo_seed(case.profile, row_id, case.view)
    challenge = draw_challenge(case.profile, image.size, level=case.level, seed=seed)
    if case.distortion is not None:
        challenge = replace(challenge, severities={case.distortion: case.severity}, noise_seed=seed)
    return apply_challenge(image, challenge)
