"""The threshold: every figure of the curve against scikit-learn, the optimum against a search through all, folding."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from counted_work import counted_work
from sklearn import metrics

from natix_hf import UserError
from natix_hf.decision.threshold import _cuts, fold_bias, parse_metric, threshold_curve, unreachable_line


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, labels, groups and weights of 90 rows."""
    rng = np.random.default_rng(0)
    positive = rng.random(90) < 0.7
    scores = np.round(scipy.special.expit(rng.normal(np.where(positive, 1.2, -0.6), 1.2)), 2)
    return scores, positive, rng.integers(0, 30, 90), rng.uniform(0.2, 3, 90)


def judged(name: str, positive: np.ndarray, decided: np.ndarray, weights: np.ndarray) -> float:
    """What scikit-learn says."""
    kind, _, rest = name.partition(":")
    given = {"sample_weight": weights}
    if kind == "mcc":
        return metrics.matthews_corrcoef(positive, decided, **given)
    if kind == "accuracy":
        return metrics.accuracy_score(positive, decided, **given)
    if kind == "precision":
        return metrics.precision_score(positive, decided, zero_division=0, **given)
    if kind == "recall":
        return metrics.recall_score(positive, decided, **given)
    if kind in ("f1", "fbeta"):
        return metrics.fbeta_score(positive, decided, beta=float(rest or 1), zero_division=0, **given)
    (_, fp), (fn, _) = metrics.confusion_matrix(positive, decided, **given)
    costs = [float(word) for word in rest.split(":")]
    return (costs[0] * fp + costs[1] * fn) / weights.sum()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["mcc", "accuracy", "f1", "fbeta:0.5", "cost:1:5"])
def test_the_curve_is_scikit_learn_s_at_every_threshold(rows, name, weighted):
    scores, positive, _, weights = rows
    weights = weights if weighted else np.ones(90)
    found = threshold_curve(scores, positive, None, name, weights=weights, n_boot=2)
    points = np.array(found.curve.threshold)
    assert len(points) == len(np.unique(scores)) + (scores.min() > 0) + (scores.max() < 1) - 1
    expected = [judged(name, positive, scores > t, weights) for t in points]
    np.testing.assert_allclose(found.curve.value, expected, atol=1e-12)
    best = min(expected) if name.startswith("cost") else max(expected)
    np.testing.assert_allclose(found.value, best)
    np.testing.assert_allclose(judged(name, positive, scores > found.threshold, weights), best)
    np.testing.assert_allclose(found.at_half, judged(name, positive, scores > 0.5, weights))
    assert (found.n, found.groups, found.reachable, found.constraint) == (90, 90, True, None)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("name", "least", "other"), [("precision", 0.85, "recall"), ("recall", 0.85, "precision")])
def test_a_constraint_is_met_and_the_other_figure_is_as_high_as_it_can_be(rows, name, least, other, weighted):
    scores, positive, _, weights = rows
    weights = weights if weighted else np.ones(90)
    found = threshold_curve(scores, positive, None, f"{name}>={least}", weights=weights, n_boot=2)
    both = [[judged(n, positive, scores > t, weights) for n in (name, other)] for t in _cuts(scores)]
    np.testing.assert_allclose(found.value, max(o for held, o in both if held >= least))
    np.testing.assert_allclose(
        [found.constraint.value, found.value],
        [judged(n, positive, scores > found.threshold, weights) for n in (name, other)],
    )
    assert found.measures == other
    assert found.reachable
    assert found.constraint.value >= least


def test_a_constraint_that_no_threshold_meets_tells_the_best_that_can_be_had():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.2])
    positive = np.array([False, True, True, True, False])
    found = threshold_curve(scores, positive, None, "precision>=0.98", n_boot=20)
    assert not found.reachable
    assert (found.constraint.best, found.threshold, found.value) == (0.75, pytest.approx(0.4), 1.0)
    assert unreachable_line(found) == (
        "threshold_metric precision>=0.98: no threshold reaches precision 0.98 on 5 photos of 5 groups; the best is "
        "0.75, at threshold 0.4 (recall 1)"
    )
    assert unreachable_line(threshold_curve(scores, positive, None, "precision>=0.75", n_boot=20)) is None


