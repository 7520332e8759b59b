"""Expected class shares: what counts as such, and when the shares of training are far from them."""

from __future__ import annotations

import numpy as np
import pytest

from natix_hf import UserError
from natix_hf.decision.prior import class_prior, prior_warning

NAMES = ["None", "Roadwork"]


def test_of_two_classes_the_positive_one_is_enough():
    np.testing.assert_allclose(class_prior([0.2], NAMES, 1), [0.8, 0.2])
    np.testing.assert_allclose(class_prior([0.2], NAMES, 0), [0.2, 0.8])
    np.testing.assert_allclose(class_prior([0.1, 0.9], NAMES, 0), [0.1, 0.9])
    np.testing.assert_allclose(class_prior([0.333, 0.333, 0.333], ["a", "b", "c"], 1).sum(), 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([0.5, 0.6], "target_prior: expected shares that sum to 1, found 0.5 0.6 (sum 1.1)"),
        ([1.0], "target_prior: expected shares above 0 and below 1, found 1"),
        ([-0.5, 1.5], "target_prior: expected shares above 0 and below 1, found -0.5 1.5"),
        ([float("nan")], "target_prior: expected shares above 0 and below 1, found nan"),
        ([0.2, 0.3, 0.5], "target_prior: expected 2 shares, one for each of None, Roadwork; found 3"),
    ],
)
def test_what_are_no_shares_of_these_classes_is_refused(given, said):
    with pytest.raises(UserError) as caught:
        class_prior(given, NAMES, 1)
    assert str(caught.value) == said
    with pytest.raises(UserError, match=r"expected 3 shares, .*; found 1"):
        class_prior([0.5], ["a", "b", "c"], 1)


def test_odds_that_are_nine_times_too_high_are_told_with_figures_and_remedies():
    line = prior_warning(np.array([0.1, 0.9]), np.array([0.5, 0.5]), NAMES)
    assert line.startswith("training sees 90.0% Roadwork and 10.0% None, target_prior says 50.0% and 50.0%: the odds")
    assert "odds of Roadwork against None are 9.0 times the expected ones" in line
    for remedy in ("sampling: balanced", "class_weights", "logit_adjustment"):
        assert remedy in line
    assert "\n" not in line


def test_the_limit_is_odds_of_twice_on_either_side_for_rare_classes_too():
    def far(seen, target):
        return prior_warning(np.array([1 - seen, seen]), np.array([1 - target, target]), NAMES) is not None

    assert not far(0.66, 0.5)
    assert far(0.67, 0.5)
    assert not far(0.34, 0.5)
    assert far(0.33, 0.5)
    assert far(0.10, 0.02)  # 8 points only, and odds 5 times too high
    assert not far(0.021, 0.02)


def test_of_many_classes_the_two_that_are_furthest_apart_are_named():
    line = prior_warning(np.array([0.6, 0.3, 0.1]), np.array([0.3, 0.3, 0.4]), ["a", "b", "c"])
    assert "odds of a against c are 8.0 times" in line


def test_a_class_that_training_never_sees_is_no_matter_of_shares():
    assert prior_warning(np.array([0.5, 0.5, 0.0]), np.array([0.4, 0.4, 0.2]), ["a", "b", "c"]) is None
