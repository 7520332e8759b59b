"""What a chosen threshold is worth on other groups: a literal loop, and when it is worth nothing."""

import numpy as np
import pytest
from sklearn.metrics import f1_score
from sklearn.model_selection import GroupKFold

from natix_hf.decision.threshold import held_out_gain, threshold_curve


def photos(generator, n, shift=0.0, each=3):
    """Scores whose best threshold for accuracy is `sigmoid(shift)`, and groups."""
    margin = 2 * generator.normal(size=n)
    positive = generator.random(n) < 1 / (1 + np.exp(-margin))
    return 1 / (1 + np.exp(-margin - shift)), positive, np.arange(n) // each


def test_is_what_a_loop_over_held_out_groups_finds():
    scores, positive, groups = photos(np.random.default_rng(0), 90, 1.0)
    found = held_out_gain(scores, positive, groups, "f1", folds=5, n_boot=50)
    decided = np.zeros(90, bool)
    for fit, check in GroupKFold(5, shuffle=True, random_state=0).split(scores, groups=groups):
        best = threshold_curve(scores[fit], positive[fit], groups[fit], "f1", n_boot=2).threshold
        decided[check] = scores[check] > best
    assert found.value == pytest.approx(f1_score(positive, decided))
    assert found.at_half == pytest.approx(f1_score(positive, scores > 0.5))
    assert found.gain == pytest.approx(found.value - found.at_half)


def test_a_threshold_of_calibrated_scores_is_seldom_ahead_by_more_than_its_error_and_of_shifted_ones_is():
    generator = np.random.default_rng(1)
    ahead = {}
    for shift in (0.0, 2.5):
        drawn = [held_out_gain(*photos(generator, 240, shift), "mcc", n_boot=200) for _ in range(20)]
        ahead[shift] = sum(one.gain > one.gain_se for one in drawn)
    assert ahead[0.0] <= 5
    assert ahead[2.5] >= 18


def test_a_cost_is_better_where_it_is_less_and_weights_count():
    scores, positive, groups = photos(np.random.default_rng(2), 600)
    found = held_out_gain(scores, positive, groups, "cost:1:9", n_boot=200)
    assert found.gain == pytest.approx(found.at_half - found.value)
    assert found.gain > 2 * found.gain_se > 0
    twice = [np.repeat(array, 2) for array in (scores, positive, groups)]
    weighted = held_out_gain(scores, positive, groups, "mcc", weights=np.full(600, 2.0), n_boot=50)
    assert dict(held_out_gain(*twice, "mcc", n_boot=50)) == pytest.approx(dict(weighted))


def test_nothing_is_judged_within_one_group_or_of_a_figure_that_has_to_be_met():
    scores, positive, _ = photos(np.random.default_rng(3), 60)
    assert held_out_gain(scores, positive, np.zeros(60), "mcc") is None
    assert held_out_gain(scores, positive, None, "precision>=0.9") is None
    assert held_out_gain(scores[:2], np.array([True, False]), None, "mcc", n_boot=20).gain <= 0
