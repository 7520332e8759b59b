"""Intervals by resampling whole groups (the cluster bootstrap; Efron and Tibshirani, 1993).

Photos of one camera or video resemble each other. So groups are the independent units, and groups are resampled. A
resample is a vector of how often each group was drawn. Metrics are computed from sums over groups, many resamples at
once, and two metrics with the same seed see the same resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from natix_hf.errors import UserError

LEVEL = 0.95  # share of repetitions in which an interval should contain the true value
ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)  # shares of the draws below the two ends
CELLS = 2_000_000  # numbers held at once per array: 16 MB


def group_numbers(groups: np.ndarray | None, n: int) -> np.ndarray:
    """Consecutive integers `(n,)` for the names of the groups; with None each row is its own group.

    Raises:
        UserError: there is not one group per row.
    """
    if groups is None:
        return np.arange(n)
    groups = np.asarray(groups)
    if groups.shape != (n,):
        raise UserError(f"expected one group per row, found {groups.size} for {n} rows")
    return np.unique(groups, return_inverse=True)[1]


def times_drawn(n_groups: int, n_boot: int, seed: int, at_once: int) -> Iterator[np.ndarray]:
    """How often each group is drawn, `(<= at_once, n_groups)` float64 a time; the draws do not depend on `at_once`."""
    generator = np.random.default_rng(seed)
    for start in range(0, n_boot, at_once):
        rows = min(at_once, n_boot - start)
        drawn = generator.integers(n_groups, size=(rows, n_groups)) + np.arange(rows)[:, None] * n_groups
        yield np.bincount(drawn.ravel(), minlength=rows * n_groups).reshape(rows, n_groups).astype(np.float64)


def on_resamples(
    figures: Callable[[np.ndarray], np.ndarray], n_groups: int, n_boot: int, seed: int, width: int
) -> np.ndarray:
    """Figures of every resample of the groups, `(n_boot, ...)`.

    Args:
        figures: from how often each group was drawn, `(b, n_groups)`, to `(b, ...)`; `b` varies.
        width: how many numbers `figures` holds for one resample. It decides how many are computed at once.
    """
    return np.concatenate([figures(times) for times in times_drawn(n_groups, n_boot, seed, max(1, CELLS // width))])


def interval_ends(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Ends of the percentile interval of `(b,)` draws. NaN draws are left out; both ends are NaN if all are."""
    defined = draws[~np.isnan(draws)]
    if len(defined) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def without_added_noise(draws: np.ndarray, value: float) -> np.ndarray:
    """Draws `(b,)` of a mean of absolute gaps, such as the ECE, moved so that their mean is `value`.

    Noise adds to such a mean, and resampling adds it again.
    """
    return np.maximum(draws - (draws.mean() - value), 0.0)


def flawless_high(n_groups: int, alpha: float = ENDS[0]) -> float:
    """Upper bound of the error rate after `n_groups` groups without a mistake (Clopper and Pearson, 1934).

    The percentile interval fails in this case, because without a mistake every resample is perfect too.
    """
    return float(-np.expm1(np.log(alpha) / n_groups))


def weighted_auroc(scores: np.ndarray, is_positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of (positive, negative) pairs in order, ties half, for row weights `(b, n)`: `(b,)`, NaN without pairs."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])  # equal scores share one level
    weights = weights[:, order]
    positives = np.add.reduceat(weights * is_positive[order], starts, axis=1)  # (b, levels)
    negatives = np.add.reduceat(weights * ~is_positive[order], starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return np.divide((positives * below).sum(axis=1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
