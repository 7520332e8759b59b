"""The accuracy expected without labels, beside the true one of a world in which label shift is all that happened."""

from __future__ import annotations

import numpy as np
import pytest

from natix_hf.decision.expected_accuracy import expected_accuracy
from natix_hf.decision.prior_shift import estimate_prior


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_it_is_the_true_accuracy_where_the_probabilities_are_calibrated(share):
    rng = np.random.default_rng(1)
    labels = (rng.random(4000) < share).astype(int)
    x = rng.normal(np.where(labels == 1, 1.0, -1.0))
    seen = np.array([0.2, 0.8])
    logits = np.stack([-x, x], axis=1) + np.log(seen)
    decisions = logits.argmax(axis=1)  # made for other class shares than these
    estimate = estimate_prior(logits, seen, n_boot=2)
    found = expected_accuracy(logits, decisions, seen, estimate, n_boot=100)
    assert found.low < (decisions == labels).mean() < found.high
    assert found.high - found.low < 0.05


def test_by_hand():
    logits = np.log(np.array([[0.2, 0.8], [0.6, 0.4]]))
    estimate = estimate_prior(logits, [0.5, 0.5], max_iterations=1, n_boot=2)  # 0.4, 0.6
    found = expected_accuracy(logits, np.array([1, 1]), np.array([0.5, 0.5]), estimate, n_boot=2)
    # 0.6 * 0.8 / (0.4 * 0.2 + 0.6 * 0.8) = 6/7 and 0.6 * 0.4 / (0.4 * 0.6 + 0.6 * 0.4) = 1/2
    assert found.value == pytest.approx((6 / 7 + 1 / 2) / 2)
