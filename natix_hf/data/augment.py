"""What training does to a photo before the network sees it: a view that depends on nothing but (seed, epoch, row id).

So a resumed run, more workers or more processes give the same views. Scored photos never come through here, and this
file does not know the network: normalisation belongs to the image processor.
"""

from __future__ import annotations

import hashlib

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from natix_hf.errors import UserError


def view_seed(seed: int, epoch: int, row_id: str) -> int:
    """The random seed of one view: 63 bits of the blake2b of (seed, epoch, row id)."""
    digest = hashlib.blake2b(f"{seed}\0{epoch}\0{row_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _plain(image_size: int, aspect: float) -> v2.Transform:
    return v2.Resize((image_size, image_size), antialias=True)


def _basic(image_size: int, aspect: float) -> v2.Transform:
    # The crop's shape varies around that of the photo, since scored photos are squashed whole: with the usual 3:4 to
    # 4:3 a wide photo would lose its sides in every view. Large crops, since what decides a street photo may be small
    # and at its edge.
    size, ratio = (image_size, image_size), (0.85 * aspect, aspect / 0.85)
    crop = v2.RandomResizedCrop(size, scale=(0.75, 1.0), ratio=ratio, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip()])


AUGMENTATIONS = {"none": _plain, "basic": _basic}


def training_view(image: Image.Image, *, augment: str, image_size: int, seed: int, epoch: int, row_id: str) -> Tensor:
    """One training view of a photo, a pure function of its arguments; the global random state is left as it was.

    Args:
        image: RGB photo of any size.
        augment: `none` (squashed to the square as DINOv3's image processor does, bilinear with antialiasing) or
            `basic` (a random crop of 3/4 to all of the area in about the photo's own shape, squashed, and a mirror
            image half of the time).
        image_size: side of the view in pixels.
        seed: of the run.
        epoch: whole number; the view changes with it.
        row_id: the row's `id`.

    Returns:
        uint8 tensor `(3, image_size, image_size)`.

    Raises:
        UserError: if `augment` is not one of the names above.
    """
    if augment not in AUGMENTATIONS:
        raise UserError(f"augment: {augment!r} is unknown; choose one of {', '.join(AUGMENTATIONS)}")
    pixels = functional.pil_to_tensor(image)  # (3, height, width) uint8
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would also reseed the GPUs, whose state drives the dropout of the run.
        torch.default_generator.manual_seed(view_seed(seed, epoch, row_id))
        return AUGMENTATIONS[augment](image_size, image.width / image.height)(pixels)
