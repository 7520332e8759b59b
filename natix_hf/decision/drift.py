"""Tests whether new photos without labels look to the model like those that it was calibrated on.

It compares two sets of calibrated probabilities. Different class shares are label shift, not drift: they are estimated
(`prior_shift`) and accounted for. What remains is a difference within the classes, as seen through the model's
probability. Under drift the calibration, the estimated shares and the expected accuracy no longer hold. Photos that
look different but get the same probabilities are not detected.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from natix_hf.decision.prior_shift import PriorEstimate, resampled_priors
from natix_hf.errors import UserError
from natix_hf.logits import softmax
from natix_hf.resampling import CELLS, group_numbers, times_drawn

P_LIMIT = 0.05


@dataclass(frozen=True)
class Drift:
    """Result of the comparison.

    Args:
        distance: largest difference of the two distributions of the positive probability (Kolmogorov and Smirnov),
            the reference reweighted to the estimated class shares.
        p: how often photos like the reference, with these class shares and as many groups, are at least as far away.
        expected: median of that distance without drift.
        n, groups: of the new photos; `reference_n, reference_groups`: of the reference.
    """

    distance: float
    p: float
    expected: float
    n: int
    groups: int
    reference_n: int
    reference_groups: int

    @property
    def found(self) -> bool:
        """Whether there is drift; a false alarm in about one of 20 cases without drift."""
        return self.p < P_LIMIT


def drift_test(
    logits: np.ndarray,
    groups: np.ndarray | None,
    estimate: PriorEstimate,
    reference_logits: np.ndarray,
    reference_labels: np.ndarray,
    reference_groups: np.ndarray | None,
    *,
    positive: int = 1,
    n_boot: int = 500,
    seed: int = 0,
) -> Drift:
    """Compare new photos with labelled ones, accounting for different class shares.

    The distance without drift is found by drawing groups of the reference twice: once as the reference, and once,
    with the estimated class shares, in the role of the new photos, whose shares are then estimated again.

    Args:
        logits: `(n, classes)` of the new photos, calibrated at the reference's class shares.
        groups: `(n,)` or None.
        estimate: of their class shares, from the same logits.
        reference_logits: `(m, classes)`, calibrated in the same way.
        reference_labels: `(m,)`.
        reference_groups: `(m,)` or None.
        positive: class whose probability is compared.

    Raises:
        UserError: the reference lacks a class.
    """
    classes = np.shape(logits)[1]
    labels = np.asarray(reference_labels)
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        raise UserError(f"drift: the reference has no photo of class {int(np.flatnonzero(counts == 0)[0])}")
    seen, prior = counts / counts.sum(), estimate.prior
    new, old = softmax(logits), softmax(reference_logits)
    number, old_number = group_numbers(groups, len(new)), group_numbers(reference_groups, len(old))
    n_groups, n_old = int(number.max()) + 1, int(old_number.max()) + 1

    def distance(scores: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Of two weightings `(b, k)` of the rows with `scores` `(k,)`: `(b,)`."""
        order = np.argsort(scores, kind="stable")
        last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores are one step
        steps = [np.cumsum(w[:, order], axis=1) / w.sum(axis=1, keepdims=True) for w in (left, right)]
        return np.abs(steps[0] - steps[1])[:, last].max(axis=1)

    scores = np.concatenate([new[:, positive], old[:, positive]])
    is_new = np.arange(len(scores)) < len(new)
    weights = np.concatenate([np.zeros(len(new)), (prior / seen)[labels]])
    measured = float(distance(scores, is_new[None].astype(np.float64), weights[None])[0])

    # Draw each group as often as it would occur at the estimated class shares.
    chances = np.bincount(old_number, (prior / seen)[labels])
    generator = np.random.default_rng([seed, 1])
    without = []
    for times in times_drawn(n_old, n_boot, seed, at_once=max(1, CELLS // len(old))):
        drawn = generator.multinomial(n_groups, chances / chances.sum(), size=len(times)).astype(np.float64)
        as_new = drawn[:, old_number]  # (b, m)
        # Within a drawn group of several classes the rows still come in the reference's shares: correct that.
        as_new = as_new * ((prior / seen)[labels] / (chances / np.bincount(old_number))[old_number])
        shares = resampled_priors(old, seen, prior, as_new)  # (b, classes)
        as_old = times[:, old_number]
        held = as_old @ np.eye(classes)[labels]  # (b, classes): reweighted as the reference itself is, by its own
        defined = held.all(axis=1) & (as_new.sum(axis=1) > 0)
        ratio = shares / np.where(held, held / held.sum(axis=1, keepdims=True), 1.0)
        as_old = as_old * ratio[:, labels]
        without.append(distance(old[:, positive], as_new[defined], as_old[defined]))
    without = np.concatenate(without)
    p = (1 + np.sum(without >= measured - 1e-12)) / (1 + len(without))
    return Drift(measured, float(p), float(np.median(without)), len(new), n_groups, len(old), n_old)


def drift_line(drift: Drift) -> str:
    """Describe the comparison in one line."""
    figures = (
        f"{drift.n} photos in {drift.groups} groups against {drift.reference_n} in {drift.reference_groups}: distance "
        f"{drift.distance:.3f}, {drift.expected:.3f} without drift, p = {drift.p:.3f}"
    )
    if drift.found:
        return (
            "drift: even after accounting for class shares, the model's probabilities are distributed differently "
            f"from those on the photos that it was calibrated on ({figures}): the photos themselves differ, so do not "
            "rely on the estimated shares or the expected accuracy; label about 300 photos and recalibrate on them"
        )
    return (
        "no drift found: after accounting for class shares, the model's probabilities are distributed as on the "
        f"photos that it was calibrated on ({figures})"
    )
