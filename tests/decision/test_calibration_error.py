"""Intervals with the error of the calibration in them: how often they hold the truth, and what they reduce to."""

from __future__ import annotations

import numpy as np
import pytest

from natix_hf.decision.calibration_error import Reference, intervals
from natix_hf.decision.expected_accuracy import expected_accuracy
from natix_hf.decision.fit_calibrator import fit_one
from natix_hf.decision.prior_shift import estimate_prior


def photos(generator: np.random.Generator, n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits: twice the log posterior where 90 % are positive."""
    labels = (generator.random(n) < share).astype(int)
    evidence = generator.normal(0, 1.3, (n, 2)) + 2.2 * np.eye(2)[labels]
    return labels, 2 * (evidence * 2.2 / 1.3**2 + np.log([0.1, 0.9]))


@pytest.mark.slow
def test_the_true_shares_are_in_the_interval_as_often_as_promised_and_not_without_the_calibration_s_error():
    held, alone, repeats = 0, 0, 30
    for seed in range(repeats):
        generator = np.random.default_rng(seed)
        labels, logits = photos(generator, 300, 0.9)
        there, new = photos(generator, 1000, 0.3)
        calibration = fit_one("temperature", logits, labels)
        calibrated, seen = calibration.calibrated(new), np.bincount(labels) / 300
        estimate = estimate_prior(calibrated, seen, n_boot=40)
        reference = Reference(calibration.calibrated(logits), labels, None)
        low, high, _ = intervals(calibrated, {}, None, estimate.prior, reference, "temperature", n_boot=40)
        held += low[1] <= there.mean() <= high[1]
        alone += estimate.low[1] <= there.mean() <= estimate.high[1]
    assert held >= 25  # of 30 at 95 %: 24 or fewer have a chance of 0.3 %
    assert alone <= 22


def test_a_calibration_on_very_many_photos_adds_nothing():
    generator = np.random.default_rng(0)
    labels, logits = photos(generator, 60_000, 0.9)
    calibrated = photos(generator, 600, 0.3)[1] / 2
    groups = np.arange(600) // 3
    seen = np.bincount(labels) / len(labels)
    estimate = estimate_prior(calibrated, seen, groups)
    decided = calibrated.argmax(axis=1)
    reference = Reference(logits / 2, labels, None)
    low, high, ends = intervals(calibrated, {"it": decided}, groups, estimate.prior, reference, "none", n_boot=150)
    np.testing.assert_allclose([low, high], [estimate.low, estimate.high], atol=0.012)
    plain = expected_accuracy(calibrated, decided, seen, estimate, groups)
    np.testing.assert_allclose(ends["it"], [plain.low, plain.high], atol=0.012)


def test_groups_of_the_calibration_are_drawn_whole():
    generator = np.random.default_rng(1)
    labels, logits = photos(generator, 100, 0.7)
    labels, logits = np.repeat(labels, 10), np.repeat(logits, 10, axis=0)
    calibrated = photos(generator, 500, 0.3)[1] / 2
    prior = estimate_prior(calibrated, np.bincount(labels) / 1000, n_boot=2).prior
    widths = []
    for groups in (None, np.repeat(np.arange(100), 10)):
        low, high, _ = intervals(
            calibrated, {}, None, prior, Reference(logits / 2, labels, groups), "temperature", n_boot=80
        )
        widths.append(high[1] - low[1])
    assert widths[1] > 1.3 * widths[0]
