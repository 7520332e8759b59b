"""Other class shares: the closed form, one hand-worked EM step, and EM on shifted data whose shares are known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from natix_hf import UserError
from natix_hf.decision.prior_shift import em_step, estimate_prior, importance_weights, prior_bias


def gaussian_world(share: float, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits that are exactly calibrated under equal shares: x ~ N(+-1, 1), log odds 2x."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < share).astype(int)
    x = rng.normal(np.where(labels == 1, 1.0, -1.0))
    return labels, np.stack([-x, x], axis=1)


def test_the_bias_turns_the_posterior_under_one_prior_into_bayes_rule_under_another():
    density = np.array([0.2, 0.05])  # of one photo, for each class
    seen, target = np.array([0.1, 0.9]), np.array([0.5, 0.5])
    posterior = density * seen / (density * seen).sum()
    moved = scipy.special.softmax(np.log(posterior) + prior_bias(seen, target))
    np.testing.assert_allclose(moved, density * target / (density * target).sum())
    np.testing.assert_allclose(prior_bias(seen, target), [np.log(5), np.log(0.5 / 0.9)])
    np.testing.assert_array_equal(prior_bias(seen, seen), [0, 0])


def test_weights_give_the_rows_the_shares_that_are_wanted():
    labels = np.array([1] * 9 + [0])
    weights = importance_weights(labels, [0.1, 0.9], [0.5, 0.5])
    np.testing.assert_allclose(weights[labels == 1].sum(), weights[labels == 0].sum())
    np.testing.assert_allclose(weights.mean(), 1)
    np.testing.assert_allclose(weights[[0, 9]], [5 / 9, 5])


def test_one_em_step_on_two_rows_is_what_a_hand_works_out():
    probabilities = np.array([[0.2, 0.8], [0.6, 0.4]])
    # Assumed shares 0.75 / 0.25 where 0.5 / 0.5 were seen: factors 1.5 and 0.5.
    # Row 1: 0.3, 0.4 -> 3/7, 4/7. Row 2: 0.9, 0.2 -> 9/11, 2/11. Mean of the first class: (3/7 + 9/11) / 2 = 48/77.
    found = em_step(probabilities, np.array([0.5, 0.5]), np.array([0.75, 0.25]))
    np.testing.assert_allclose(found, [48 / 77, 29 / 77])
    one = estimate_prior(np.log(probabilities), [0.5, 0.5], max_iterations=1, n_boot=2)
    np.testing.assert_allclose(one.prior, [0.4, 0.6])  # from the seen shares: the mean probability
    assert (one.iterations, one.converged) == (1, False)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_em_finds_the_shares_of_a_shifted_world_where_the_mean_probability_does_not(share):
    labels, logits = gaussian_world(share, 6000, seed=1)
    found = estimate_prior(logits, [0.5, 0.5], n_boot=100)
    assert found.converged
    assert found.low[1] < labels.mean() < found.high[1]
    assert abs(found.prior[1] - labels.mean()) < 0.02
    np.testing.assert_allclose(found.prior.sum(), 1)
    if share != 0.5:
        assert abs(scipy.special.softmax(logits, axis=1)[:, 1].mean() - labels.mean()) > 0.05


def test_em_ends_where_the_likelihood_of_the_mixture_is_highest():
    _, logits = gaussian_world(0.8, 500, seed=2)
    likelihood = np.exp(2 * logits[:, 1])  # p(x | 1) / p(x | 0)
    shares = np.linspace(0.001, 0.999, 9981)
    heights = np.log(1 - shares[:, None] + shares[:, None] * likelihood).sum(axis=1)
    found = estimate_prior(logits, [0.5, 0.5], n_boot=2)
    np.testing.assert_allclose(found.prior[1], shares[heights.argmax()], atol=2e-4)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    hits = 0
    for seed in range(60):
        _, logits = gaussian_world(0.8, 300, seed=100 + seed)
        found = estimate_prior(logits, [0.5, 0.5], n_boot=100, seed=seed)
        hits += found.low[1] <= 0.8 <= found.high[1]
    assert hits >= 51  # 57 expected of a 95 % interval; below 51 has a chance of 1 %


def test_photos_of_one_group_count_once():
    _, logits = gaussian_world(0.7, 60, seed=3)
    copied, groups = np.repeat(logits, 20, axis=0), np.repeat(np.arange(60), 20)
    alone, grouped = estimate_prior(copied, [0.5, 0.5]), estimate_prior(copied, [0.5, 0.5], groups)
    assert (grouped.n, grouped.groups, alone.groups) == (1200, 60, 1200)
    assert grouped.high[1] - grouped.low[1] > 3 * (alone.high[1] - alone.low[1])
    again = estimate_prior(copied, [0.5, 0.5], groups)
    np.testing.assert_array_equal(again.low, grouped.low)


def test_three_classes():
    rng = np.random.default_rng(4)
    truth = np.array([0.6, 0.3, 0.1])
    labels = rng.choice(3, 4000, p=truth)
    x = rng.normal(2.0 * np.eye(3)[labels])
    found = estimate_prior(2.0 * x, [1 / 3] * 3, n_boot=50)  # log p(x | k) = 2 x_k + what all k share
    np.testing.assert_allclose(found.prior, np.bincount(labels) / 4000, atol=0.03)


@pytest.mark.parametrize(
    ("call", "given", "message"),
    [
        (
            prior_bias,
            ([0, 1], [0.5, 0.5]),
            "the rows of the calibration: expected class shares, one number above 0 .*; found 0 1",
        ),
        (prior_bias, ([0.5, 0.5], [0.2, 0.3, 0.5]), "target_prior: expected 2 shares, one per class; found 3"),
        (estimate_prior, (np.empty((0, 2)), [0.5, 0.5]), r"expected logits \(n >= 1, 2\), found shape \(0, 2\)"),
        (estimate_prior, (np.array([[0.0, np.nan]]), [0.5, 0.5]), "expected finite logits .* found NaN"),
    ],
)
def test_what_cannot_be_is_refused(call, given, message):
    with pytest.raises(UserError, match=message):
        call(*given)
