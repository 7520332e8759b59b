"""The input of pretraining: random crops and patch masks of photos, pure functions of (seed, epoch, row id).

Labels are not read. The caller chooses the photos and their groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from natix_hf.inference.augment import view_seed
from natix_hf.inference.batches import Normalised
from natix_hf.photos.decode import open_photo
from natix_hf.training.pretrain.pretrain_options import PretrainOptions
from natix_hf.training.training_photos import EpochSampler

BLOCK_TRIES = 10  # draws of a block of patches, after which single patches are masked
ASPECT = (0.3, 1 / 0.3)  # height to width of a block (iBOT, Zhou et al., 2022)
# Milder than in DINO, because colour distinguishes a cone from a bollard.
COLOUR = v2.Compose(
    [
        v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.05)], p=0.8),
        v2.RandomGrayscale(p=0.1),
        v2.RandomApply([v2.GaussianBlur(9, sigma=(0.1, 2.0))], p=0.3),
    ]
)


def block_mask(height: int, width: int, count: int, generator: torch.Generator) -> Tensor:
    """A mask of exactly `count` patches in rectangular blocks (BEiT, Bao et al., 2022), `(height * width,)` bool.

    Args:
        height, width: of the grid of patches.
        count: number of masked patches, at most all.
        generator: the only source of randomness.
    """
    mask = torch.zeros(height, width, dtype=torch.bool)
    low, high = map(math.log, ASPECT)
    left = count
    while left > 0:
        for _ in range(BLOCK_TRIES):
            area, shape, down, across = torch.rand(4, generator=generator).tolist()
            area, shape = 1 + area * (left - 1), math.exp(low + shape * (high - low))
            rows = min(height, max(1, round(math.sqrt(area * shape))))
            columns = min(width, max(1, round(math.sqrt(area / shape))))
            top, start = int(down * (height - rows + 1)), int(across * (width - columns + 1))
            block = mask[top : top + rows, start : start + columns]
            new = rows * columns - int(block.sum())
            if 0 < new <= left:
                block[:] = True
                left -= new
                break
        else:
            free = (~mask).flatten().nonzero().flatten()
            mask.view(-1)[free[torch.randint(len(free), (1,), generator=generator)]] = True
            left -= 1
    return mask.flatten()


class PretrainPhotos(Dataset):
    """Photos without labels: item `(epoch, i)` is a dictionary of

    - `global_views` uint8 `(views, 3, size, size)`,
    - `local_views` uint8 `(local_crops, 3, local_size, local_size)`, if there are small crops,
    - `masks` bool `(views, patches)`, some of them empty.

    Args:
        photos: `datasets.Dataset`s with `id` and `image`; other columns are not read.
        options: crops and masks.
        views: number of large crops per photo.
        size: side of the large crops in pixels.
        patch: of the network, in pixels.
        mask_share: share of the large crops that are masked.
        local_crops: number of small crops per photo.
        seed: of the run.
    """

    def __init__(
        self,
        photos: Sequence[Any],
        options: PretrainOptions,
        *,
        views: int,
        size: int,
        patch: int,
        mask_share: float,
        local_crops: int,
        seed: int,
    ) -> None:
        self.photos = list(photos)
        self.starts = np.cumsum([0, *map(len, self.photos)])
        self.options, self.views, self.mask_share, self.local_crops = options, views, mask_share, local_crops
        self.side, self.seed = size // patch, seed
        self.large = v2.RandomResizedCrop(size, scale=tuple(options.pretrain_global_scale), antialias=True)
        local = options.pretrain_local_size
        self.small = v2.RandomResizedCrop(local, scale=tuple(options.pretrain_local_scale), antialias=True)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = key
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        row = self.photos[part][int(index - self.starts[part])]
        pixels = functional.pil_to_tensor(open_photo(row["image"], min_side=round(self.large.size[0] * 1.5)))
        # Includes the part, because photos of train and of the pool may have the same id.
        generator = torch.Generator().manual_seed(view_seed(self.seed, epoch, f"{part}\0{row['id']}"))
        masks = torch.stack([self._mask(generator) for _ in range(self.views)])
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which also reseeds the GPUs and so changes stochastic depth.
            torch.default_generator.set_state(generator.get_state())
            item = {"global_views": torch.stack([self._view(pixels, self.large) for _ in range(self.views)])}
            if self.local_crops:
                item["local_views"] = torch.stack([self._view(pixels, self.small) for _ in range(self.local_crops)])
        return item | {"masks": masks}

    def _mask(self, generator: torch.Generator) -> Tensor:
        masked, ratio = torch.rand(2, generator=generator).tolist()
        low, high = self.options.pretrain_mask_ratio
        patches = self.side**2
        count = max(1, round(patches * (low + ratio * (high - low)))) if masked < self.mask_share else 0
        return block_mask(self.side, self.side, min(count, patches), generator)

    @staticmethod
    def _view(pixels: Tensor, crop: v2.Transform) -> Tensor:
        view = crop(pixels)
        if torch.rand(()) < 0.5:
            view = functional.horizontal_flip(view)
        return COLOUR(view)


class PretrainCollator:
    """Collate examples into a batch `(views * batch, 3, H, W)` float: the first view of all photos, then the next."""

    def __init__(self, processor: Any) -> None:
        self.normalised = Normalised(processor)

    def __call__(self, examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        batch = {key: torch.cat(list(torch.stack([e[key] for e in examples], dim=1))) for key in examples[0]}
        return {key: values if key == "masks" else self.normalised(values) for key, values in batch.items()}


class OnePhotoOfAGroup(EpochSampler):
    """A new permutation of the groups every epoch, with one photo each, so no batch has two photos of a video.

    Args:
        groups: `(n,)` group numbers.
        seed: of the order and of the choice of photos.
    """

    def __init__(self, groups: np.ndarray, seed: int) -> None:
        self.members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        super().__init__(len(self.members), seed)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        chance = np.random.default_rng([self.seed, self.epoch])
        return iter([(epoch, int(chance.choice(self.members[group]))) for epoch, group in list(super().__iter__())])
