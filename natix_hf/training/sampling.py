"""Which rows an epoch is made of where that is not simply all of them: balanced sampling, and a curriculum's choice.

The length of an epoch is always that of train. Rows stand in strata (classes, sources, or both); an epoch takes so
many of each, going round and round the stratum in a fixed random order. So common rows are not repeated within an
epoch, over many epochs all rows of a stratum are drawn equally often, and what an epoch holds is a pure function of
(seed, epoch): resuming, workers and processes change nothing. How hard a row is, is the business of `curriculum.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from natix_hf.errors import UserError
from natix_hf.training.training_photos import EpochSampler

# A row that an epoch holds several times has a view of its own each time: that of an epoch that no run reaches.
REPEAT = 1 << 20


def _even(total: int, parts: int) -> list[int]:
    """`total` in near-equal whole parts; every part grows with the total (Hermite's identity makes the sum right)."""
    return [(total + part) // parts for part in range(parts)]


class Strata:
    """The rows of train in strata, and how many of each are drawn.

    Args:
        labels: `(n,)` class ids of train.
        sources: `(n,)` names, for `balance_by` with `source`.
        names: `(classes,)`, for messages.
        sampling, balance_by: as in the recipe.

    Raises:
        UserError: a class or a second source is not there where it is to be balanced.
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
            empty = names[list(count_of).index(0)]
            raise UserError(
                f"sampling: balanced: train has no photo of class {empty}: leave it out with --sampling natural"
            )
        source_of = np.unique(np.asarray(sources), return_inverse=True)[1] if by_source else np.zeros_like(self.labels)
        if by_source and source_of.max() == 0:
            raise UserError(
                f"balance_by: {balance_by}: all photos of train come from one source: add --balance_by class"
            )
        # Strata of one outer part (a class) share its draws; a curriculum ranks the rows within cells, which never
        # hold two classes, and never two sources where these are balanced.
        outer = self.labels if by_class else source_of
        inner = source_of if by_class else np.zeros_like(self.labels)
        self.cells = self.labels * (source_of.max() + 1) + source_of  # (n,)
        self.parts = [
            [np.flatnonzero((outer == o) & (inner == i)) for i in np.unique(inner[outer == o])]
            for o in np.unique(outer)
        ]
        self.rows = [rows for part in self.parts for rows in part]

    def taken(self, epoch: int) -> list[int]:
        """Draws from each stratum before an epoch begins."""
        if self.natural:
            return [len(rows) * epoch for rows in self.rows]
        totals = _even(len(self.labels) * epoch, len(self.parts))
        return [drawn for total, part in zip(totals, self.parts) for drawn in _even(total, len(part))]

    def shares(self) -> np.ndarray:
        """Share of each class `(classes,)` in what is drawn over many epochs."""
        if self.natural:
            return np.bincount(self.labels, minlength=self.classes) / len(self.labels)
        shares = np.zeros(self.classes)
        for part in self.parts:
            for rows in part:
                held = np.bincount(self.labels[rows], minlength=self.classes) / len(rows)
                shares += held / len(part) / len(self.parts)
        return shares


class StratifiedSampler(EpochSampler):
    """An epoch of draws from strata, as `(epoch, index)`, in an order of its own.

    Args:
        strata: see `Strata`.
        seed: of the order.
        admitted: which rows `(n,)` bool an epoch may hold; at least one of each stratum. Default all.
    """

    def __init__(self, strata: Strata, seed: int, admitted: Callable[[int], np.ndarray] | None = None) -> None:
        super().__init__(len(strata.labels), seed)
        self.strata, self.admitted = strata, admitted
        generator = torch.Generator().manual_seed((seed << 20) + REPEAT - 1)  # epochs end before it
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
    """The class shares `(classes,)` to which a trained model's probabilities belong.

    Args:
        shares: `(classes,)` of the rows that training draws.
        criterion: `TrainingLoss`; its weights multiply the shares, its adjustment `tau * log(prior)` divides them by
            `prior ** tau` (Menon et al., 2021).
    """
    weights = criterion.seen_weights
    seen = shares * (1 if weights is None else weights.double().numpy())
    if criterion.adjustment is not None:
        seen = seen * np.exp(-criterion.adjustment.double().numpy())
    return seen / seen.sum()
