"""What rows in groups prove about a rate: p-values, and the smallest rate that can be proven at all.

Knows arrays only. Photos of one camera or video are alike, so the group is what was drawn independently, and a bound
that counts photos as if they were independent promises too much. What is bounded is still the rate per *photo*,
R = E[mistakes of a group] / E[photos of a group]; groups count by their photos.

The test of "R >= alpha" is a bet on whole groups (Waudby-Smith and Ramdas, 2024): with m photos and k mistakes in a
group and M photos in the largest one, x = alpha + (k - alpha m) / M lies in [0, 1] and has mean >= alpha exactly where
R >= alpha, whatever the photos of a group have to do with each other. So for each stake q in [0, alpha) the product
over groups of 1 + (alpha - x) (alpha - q) / (alpha (1 - alpha)) has mean <= 1, and so has a mixture over stakes, and
one over that mixture is a p-value (Markov). Half of the mixture lies on q = 0, the best bet where nothing goes wrong,
the rest evenly on (0, alpha). Neither the order of rows nor a seed has a part in it. Where each row is its own group
the exact binomial test (Clopper and Pearson, 1934) is sharper and is taken. (MAPIE's controllers know no groups.)

One thing no such bound can see: groups larger than the largest one here. They are taken not to exist.
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
        """From their names `(n,)`; None: each row is a group of its own."""
        of_row = group_numbers(groups, n)
        return cls(of_row, np.bincount(of_row) if n else np.zeros(0, dtype=np.int64))

    @property
    def largest(self) -> int:
        """Rows of the largest group; 0 without rows."""
        return int(self.sizes.max(initial=0))

    @property
    def effective(self) -> float:
        """How many groups of the largest size they weigh: rows / largest; the number that a bound goes by."""
        return float(self.sizes.sum() / self.largest) if len(self.sizes) else 0.0

    def mistakes(self, wrong: np.ndarray) -> np.ndarray:
        """Mistakes of each group `(groups,)` from `(n,)` of each row."""
        return np.bincount(self.of_row, weights=wrong, minlength=len(self.sizes))


def p_value(wrong: np.ndarray, groups: Groups, alpha: float) -> float:
    """Of the hypothesis that the rate of mistakes per row is alpha or more, where whole groups are drawn.

    Args:
        wrong: `(n,)` 0 or 1.
        alpha: in (0, 1).

    Returns:
        At most delta with a probability of at most delta where the hypothesis is true. 1 without rows. It grows with
        every mistake.
    """
    if len(wrong) == 0:
        return 1.0
    if groups.largest == 1:
        return float(scipy.stats.binom.cdf(np.sum(wrong), len(wrong), alpha))
    gain = (alpha * groups.sizes - groups.mistakes(wrong)) / groups.largest  # alpha - x
    return min(1.0, float(np.exp(-_log_wealth(gain, alpha))))


def _log_wealth(gain: np.ndarray, alpha: float) -> float:
    stakes = (1 - _SHARES)[:, None] / (1 - alpha)  # (alpha - q) / (alpha (1 - alpha))
    with np.errstate(divide="ignore"):  # everything is lost on q = 0 where a largest group is all wrong
        logs = np.log1p(np.maximum(stakes * gain, -1.0)).sum(axis=1)
    return float(np.logaddexp.reduce(logs + np.log(_PRIOR)))


def smallest_certifiable(groups: Groups, delta: float) -> float:
    """The smallest rate that these rows can prove with confidence 1 - delta: the one proven without a mistake.

    Of n independent rows it is 1 - delta^(1/n): 187 prove 1.6 % at 95 %, 299 prove 1 %. 1 without rows.
    """
    n = int(groups.sizes.sum())
    if n == 0:
        return 1.0
    hair = 1 + 1e-9  # so that rounding does not fail the very rate that is named
    if groups.largest == 1:
        return min(1.0, flawless_high(n, delta) * hair)
    wanted = -np.log(delta)

    def missing(alpha: float) -> float:
        return _log_wealth(alpha * groups.sizes / groups.largest, alpha) - wanted

    most = 1 - 1e-6
    return float(scipy.optimize.brentq(missing, 1e-12, most, xtol=1e-14)) * hair if missing(most) > 0 else 1.0


def safe_threshold(scores: np.ndarray, groups: Groups, alpha: float, delta: float) -> float | None:
    """The lowest threshold at which "the rate of rows with `score >= threshold` is below alpha" is proven.

    Thresholds are tested from above, where nothing is at risk, downwards, and the first that fails ends it: fixed-
    sequence testing, which needs no correction for their number (Angelopoulos et al., Learn Then Test, 2021).
    Since the p-value only grows on the way down, the end is found by bisection.

    Args:
        scores: `(n,)` of the rows that should stay below.
        alpha: rate per row.
        delta: how likely the statement may be wrong, over draws of whole groups.

    Returns:
        The threshold, just above the first distinct score that fails; None where so few rows prove nothing.
    """
    if p_value(np.zeros(len(scores)), groups, alpha) > delta:
        return None
    values = np.unique(scores)[::-1]
    passing, failing = -1, len(values)  # with alpha < 1 all rows wrong never pass
    while failing - passing > 1:
        middle = (passing + failing) // 2
        if p_value(scores >= values[middle], groups, alpha) <= delta:
            passing = middle
        else:
            failing = middle
    return float(np.nextafter(values[failing], np.inf)) if failing < len(values) else float("-inf")
