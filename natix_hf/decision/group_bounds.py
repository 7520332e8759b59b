"""p-values for a rate of mistakes, from rows in groups, and the smallest rate that can be proven.

Photos of one camera or video are alike. So groups are the independent units, and a bound that treats photos as
independent promises too much. The bound is still on the rate per *photo*, R = E[mistakes of a group] / E[photos of a
group].

The test of "R >= alpha" is a bet on whole groups (Waudby-Smith and Ramdas, 2024): with m photos and k mistakes in a
group and M photos in the largest one, x = alpha + (k - alpha m) / M lies in [0, 1] and has mean >= alpha if and only
if R >= alpha, however the photos of a group depend on each other. So for each stake q in [0, alpha) the product over
groups of 1 + (alpha - x) (alpha - q) / (alpha (1 - alpha)) has mean <= 1. The same holds for a mixture over stakes,
and one over that mixture is a p-value (Markov). Half of the mixture is on q = 0, the best stake without mistakes; the
rest is spread evenly over (0, alpha). The result depends neither on the order of rows nor on a seed. If each row is a
group, the exact binomial test (Clopper and Pearson, 1934) is sharper and is used. (MAPIE's controllers do not support
groups.)

The bound assumes that no group is larger than the largest one here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.stats

from natix_hf.resampling import flawless_high, group_numbers

STAKES = 20
_SHARES = np.r_[0.0, (np.arange(STAKES) + 0.5) / STAKES]  # q / alpha
_PRIOR = np.r_[0.5, np.full(STAKES, 0.5 / STAKES)]


@dataclass(frozen=True)
class Groups:
    """The groups of some rows: number of each row's group `(n,)` and rows of each group `(groups,)`."""

    of_row: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, groups: np.ndarray | None, n: int) -> Groups:
        """From group names `(n,)`; None: each row is a group."""
        of_row = group_numbers(groups, n)
        return cls(of_row, np.bincount(of_row) if n else np.zeros(0, dtype=np.int64))

    @property
    def largest(self) -> int:
        """Rows of the largest group; 0 without rows."""
        return int(self.sizes.max(initial=0))

    @property
    def effective(self) -> float:
        """Rows divided by the rows of the largest group: the effective number of groups for a bound."""
        return float(self.sizes.sum() / self.largest) if len(self.sizes) else 0.0

    def mistakes(self, wrong: np.ndarray) -> np.ndarray:
        """Mistakes of each group `(groups,)` from those of each row `(n,)`."""
        return np.bincount(self.of_row, weights=wrong, minlength=len(self.sizes))


def p_value(wrong: np.ndarray, groups: Groups, alpha: float) -> float:
    """p-value of the hypothesis that the rate of mistakes per row is alpha or more, if whole groups are drawn.

    Args:
        wrong: `(n,)` 0 or 1.
        alpha: in (0, 1).

    Returns:
        A p-value: if the hypothesis is true, it is at most delta with probability at most delta. It increases with
        every mistake, and is 1 without rows.
    """
    if len(wrong) == 0:
        return 1.0
    if groups.largest == 1:
        return float(scipy.stats.binom.cdf(np.sum(wrong), len(wrong), alpha))
    gain = (alpha * groups.sizes - groups.mistakes(wrong)) / groups.largest  # alpha - x
    return min(1.0, float(np.exp(-_log_wealth(gain, alpha))))


def _log_wealth(gain: np.ndarray, alpha: float) -> float:
    stakes = (1 - _SHARES)[:, None] / (1 - alpha)  # (alpha - q) / (alpha (1 - alpha))
    with np.errstate(divide="ignore"):  # q = 0 loses everything if all rows of a largest group are wrong
        logs = np.log1p(np.maximum(stakes * gain, -1.0)).sum(axis=1)
    return float(np.logaddexp.reduce(logs + np.log(_PRIOR)))


def smallest_certifiable(groups: Groups, delta: float) -> float:
    """The smallest rate that these rows can prove with confidence 1 - delta, which they do without a mistake.

    For n independent rows it is 1 - delta^(1/n): 187 rows prove 1.6 % at 95 %, 299 prove 1 %. It is 1 without rows.
    """
    n = int(groups.sizes.sum())
    if n == 0:
        return 1.0
    hair = 1 + 1e-9  # so that rounding does not reject exactly the rate that is reported
    if groups.largest == 1:
        return min(1.0, flawless_high(n, delta) * hair)
    needed = -np.log(delta)

    def missing(alpha: float) -> float:
        return _log_wealth(alpha * groups.sizes / groups.largest, alpha) - needed

    most = 1 - 1e-6
    return float(scipy.optimize.brentq(missing, 1e-12, most, xtol=1e-14)) * hair if missing(most) > 0 else 1.0


def safe_threshold(scores: np.ndarray, groups: Groups, alpha: float, delta: float) -> float | None:
    """The lowest threshold for which "the rate of rows with `score >= threshold` is below alpha" is proven.

    Thresholds are tested from the highest one downwards, until the first test fails: fixed-sequence testing needs no
    correction for the number of tests (Angelopoulos et al., Learn Then Test, 2021). The p-value increases on the way
    down, so the last passing threshold is found by bisection.

    Args:
        scores: `(n,)` scores of the rows that should be below the threshold.
        alpha: rate per row.
        delta: probability that the statement is wrong, over draws of whole groups.

    Returns:
        The threshold, just above the first distinct score that fails; None if the rows are too few to prove anything.
    """
    if p_value(np.zeros(len(scores)), groups, alpha) > delta:
        return None
    values = np.unique(scores)[::-1]
    passing, failing = -1, len(values)  # with alpha < 1 the case "all rows wrong" never passes
    while failing - passing > 1:
        middle = (passing + failing) // 2
        if p_value(scores >= values[middle], groups, alpha) <= delta:
            passing = middle
        else:
            failing = middle
    return float(np.nextafter(values[failing], np.inf)) if failing < len(values) else float("-inf")
