"""Estimates how many photos two models put into different classes. Works on arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from natix_hf.resampling import CELLS, ENDS, group_numbers, times_drawn


class ChangedShare(NamedTuple):
    """A share with its 95 % interval over groups."""

    value: float
    low: float
    high: float


def changed_share(
    changed: np.ndarray, groups: np.ndarray | None, *, n_boot: int = 1000, seed: int = 0
) -> ChangedShare:
    """The share of photos with another decision, with its interval over resampled groups.

    If no decision changed, none changes in any resample. The upper end is then the share that so few groups could hide
    (Clopper and Pearson, 1934).

    Args:
        changed: `(n,)` bool.
        groups: `(n,)`; whole groups are resampled. None: each row is a group.
        n_boot, seed: of the resampling.
    """
    number = group_numbers(groups, len(changed))
    sizes, counts = np.bincount(number), np.bincount(number, weights=changed)
    value = float(np.mean(changed))
    if not counts.any():
        return ChangedShare(value, 0.0, float(1 - ENDS[0] ** (1 / len(sizes))))
    draws = times_drawn(len(sizes), n_boot, seed, at_once=max(1, CELLS // len(sizes)))
    shares = np.concatenate([(times @ counts) / (times @ sizes) for times in draws])
    low, high = np.quantile(shares, ENDS)
    return ChangedShare(value, float(low), float(high))
