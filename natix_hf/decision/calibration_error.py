"""Intervals of estimates from photos without labels, including the error of the calibration itself.

Estimated class shares and expected accuracy use probabilities that were calibrated on a few hundred photos. On other
photos of the same kind the calibration would differ, and this often changes the result more than the choice of the new
photos. So each draw resamples the groups of both, and fits the calibrator again on top of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from natix_hf.decision.calibrators import CALIBRATORS
from natix_hf.decision.fit_calibrator import fit_one
from natix_hf.decision.prior_shift import TINY, resampled_priors
from natix_hf.logits import softmax
from natix_hf.resampling import group_numbers, interval_ends, times_drawn


class Reference(NamedTuple):
    """The labelled rows of a calibration: `logits` `(m, classes)`, calibrated, at the class shares of these rows;
    `labels` `(m,)`, `groups` `(m,)` or None."""

    logits: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None


def intervals(
    calibrated: np.ndarray,
    decisions: Mapping[str, np.ndarray],
    groups: np.ndarray | None,
    prior: np.ndarray,
    reference: Reference,
    calibrator: str,
    *,
    n_boot: int = 200,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[float, float]]]:
    """Interval ends of the class shares and of the expected accuracies.

    Args:
        calibrated: `(n, classes)` logits of the new photos, calibrated at the class shares of the reference.
        decisions: name -> `(n,)` class ids to evaluate.
        groups: `(n,)` or None.
        prior: `(classes,)` estimated shares, the start of EM.
        reference: rows that the calibration was fitted on.
        calibrator: fitted on these rows, or `none`.

    Returns:
        `low` and `high` of the shares, `(classes,)`, and `(low, high)` of each name's expected accuracy.
    """
    classes = calibrated.shape[1]
    number, old = group_numbers(groups, len(calibrated)), group_numbers(reference.groups, len(reference.labels))
    draws = (
        (new[0], again[0])
        for new, again in zip(
            times_drawn(int(number.max()) + 1, n_boot, seed, at_once=1),
            times_drawn(int(old.max()) + 1, n_boot, seed + 1, at_once=1),
            strict=True,
        )
    )
    shares, right = [], {name: [] for name in decisions}
    rows = np.arange(len(calibrated))
    for new, again in draws:
        picked = np.repeat(np.arange(len(old)), again[old].astype(np.int64))
        labels = reference.labels[picked]
        counts = np.bincount(labels, minlength=classes)
        if not counts.all():  # no calibration would be fitted on rows without one of the classes
            continue
        seen, logits = counts / counts.sum(), calibrated
        if again_fitted := CALIBRATORS[calibrator].again:
            logits = fit_one(again_fitted, reference.logits[picked], labels).calibrated(calibrated)
        probabilities, weights = softmax(logits), new[number]
        drawn_prior = resampled_priors(probabilities, seen, prior, weights[None])[0]
        shares.append(drawn_prior)
        ratio = drawn_prior / seen
        whole = np.maximum(probabilities @ ratio, TINY)
        for name, decided in decisions.items():
            chance = ratio[decided] * probabilities[rows, decided] / whole
            right[name].append(float((weights * chance).sum() / weights.sum()))
    low, high = np.transpose([interval_ends(share) for share in np.transpose(shares)])
    return low, high, {name: interval_ends(np.array(values)) for name, values in right.items()}
