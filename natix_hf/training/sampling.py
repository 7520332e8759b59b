"""Chooses the rows of each epoch: balanced sampling, and the rows that a curriculum admits.

An epoch is always as long as train. Rows are grouped into strata (classes, sources, or both). Each epoch takes a fixed
number of rows from each stratum and goes through the stratum in a fixed random order, again and again. So rows of
large strata do not repeat within an epoch, and all rows of a stratum are drawn equally often over many epochs. An
epoch depends only on (seed, epoch), not on resuming, workers or processes. `curriculum.py` ranks rows by difficulty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from natix_hf.errors import UserError
from natix_hf.training.losses.class_weights import no_photo
from natix_hf.training.training_photos import EpochSampler

# A row that repeats within an epoch gets a different view each time: that of an epoch which no run reaches.
REPEAT = 1 << 20


def _even(total: int, parts: int) -> list[int]:
    """Split `total` into near-equal integers (Hermite's identity), none of which shrinks as `total` grows."""
    return [(total + part) // parts for part in range(parts)]


class Strata:
    """The strata of train, and the number of rows drawn from each.

    Args:
        labels: `(n,)` class ids of train.
        sources: `(n,)` names; used if `balance_by` includes sources.
        names: `(classes,)`, for messages.
        sampling, balance_by: as in the recipe.

    Raises:
        UserError: sampling is balanced by class and a class has no row, or it is balanced by source and there is only
            one source.
    """

    def __init__(
        self, labels: np.ndarray, sources: Sequence[str], names: Sequence[str], sampling: str, balance_by: str
    ) -> None:
        self.labels, self.classes = np.asarray(labels), len(names)
        count_of = np.bincount(self.labels, minlength=self.classes)
        self.natural = sampling == "natural"
        by_class = self.natural or "class" in balance_by
        by_source = not self.natural and "source" in balance_by
        if not self.natural and by_class and 0 in count_of:
            raise UserError(no_photo("sampling: balanced", count_of, names, "--sampling natural"))
        source_of = np.unique(np.asarray(sources), return_inverse=True)[1] if by_source else np.zeros_like(self.labels)
        if by_source and source_of.max() == 0:
            raise UserError(
                f"balance_by: {balance_by}: all photos of train come from one source: add --balance_by class"
            )
        # The strata of an outer part (a class) share its draws. A curriculum ranks rows within cells: a cell is a
        # class, or a class of one source if sampling is balanced by source.
        outer = self.labels if by_class else source_of
        inner = source_of if by_class else np.zeros_like(self.labels)
        self.cells = self.labels * (source_of.max() + 1) + source_of  # (n,)
        self.parts = [
            [np.flatnonzero((outer == o) & (inner == i)) for i in np.unique(inner[outer == o])]
            for o in np.unique(outer)
        ]
        self.rows = [rows for part in self.parts for rows in part]

    def taken(self, epoch: int) -> list[int]:
        """Number of draws from each stratum before an epoch begins."""
        if self.natural:
            return [len(rows) * epoch for rows in self.rows]
        totals = _even(len(self.labels) * epoch, len(self.parts))
        return [drawn for total, part in zip(totals, self.parts) for drawn in _even(total, len(part))]

    def shares(self) -> np.ndarray:
        """Share of each class `(classes,)` among the rows drawn over many epochs."""
        if self.natural:
            return np.bincount(self.labels, minlength=self.classes) / len(self.labels)
        shares = np.zeros(self.classes)
        for part in self.parts:
            for rows in part:
                of_stratum = np.bincount(self.labels[rows], minlength=self.classes) / len(rows)
                shares += of_stratum / len(part) / len(self.parts)
        return shares


class StratifiedSampler(EpochSampler):
    """Draw an epoch from strata, as `(epoch, index)` in random order.

    Args:
        strata: see `Strata`.
        seed: of the order.
        admitted: returns the rows `(n,)` bool that an epoch may use, at least one of each stratum; default all.
    """

    def __init__(self, strata: Strata, seed: int, admitted: Callable[[int], np.ndarray] | None = None) -> None:
        super().__init__(len(strata.labels), seed)
        self.strata, self.admitted = strata, admitted
        generator = torch.Generator().manual_seed((seed << 20) + REPEAT - 1)  # above the seeds of all epochs
        self.rounds = [rows[torch.randperm(len(rows), generator=generator).numpy()] for rows in strata.rows]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        admitted = None if self.admitted is None else self.admitted(self.epoch)
        keys: list[tuple[int, int]] = []
        before, after = self.strata.taken(self.epoch), self.strata.taken(self.epoch + 1)
        for rows, start, end in zip(self.rounds, before, after):
            rows = rows if admitted is None else rows[admitted[rows]]
            drawn = np.arange(start, end)
            repeats = (drawn - start) // len(rows)
            keys += zip((self.epoch + REPEAT * repeats).tolist(), rows[drawn % len(rows)].tolist())
        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
        return iter([keys[i] for i in torch.randperm(len(keys), generator=generator).tolist()])


def seen_shares(shares: np.ndarray, criterion: Any) -> np.ndarray:
    """The class shares `(classes,)` for which the probabilities of the trained model are calibrated.

    Args:
        shares: `(classes,)` class shares of the rows that training draws.
        criterion: `TrainingLoss`. Its weights multiply the shares; its adjustment `tau * log(prior)` divides them by
            `prior ** tau` (Menon et al., 2021).
    """
    weights = criterion.seen_weights
    seen = shares * (1 if weights is None else weights.double().numpy())
    if criterion.adjustment is not None:
        seen = seen * np.exp(-criterion.adjustment.double().numpy())
    return seen / seen.sum()
