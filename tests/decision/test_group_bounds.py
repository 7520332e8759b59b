"""Bounds by whole groups: exact where theory is exact, and kept where photos of a group fail together."""

import itertools

import numpy as np
import pytest
import scipy.stats

from natix_hf.decision.group_bounds import Groups, _log_wealth, p_value, safe_threshold, smallest_certifiable


def test_the_smallest_rates_of_independent_rows_are_those_of_the_textbook():
    assert smallest_certifiable(Groups.of(None, 187), 0.05) == pytest.approx(0.0159, abs=5e-5)
    assert smallest_certifiable(Groups.of(None, 299), 0.05) <= 0.01 < smallest_certifiable(Groups.of(None, 298), 0.05)
    assert smallest_certifiable(Groups.of(None, 0), 0.05) == 1.0


@pytest.mark.parametrize(("mistakes", "n"), [(0, 50), (3, 50), (7, 400)])
def test_independent_rows_give_the_exact_binomial_p_value(mistakes, n):
    wrong = np.arange(n) < mistakes
    expected = scipy.stats.binomtest(mistakes, n, 0.08, alternative="less").pvalue
    assert p_value(wrong, Groups.of(np.arange(n)[::-1], n), 0.08) == pytest.approx(expected)


def test_the_p_value_of_groups_equals_a_plain_product():
    groups = np.array(["a"] * 4 + ["b"] * 2 + ["c"])
    wrong, alpha = np.array([1, 0, 0, 0, 0, 0, 0]), 0.3
    wealth = 0.0
    for k in range(21):
        q, prior = (0.0, 0.5) if k == 0 else (alpha * (k - 0.5) / 20, 0.5 / 20)
        product = 1.0
        for mistakes, size in ((1, 4), (0, 2), (0, 1)):
            x = alpha + (mistakes - alpha * size) / 4
            product *= 1 + (alpha - x) * (alpha - q) / (alpha * (1 - alpha))
        wealth += prior * product
    assert p_value(wrong, Groups.of(groups, 7), alpha) == pytest.approx(min(1, 1 / wealth))


def test_the_bet_is_fair_at_the_bound_whatever_a_group_is_like():
    """All outcomes of four groups from a population whose rate per photo is alpha exactly: nothing is gained."""
    kinds = [(4, 0, 0.75), (4, 4, 0.05), (1, 1, 0.2)]  # photos, mistakes, how often
    alpha = (4 * 0.05 + 1 * 0.2) / (4 * 0.8 + 1 * 0.2)
    expected = 0.0
    for drawn in itertools.product(kinds, repeat=4):
        sizes, mistakes, often = (np.array(column) for column in zip(*drawn, strict=True))
        expected += np.prod(often) * np.exp(_log_wealth((alpha * sizes - mistakes) / 4, alpha))
    assert expected == pytest.approx(1.0)


@pytest.mark.parametrize("groups", [None, np.arange(240) // 3, np.repeat(np.arange(60), np.tile([1, 2, 4, 9], 15))])
def test_what_is_called_the_smallest_rate_is_just_provable(groups):
    of = Groups.of(groups, 240)
    smallest = smallest_certifiable(of, 0.1)
    assert p_value(np.zeros(240), of, smallest) <= 0.1 < p_value(np.zeros(240), of, 0.999 * smallest)


def test_a_group_of_copies_proves_what_one_photo_proves_and_little_more():
    """Half of the stakes lie on "no mistake", so ten copies of each of 100 photos prove ln 2 / 100 less, no more."""
    single, copied = Groups.of(None, 100), Groups.of(np.repeat(np.arange(100), 10), 1000)
    assert smallest_certifiable(single, 0.1) < smallest_certifiable(copied, 0.1) < 0.03
    assert smallest_certifiable(Groups.of(None, 1000), 0.1) < 0.003


def test_more_mistakes_never_help_and_the_order_of_rows_has_no_part():
    generator = np.random.default_rng(0)
    names = generator.integers(0, 30, 150)
    order, last = generator.permutation(150), 0.0
    for mistakes in range(0, 151, 5):
        wrong = np.arange(150) < mistakes
        value = p_value(wrong, Groups.of(names, 150), 0.2)
        assert value >= last
        assert p_value(wrong[order], Groups.of(names[order], 150), 0.2) == pytest.approx(value)
        last = value


@pytest.mark.parametrize("grouped", [True, False])
def test_the_threshold_is_that_of_a_walk_through_all_scores(grouped):
    generator = np.random.default_rng(1)
    scores = generator.random(200).round(2)  # ties
    groups = Groups.of(generator.integers(0, 60, 200) if grouped else None, 200)
    expected = np.inf
    for value in np.unique(scores)[::-1]:
        if p_value(scores >= value, groups, 0.25) > 0.1:
            break
        expected = value
    found = safe_threshold(scores, groups, 0.25, 0.1)
    assert (scores >= found).sum() == (scores >= expected).sum() > 0


def test_few_rows_prove_nothing():
    assert safe_threshold(np.zeros(20), Groups.of(None, 20), 0.1, 0.1) is None
    assert safe_threshold(np.zeros(0), Groups.of(None, 0), 0.9, 0.9) is None


def test_the_promise_is_kept_when_whole_groups_are_drawn_again_and_that_of_rows_is_not():
    """200 draws of 150 cameras; photos of a camera are wrong together, and cameras with many photos more often."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 9, 20_000)
    camera = generator.normal(0, 0.95, 20_000) + 0.1 * (sizes - 4.5)
    of_row = np.repeat(np.arange(20_000), sizes)
    scores = camera[of_row] + generator.normal(0, 0.3, len(of_row))
    start = np.cumsum(sizes) - sizes
    ordered, alpha, delta = np.sort(scores), 0.1, 0.1
    rates: dict[str, list[float]] = {"groups": [], "rows": []}
    for _ in range(200):
        drawn = generator.integers(0, 20_000, 150)
        rows = np.concatenate([np.arange(start[g], start[g] + sizes[g]) for g in drawn])
        names = np.repeat(np.arange(150), sizes[drawn])
        for way, groups in (("groups", names), ("rows", None)):
            found = safe_threshold(scores[rows], Groups.of(groups, len(rows)), alpha, delta)
            rates[way].append(1 - np.searchsorted(ordered, found) / len(ordered))  # among all photos there are
    violated = {way: np.mean(np.array(rate) > alpha) for way, rate in rates.items()}
    tolerance = 3 * np.sqrt(delta * (1 - delta) / 200)
    assert violated["groups"] <= delta + tolerance
    assert violated["rows"] > delta + 2 * tolerance
    assert np.mean(rates["groups"]) > alpha / 4  # a promise that never answers would be kept as well
