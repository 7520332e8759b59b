"""Drift: no alarm where only the class shares differ, no more often than it says; alarm where photos differ."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from natix_hf import UserError
from natix_hf.decision.drift import drift_line, drift_test
from natix_hf.decision.prior_shift import estimate_prior


def world(share: float, groups: int, seed: int, *, apart: float = 1.0, tremble: float = 0.7, of: int = 3):
    """Logits, labels and groups of `of` alike rows each: a group has a class and a place of its own."""
    rng = np.random.default_rng(seed)
    label = (rng.random(groups) < share).astype(int)
    centre = rng.normal(np.where(label == 1, apart, -apart), tremble)
    labels, number = np.repeat(label, of), np.repeat(np.arange(groups), of)
    x = np.repeat(centre, of) + rng.normal(0, np.sqrt(1 - tremble**2), groups * of)
    # x is N(+-1, 1) where apart is 1, and 2 x its log odds under equal shares.
    return np.stack([-x, x], axis=1), labels, number


def compared(new, reference, n_boot=200, seed=0):
    logits, _, groups = new
    old_logits, old_labels, old_groups = reference
    seen = np.bincount(old_labels) / len(old_labels)
    odds = np.log(seen) - np.log([0.5, 0.5])
    estimate = estimate_prior(logits + odds, seen, groups, n_boot=2)
    return drift_test(
        logits + odds, groups, estimate, old_logits + odds, old_labels, old_groups, n_boot=n_boot, seed=seed
    )


def test_other_class_shares_alone_raise_an_alarm_no_more_often_than_promised():
    p = [compared(world(0.1, 80, 2 * i), world(0.8, 120, 2 * i + 1), n_boot=99, seed=i).p for i in range(100)]
    # A test of exactly this size alarms 5 times in 100, more than 11 times with a chance of 1 %.
    assert np.sum(np.array(p) < 0.05) <= 11
    assert np.median(p) > 0.3


@pytest.mark.parametrize("apart", [0.0, 2.5])  # no longer told apart; told apart better than ever
def test_photos_that_differ_within_the_classes_are_noticed(apart):
    found = [compared(world(0.5, 240, i, apart=apart), world(0.8, 240, 1000 + i)) for i in range(5)]
    assert all(drift.found for drift in found)
    line = drift_line(found[0])
    assert line.startswith("drift: even after accounting for class shares")
    assert "720 photos in 240 groups against 720 in 240" in line
    assert "label about 300" in line


def test_the_distance_is_that_of_kolmogorov_and_smirnov_where_the_shares_are_the_same():
    new, reference = world(0.5, 50, 1), world(0.5, 60, 2)
    logits, labels, groups = reference
    seen = np.bincount(labels) / len(labels)
    estimate = estimate_prior(new[0], seen, n_boot=2)
    object.__setattr__(estimate, "prior", seen)  # as if nothing had been estimated
    drift = drift_test(new[0], new[2], estimate, logits, labels, groups, n_boot=20)
    expected = scipy.stats.ks_2samp(new[0][:, 1], logits[:, 1]).statistic
    assert drift.distance == pytest.approx(expected)
    assert (drift.n, drift.groups, drift.reference_n, drift.reference_groups) == (150, 50, 180, 60)


def test_rows_of_one_group_are_not_taken_for_news():
    """30 groups of 20 alike photos are no sample of 600."""
    alarms = [
        compared(world(0.5, 30, i, of=20, tremble=0.99), world(0.5, 100, 500 + i, of=20, tremble=0.99), 99).found
        for i in range(30)
    ]
    assert sum(alarms) <= 5


def test_the_same_seed_gives_the_same_figures_and_a_class_is_needed():
    new, reference = world(0.5, 20, 1), world(0.5, 30, 2)
    assert compared(new, reference) == compared(new, reference)
    assert drift_line(compared(new, new)).startswith("no drift found")
    estimate = estimate_prior(new[0], [0.5, 0.5], n_boot=2)
    with pytest.raises(UserError, match="has no photo of class 0"):
        drift_test(new[0], None, estimate, new[0], np.ones(60, int), None)
