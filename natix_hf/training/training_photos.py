"""The training views of photos and their order, both pure functions of (seed, epoch, row).

The sampler yields `(epoch, index)` pairs, so workers need no state, and the result does not depend on resuming or on
the number of workers or processes. Workers return uint8 views; the collator converts whole batches to float.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from natix_hf.inference.augment import drawn_tiles, photo_for_view, training_view, view_seed
from natix_hf.inference.batches import Example, Normalised
from natix_hf.photos.copies import PhotoCopies, open_copy
from natix_hf.photos.geometry import Geometry
from natix_hf.training.mixing import Mixing


class EpochSampler(Sampler[tuple[int, int]]):
    """A new permutation for every epoch, as `(epoch, index)`; the trainer sets `epoch` before each epoch."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
        order = torch.randperm(self.count, generator=generator).tolist()
        return iter([(self.epoch, index) for index in order])


class TrainingPhotos(Dataset):
    """Labelled training rows: item `(epoch, i)` is `{"pixel_values": uint8 ([views,] 3, H, W), "labels", "seed"}`.

    `seed` is that of the view, the only source of randomness for a batch, see `mixing.Mixing`.

    Args:
        rows: `datasets.Dataset` with `id`, `image` and `label`.
        augment: name of the augmentation, see `inference.augment.training_view`.
        geometry: size and shape of the views, the same as in evaluation.
        seed: of the run.
        copies: pre-resized copies of the photos, read instead of the originals.
        fixed_views: number of views of each photo, used in turn epoch by epoch; 0: a new view in every epoch.
        challenge_levels: probabilities of the levels, see `training_view`.
        sampled_tiles: number of random tiles per photo and epoch, beside the whole photo; 0: all tiles.
    """

    def __init__(
        self,
        rows: Any,
        *,
        augment: str,
        geometry: Geometry,
        seed: int,
        copies: PhotoCopies | None = None,
        fixed_views: int = 0,
        challenge_levels: Sequence[float] | None = None,
        sampled_tiles: int = 0,
    ) -> None:
        self.fixed_views, self.challenge_levels, self.sampled_tiles = fixed_views, challenge_levels, sampled_tiles
        self.augment, self.geometry, self.seed, self.copies = augment, geometry, seed, copies
        self.rows = rows if copies is None else None
        if copies is not None:
            self.ids, self.labels = rows["id"][:], rows["label"][:]  # faster than reading rows of `datasets`

    def __len__(self) -> int:
        return len(self.rows if self.copies is None else self.copies)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, index = key
        if self.fixed_views:
            epoch %= self.fixed_views
        if self.copies is None:
            row = self.rows[index]
            image, row_id, label = row["image"], row["id"], row["label"]
            image = photo_for_view(image, self.augment, self.geometry)
        else:
            image = open_copy(self.copies[index], min_side=self.geometry.copy_side())
            row_id, label = self.ids[index], self.labels[index]
        which = {"seed": self.seed, "epoch": epoch, "row_id": row_id}
        view = training_view(
            image,
            augment=self.augment,
            geometry=self.geometry,
            **which,
            challenge_levels=self.challenge_levels,
            tiles=drawn_tiles(self.geometry, self.sampled_tiles, **which) if self.sampled_tiles else None,
        )
        return {"pixel_values": view, "labels": label, "seed": view_seed(self.seed, epoch, row_id)}


class Collator:
    """Collate examples into a batch; uint8 views are rescaled and normalised as by the image processor.

    Args:
        processor: the image processor.
        mixing: mixes batches of training views; photos in evaluation have no seed and are never mixed.
    """

    def __init__(self, processor: Any, mixing: Mixing | None = None) -> None:
        self.mixing, self.normalised = mixing, Normalised(processor)

    def __call__(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        batch = {"labels": torch.tensor([example["labels"] for example in examples])}
        for key in examples[0].keys() - {"labels", "seed"}:
            batch[key] = torch.stack([example[key] for example in examples])
        if "pixel_values" in batch and batch["pixel_values"].dtype == torch.uint8:
            batch["pixel_values"] = self.normalised(batch["pixel_values"])
        if self.mixing is not None and "seed" in examples[0]:
            batch = self.mixing(batch, [example["seed"] for example in examples])
        return batch
