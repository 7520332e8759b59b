"""Decides whether a calibrator replaces a simpler one, by their predictions of held-out photos.

On the photos that it was fitted on, every calibrator looks better than none. So each photo is predicted by a fit
without its group, and a candidate must meet two conditions:

- it predicts held-out photos better on average, and
- a part of the way to it does so by more than one standard error over groups.

The second condition uses a part of the way because a short step tests the direction. Even if the direction is clearly
right, the full step often leads by less than a standard error on 120 photos, because some groups overshoot. With the
full step in this condition, a quarter of the possible gain was lost at T = 2, accuracy .9 and 120 photos
(`tests/bench/calibration_small.py`). The more parameters a calibrator has, the easier it finds a direction by chance,
so the longer the part: long enough that a calibrated model loses no more than 0.002 nats per photo on average.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from natix_hf.decision.calibrators import CALIBRATORS
from natix_hf.documents.calibration import Candidate
from natix_hf.logits import nll


def mean_and_error(values: np.ndarray, group_of_row: np.ndarray) -> tuple[float, float]:
    """Mean of `(n,)` values and its standard error over groups; infinite with fewer than two groups."""
    sums = np.bincount(group_of_row, values - values.mean())
    if len(sums) < 2:
        return float(values.mean()), float("inf")
    return float(values.mean()), float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(values))


def clearly_better(
    new: np.ndarray, old: np.ndarray, labels: np.ndarray, group_of_row: np.ndarray, step: float
) -> bool:
    """Whether one prediction of held-out rows should replace another.

    Args:
        new, old: `(n, classes)` logits of each row from fits without its group.
        labels: `(n,)` class ids.
        group_of_row: `(n,)` numbers from 0.
        step: share of the way that must lead by more than a standard error.
    """
    before = nll(old, labels)
    gain, error = mean_and_error(before - nll(old + step * (new - old), labels), group_of_row)
    return bool((before - nll(new, labels)).mean() > 0 and gain > error)


def choose(
    held_out: Mapping[str, np.ndarray], labels: np.ndarray, group_of_row: np.ndarray
) -> tuple[str, list[Candidate]]:
    """Choose the last candidate that is clearly better than the previous choice.

    Args:
        held_out: name -> `(n, classes)` logits of each row from a fit without its group, from simple to flexible,
            `none` first.
        labels: `(n,)` class ids.
        group_of_row: `(n,)` numbers from 0.

    Returns:
        Its name, and the comparison of each candidate with the best.
    """
    chosen, *others = held_out
    for name in others:
        if clearly_better(held_out[name], held_out[chosen], labels, group_of_row, CALIBRATORS[name].step):
            chosen = name
    nats = {name: nll(logits, labels) for name, logits in held_out.items()}
    best = min(nats.values(), key=np.mean)
    compared = []
    for name, values in nats.items():
        behind, error = mean_and_error(values - best, group_of_row)
        compared.append(Candidate(calibrator=name, cv_nll=float(values.mean()), behind=behind, behind_se=error))
    return chosen, compared