def test_a_threshold_lies_midway_between_scores_and_of_equals_nearest_to_one_half():
    scores, positive = np.array([0.1, 0.2, 0.8, 0.95]), np.array([False, False, True, True])
    assert threshold_curve(scores, positive, None, "mcc", n_boot=2).threshold == 0.5
    # Costs that make all thresholds equal: between 0.2 and 0.3, and above 0.3, one of each kind is wrong.
    scores, positive = np.array([0.1, 0.2, 0.3, 0.9]), np.array([False, True, False, True])
    found = threshold_curve(scores, positive, None, "accuracy", n_boot=2)
    assert found.value == 0.75
    assert found.threshold == pytest.approx(0.6)  # not 0.15, which is as good
    np.testing.assert_allclose(_cuts(scores), [0.05, 0.15, 0.25, 0.6, 0.95])
    nothing_between = np.array([0.3, np.nextafter(0.3, 1)])
    assert _cuts(nothing_between)[1] == 0.3  # equal is not positive
    np.testing.assert_allclose(_cuts(np.array([0.0, 1.0])), [0.5])


@pytest.mark.parametrize("positive", [0, 1])
def test_after_folding_the_decision_at_one_half_is_the_decision_at_the_threshold(positive):
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, (5000, 2))
    p = scipy.special.softmax(logits, axis=1)[:, positive]
    found = threshold_curve(p, rng.random(5000) < p**3, None, "mcc", n_boot=2)
    assert abs(found.threshold - 0.5) > 0.05
    folded = scipy.special.softmax(logits + fold_bias(found.threshold, positive, 2), axis=1)[:, positive]
    np.testing.assert_array_equal(folded > 0.5, p > found.threshold)
    assert (np.diff(folded[np.argsort(p)]) >= 0).all()  # the order of the rows is kept
    # The head holds float32: the threshold lies midway, so that this flips nothing either.
    bias = fold_bias(found.threshold, positive, 2).astype(np.float32)
    np.testing.assert_array_equal(np.argmax(logits.astype(np.float32) + bias, axis=1) == positive, folded > 0.5)


def test_the_bias_is_the_log_odds_of_the_threshold():
    np.testing.assert_array_equal(fold_bias(0.5, 1, 2), [0, 0])
    np.testing.assert_allclose(fold_bias(0.2, 1, 2), [0, np.log(4)])


@pytest.mark.parametrize(
    ("threshold", "classes", "message"),
    [(0.4, 3, "for two classes only, the model has 3"), (1.0, 2, "threshold 1 is not between 0 and 1")],
)
def test_folding_is_refused_where_it_means_nothing(threshold, classes, message):
    with pytest.raises(UserError, match=message):
        fold_bias(threshold, 1, classes)


def test_the_interval_of_the_optimum_is_that_of_resampled_groups(rows):
    scores, positive, groups, weights = rows
    found = threshold_curve(scores, positive, groups, "mcc", weights=weights, n_boot=200, seed=5)
    names = np.unique(groups)
    assert found.groups == len(names)
    # The same resamples as rows written out one by one, judged by scikit-learn.
    rng = np.random.default_rng(5)
    drawn = rng.integers(len(names), size=(8, len(names)))
    cuts, optima, values = _cuts(scores), [], []
    for one in drawn:
        taken = np.concatenate([np.flatnonzero(groups == names[g]) for g in one])
        all_values = np.array(
            [metrics.matthews_corrcoef(positive[taken], scores[taken] > t, sample_weight=weights[taken]) for t in cuts]
        )
        ties = np.flatnonzero(all_values >= all_values.max() - 1e-12)
        optima.append(cuts[ties[np.abs(cuts[ties] - 0.5).argmin()]])
        values.append(all_values[np.abs(cuts - found.threshold).argmin()])
    few = threshold_curve(scores, positive, groups, "mcc", weights=weights, n_boot=8, seed=5)
    np.testing.assert_allclose([few.low, few.high], np.quantile(optima, [0.025, 0.975]))
    np.testing.assert_allclose([few.value_low, few.value_high], np.quantile(values, [0.025, 0.975]))
    assert found.low <= found.threshold <= found.high
    assert found == threshold_curve(scores, positive, groups, "mcc", weights=weights, n_boot=200, seed=5)


