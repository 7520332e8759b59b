"""Training augmentation: each view depends only on (seed, epoch, row id).

So a resumed run, or one with more workers or processes, sees the same views. Photos that are scored are never
augmented. Normalisation is left to the image processor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import (
    AugMix,
    AutoAugment,
    InterpolationMode,
    RandAugment,
    Transform,
    TrivialAugmentWide,
    functional,
)

from natix_hf.errors import UserError
from natix_hf.files import text_seed
from natix_hf.photos.decode import Source, open_photo
from natix_hf.photos.geometry import Geometry, Tiles
from natix_hf.streetvision.profiles import PROFILES, apply_challenge, cached_photo, check_levels, draw_challenge

# Applied after the crop and flip of `basic`, with torchvision's default settings and bilinear interpolation.
POLICIES = {"basic": None, "auto": AutoAugment, "rand": RandAugment, "trivial": TrivialAugmentWide, "augmix": AugMix}
LEAST_AREA = 0.75  # smallest crop area as a share of the largest; measured by tests/bench/crop_mismatch.py
CROP_TRIES = 10  # draws of area and shape; the first crop that fits into the photo is used
AUGMENTATIONS = ("none", *POLICIES, *PROFILES)


def view_seed(seed: int, epoch: int, row_id: str) -> int:
    """The random seed of one view: 63 bits of the blake2b of (seed, epoch, row id)."""
    return text_seed(f"{seed}\0{epoch}\0{row_id}")


def check_augment(augment: str, challenge_levels: Sequence[float] | None = None) -> None:
    """Raise `UserError` if the augmentation is unknown, or if it has no levels and some were specified."""
    if augment not in AUGMENTATIONS:
        raise UserError(f"augment: expected one of {', '.join(AUGMENTATIONS)}; found {augment!r}")
    if challenge_levels is not None:
        with_levels = [name for name, levels in PROFILES.items() if levels > 1]
        if augment not in with_levels:
            raise UserError(
                f"challenge_levels: augment {augment} has no levels, only {' and '.join(with_levels)} have them: "
                "remove the key with --challenge_levels null"
            )
        check_levels(augment, challenge_levels)


def drawn_tiles(geometry: Tiles, count: int, *, seed: int, epoch: int, row_id: str) -> list[int]:
    """Indices of the tiles of a photo that a training step uses, a pure function of (seed, epoch, row id)."""
    generator = torch.Generator().manual_seed(view_seed(seed, epoch, f"{row_id}\0tiles"))
    return sorted(torch.randperm(geometry.tiles, generator=generator)[:count].tolist())


def needs_whole_photo(augment: str) -> bool:
    """Whether the photo must be decoded at full size, where the challenge transforms of validators apply."""
    return augment in PROFILES


def photo_for_view(source: Source, augment: str, geometry: Geometry) -> Image.Image:
    """An RGB photo for `training_view`: decoded at full size for a challenge, otherwise by the faster reduced decode.

    Args:
        source: as for `photos.decode.open_photo`.
        augment: name of the augmentation.
        geometry: geometry of the view.

    Raises:
        PhotoError: the photo cannot be read.
    """
    if needs_whole_photo(augment):
        return cached_photo(source)
    # Decoding to the size of a pre-resized copy is enough: no crop is enlarged.
    return open_photo(source, min_side=geometry.copy_side())


def _crop_and_flip(pixels: Tensor, geometry: Geometry, generator: torch.Generator) -> Tensor:
    # The aspect ratio varies around that of the scored view; the area is relative to the largest such crop. Crops are
    # large because the object that decides the label may be small and near the edge.
    height, width = pixels.shape[-2:]
    aspect, most = geometry.crop_limits(width, height)
    # Draw all numbers at once, as shares of the sides, so that a smaller copy of the photo gets the same crop.
    drawn = torch.rand(2 * CROP_TRIES + 3, generator=generator, dtype=torch.float64).tolist()
    across, down, mirrored = drawn[:3]
    for area, shape in zip(drawn[3::2], drawn[4::2]):
        area = most * (LEAST_AREA + (1 - LEAST_AREA) * area)
        shape = aspect * 0.85 ** (2 * shape - 1)  # ratio of shares, not of pixels
        wide, high = math.sqrt(area * shape), math.sqrt(area / shape)
        if wide <= 1 and high <= 1:
            break
    else:  # less than once in 100,000 views
        wide, high = min(1.0, math.sqrt(most * aspect)), min(1.0, math.sqrt(most / aspect))
    crop_width, crop_height = max(1, round(wide * width)), max(1, round(high * height))
    left, top = round(across * (width - crop_width)), round(down * (height - crop_height))
    if isinstance(geometry, Tiles):  # tiles are cut from the crop at its own resolution
        view = functional.crop(pixels, top, left, crop_height, crop_width)
    else:
        size = [geometry.height, geometry.width]
        view = functional.resized_crop(pixels, top, left, crop_height, crop_width, size, antialias=True)
    return functional.horizontal_flip(view) if mirrored < 0.5 else view


@lru_cache
def _policy(augment: str) -> Transform | None:
    policy = POLICIES[augment]
    return None if policy is None else policy(interpolation=InterpolationMode.BILINEAR)


def training_view(
    image: Image.Image | Tensor,
    *,
    augment: str,
    geometry: Geometry,
    seed: int,
    epoch: int,
    row_id: str,
    challenge_levels: Sequence[float] | None = None,
    tiles: Sequence[int] | None = None,
) -> Tensor:
    """One training view of a photo: a pure function of its arguments that does not touch the global random state.

    Args:
        image: RGB photo of any size from `photo_for_view`; except for challenges also its pixels,
            `(3, height, width)` uint8.
        augment: one of

            - `none`: the same view as for scoring.
            - `basic`: a random crop of 3/4 to all of the area, with about the aspect ratio of the scored view, resized
              without keeping the ratio, and a horizontal flip with probability 1/2.
            - `auto` (AutoAugment, the policy of ImageNet; Cubuk et al., 2019), `rand` (RandAugment; 2020), `trivial`
              (TrivialAugment Wide; Müller and Hutter, 2021), `augmix` (AugMix; Hendrycks et al., 2020): after `basic`.
            - `challenge@2025`, `challenge@2026-04`, `challenge@2026-05`: the photo as StreetVision's validators send
              it (`streetvision.profiles`), then prepared as for scoring; no flips.
        geometry: how a photo becomes a view, the same as for scoring.
        seed: seed of the run.
        epoch: epoch number; each epoch has different views.
        row_id: the row's `id`.
        challenge_levels: probabilities of the levels of a `challenge@...`; by default all are equally likely.
        tiles: indices of the tiles to return after the whole photo; by default all.

    Returns:
        uint8 tensor `(3, H, W)`, with tiles `(views, 3, H, W)`. The photo is augmented before it is cut into tiles.

    Raises:
        UserError: `augment` is not one of the names above, or the levels do not match it.
    """
    check_augment(augment, challenge_levels)
    drawn = view_seed(seed, epoch, row_id)
    if augment in PROFILES:
        challenge = draw_challenge(augment, image.size, seed=drawn, level_probabilities=challenge_levels)
        image = apply_challenge(image, challenge)
    pixels = image if isinstance(image, Tensor) else functional.pil_to_tensor(image)
    if augment not in POLICIES:
        return geometry.pixel_values(pixels, tiles)
    generator = torch.Generator().manual_seed(drawn)
    view, policy = _crop_and_flip(pixels, geometry, generator), _policy(augment)
    if policy is not None:
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would also reseed the GPUs and so change the dropout of the run.
            torch.default_generator.set_state(generator.get_state())
            view = policy(view)
    return geometry.pixel_values(view, tiles) if isinstance(geometry, Tiles) else view
