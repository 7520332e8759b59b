"""How often decisions are right on photos without labels, as far as calibrated probabilities can say.

The mean probability of the class that was decided for, under the class shares that were estimated among these photos.
Knows arrays only, and takes calibration for granted: under drift the figure is worth nothing.
"""

from __future__ import annotations

import numpy as np

from natix_hf.decision.prior_shift import TINY, PriorEstimate, resampled_priors
from natix_hf.documents.calibration import Bounds
from natix_hf.logits import softmax
from natix_hf.resampling import group_numbers, interval_ends, on_resamples


def expected_accuracy(
    logits: np.ndarray,
    decisions: np.ndarray,
    seen: np.ndarray,
    estimate: PriorEstimate,
    groups: np.ndarray | None = None,
    *,
    n_boot: int = 300,
    seed: int = 0,
) -> Bounds:
    """The expected accuracy with its interval over resampled groups, the class shares estimated anew in each.

    Args:
        logits: `(n, classes)` calibrated under `seen`.
        decisions: `(n,)` class ids that are judged.
        seen: `(classes,)` class shares of the calibration.
        estimate: of the class shares among these rows.
        groups: `(n,)` or None.
    """
    seen = np.asarray(seen, dtype=np.float64) / np.sum(seen)
    probabilities = softmax(logits)
    decisions, number = np.asarray(decisions), group_numbers(groups, len(probabilities))
    decided = probabilities[np.arange(len(decisions)), decisions]

    def right(priors: np.ndarray) -> np.ndarray:  # (b, classes) -> (b, n)
        ratio = priors / seen
        return ratio[:, decisions] * decided / np.maximum(ratio @ probabilities.T, TINY)

    def accuracy(times: np.ndarray) -> np.ndarray:  # (b, groups) -> (b,)
        weights = times[:, number]
        chances = right(resampled_priors(probabilities, seen, estimate.prior, weights))
        return (weights * chances).sum(axis=1) / weights.sum(axis=1)

    low, high = interval_ends(on_resamples(accuracy, int(number.max()) + 1, n_boot, seed, width=len(decisions)))
    return Bounds(value=float(right(estimate.prior[None]).mean()), low=low, high=high)
