"""Expected accuracy on photos without labels, from calibrated probabilities.

It is the mean probability of the decided class at the class shares that were estimated from these photos. It assumes
that the probabilities are calibrated: under drift it is meaningless.
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
    """Expected accuracy with its interval over resampled groups; class shares are estimated again in each resample.

    Args:
        logits: `(n, classes)` calibrated at the class shares `seen`.
        decisions: `(n,)` class ids to evaluate.
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
