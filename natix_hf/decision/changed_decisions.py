"""Estimates how many photos two models put into different classes. Works on arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from natix_hf.resampling import flawless_high, group_numbers, interval_ends, on_resamples


class ChangedShare(NamedTuple):
    """A share with its 95 % interval over groups."""

    value: float
    low: float
    high: float


def changed_share(changed: np.ndarray, groups: np.ndarray | None, *, n_boot: int = 1000) -> ChangedShare:
    """The share of photos with another decision, with its interval over resampled groups.

    If no decision changed, none changes in any resample. The upper end is then the share that so few groups could hide
    (Clopper and Pearson, 1934).

    Args:
        changed: `(n,)` bool.
        groups: `(n,)`; whole groups are resampled. None: each row is a group.
        n_boot: number of resamples.
    """
    number = group_numbers(groups, len(changed))
    sizes, counts = np.bincount(number), np.bincount(number, weights=changed)
    value = float(np.mean(changed))
    if not counts.any():
        return ChangedShare(value, 0.0, flawless_high(len(sizes)))
    shares = on_resamples(lambda times: (times @ counts) / (times @ sizes), len(sizes), n_boot, 0, width=len(sizes))
    return ChangedShare(value, *interval_ends(shares))