def test_weights_of_another_prior_move_the_optimum_to_where_that_prior_has_it():
    from natix_hf.decision.prior_shift import importance_weights, prior_bias

    rng = np.random.default_rng(6)
    labels = (rng.random(20_000) < 0.9).astype(int)
    x = rng.normal(np.where(labels == 1, 1.0, -1.0))
    logits = np.stack([-x, x], axis=1) + np.log([0.1, 0.9])  # calibrated under 0.1 / 0.9
    p = scipy.special.softmax(logits + prior_bias([0.1, 0.9], [0.5, 0.5]), axis=1)[:, 1]
    weights = importance_weights(labels, [0.1, 0.9], [0.5, 0.5])
    balanced = threshold_curve(p, labels == 1, None, "accuracy", weights=weights, n_boot=50)
    assert balanced.low - 0.03 < 0.5 < balanced.high + 0.03
    assert balanced.at_half == pytest.approx(scipy.stats.norm.cdf(1), abs=0.01)  # Bayes accuracy of this world
    assert threshold_curve(p, labels == 1, None, "accuracy", n_boot=2).threshold < 0.25


def test_many_rows_take_little_memory_and_are_stored_as_a_short_curve_that_holds_the_optimum():
    rng = np.random.default_rng(7)
    positive = rng.random(20_000) < 0.5
    scores = scipy.special.expit(rng.normal(np.where(positive, 1, -1), 1.0))
    groups = rng.integers(0, 2_000, 20_000)
    found = threshold_curve(scores, positive, groups, "mcc", n_boot=50)
    work = counted_work(lambda: threshold_curve(scores, positive, groups, "mcc", n_boot=50))
    assert work.peak < 2_000 * 20_000 * 8  # bytes of one array of groups by thresholds
    curve = found.curve
    assert len(curve.threshold) <= 400
    at = curve.threshold.index(found.threshold)
    assert curve.value[at] == found.value == max(curve.value)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("mmc", "threshold_metric: expected one of mcc, accuracy, f1, fbeta:BETA"),
        ("fbeta", "expected one of"),
        ("cost:1", "expected one of"),
        ("precision:0.9", "expected one of"),
        ("fbeta:x", "expected one of"),
        ("cost:-1:2", "expected numbers above 0, found 'cost:-1:2'"),
        ("precision>=98", "expected a share above 0 and at most 1, found 'precision>=98'"),
    ],
)
def test_a_metric_that_is_none_is_one_line(metric, said):
    with pytest.raises(UserError) as caught:
        parse_metric(metric)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("scores", "positive", "groups", "message"),
    [
        ([0.2, 0.8], [True, True], None, "expected rows of both classes, found 2 rows of one class"),
        ([], [], None, "expected rows of both classes, found no rows"),
        ([0.2, 2.5], [True, False], None, r"not logits; found 2\.5 in row 1"),
        ([np.nan, 0.5], [True, False], None, "found nan in row 0"),
        ([0.2, 0.8], [True, False], np.array(["a"]), "expected one group per row, found 1 for 2 rows"),
    ],
)
def test_rows_that_no_threshold_can_be_chosen_on_are_refused(scores, positive, groups, message):
    with pytest.raises(UserError, match=message):
        threshold_curve(np.array(scores), np.array(positive, bool), groups, "mcc")


def test_weights_are_finite_and_above_0():
    with pytest.raises(ValueError, match="weights: expected finite"):
        threshold_curve(np.array([0.2, 0.8]), np.array([True, False]), None, "mcc", weights=np.array([1.0, -1.0]))
