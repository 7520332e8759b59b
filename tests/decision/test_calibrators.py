"""Calibrators against scikit-learn and plain optimisers, their choice by held-out groups, and bad rows."""

from typing import get_args

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from natix_hf.decision.calibration import Calibration
from natix_hf.decision.calibrators import CALIBRATORS
from natix_hf.decision.calibrators.vector import vector_objective
from natix_hf.decision.fit_calibrator import fit_calibrator, fit_one
from natix_hf.decision.temperature import BOUNDS, fit_temperature
from natix_hf.documents.calibration import CalibratorName
from natix_hf.errors import UserError
from natix_hf.logits import softmax
from natix_hf.report.metrics import classification_metrics


def draw(n, classes=2, scale=2.0, bias=0.0, seed=0):
    """Labels drawn from softmax(z); logits that `(logits / scale_k + bias_k)` brings back to z."""
    generator = np.random.default_rng(seed)
    z = generator.normal(0, 1.5, (n, classes))
    labels = (scipy.special.softmax(z, axis=1).cumsum(axis=1) > generator.random(n)[:, None]).argmax(axis=1)
    return (z - np.asarray(bias)) * np.asarray(scale), labels


def nll(logits, labels):
    return -scipy.special.log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("classes", [2, 4])
def test_temperature_is_the_fit_of_its_own_room_and_its_figures_those_of_the_report(classes):
    logits, labels = draw(500, classes, 3.0)
    groups = np.arange(500) // 2
    fit = fit_calibrator(logits, labels, groups, ["temperature"])
    temperature = fit_temperature(logits, labels, groups)
    assert (fit.kept, fit.calibration.temperature.tolist()) == (True, [temperature] * classes)
    before, after = (classification_metrics(one, labels) for one in (logits, logits / temperature))
    assert (fit.nll_before, fit.ece_before) == pytest.approx((before["log_loss"], before["ece"]))
    assert (fit.nll_after, fit.ece_after) == pytest.approx((after["log_loss"], after["ece"]))


def test_a_calibration_file_may_name_each_calibrator():
    assert get_args(CalibratorName) == tuple(CALIBRATORS)


def test_two_class_vector_is_platt_scaling_of_scikit_learn():
    logits, labels = draw(20_000, 2, 2.5, [0.6, -0.6])
    found = fit_one("vector", logits, labels)
    theirs = LogisticRegression(C=1e9, tol=1e-8).fit((logits[:, 1] - logits[:, 0])[:, None], labels)
    assert 1 / found.temperature[0] == pytest.approx(theirs.coef_[0, 0], rel=1e-2)
    assert found.temperature[0] == found.temperature[1]
    bias = found.calibrator_bias
    assert bias[1] - bias[0] == pytest.approx(theirs.intercept_[0], abs=1e-2)


def test_vector_recovers_what_the_logits_were_made_with():
    scale, bias = np.array([1.5, 3.0, 0.7]), np.array([0.5, -0.8, 0.3])
    found = fit_one("vector", *draw(30_000, 3, scale, bias))
    assert found.temperature == pytest.approx(scale, rel=0.06)
    assert found.calibrator_bias - found.calibrator_bias.mean() == pytest.approx(bias - bias.mean(), abs=0.06)


@pytest.mark.parametrize("classes", [2, 3])
def test_vector_ends_where_an_optimiser_without_derivatives_ends(classes):
    logits, labels = draw(60, classes, 2.0, np.arange(classes) * 0.3)
    found = fit_one("vector", logits, labels)
    temperature = fit_temperature(logits, labels)
    shared = classes == 2

    def literal(x):
        """The words of the docstring, by a loop over rows."""
        scale, bias = np.broadcast_to(x[:-classes], classes), x[-classes:]
        surprise = -scipy.special.log_softmax(logits / temperature * scale + bias, axis=1)
        total = 0.0
        for row, label in zip(surprise.tolist(), labels.tolist(), strict=True):
            total += row[label] + (sum(row) - row[label]) / (classes - 1) / len(labels)
        return total + 0.5 * (np.sum((scale - 1) ** 2) / 0.35**2 + np.sum(bias**2))

    start = np.r_[np.ones(1 if shared else classes), np.zeros(classes)]
    plain = scipy.optimize.minimize(
        literal, start, method="Powell", options={"xtol": 1e-7, "ftol": 1e-13, "maxiter": 60}
    )
    ours = np.r_[temperature / found.temperature[: 1 if shared else None], found.calibrator_bias]
    assert literal(ours) == pytest.approx(
        vector_objective(np.broadcast_to(ours[:-classes], classes), ours[-classes:], logits / temperature, labels)[0]
    )
    assert literal(ours) <= plain.fun + 1e-8
    assert ours == pytest.approx(plain.x, abs=0.02)  # the other one stops a little early


def test_the_derivatives_of_the_objective_are_those_of_differences():
    logits, labels = draw(40, 3)
    x = np.array([0.8, 1.3, 1.0, 0.2, -0.1, 0.4])
    expected = scipy.optimize.approx_fprime(x, lambda x: vector_objective(x[:3], x[3:], logits, labels)[0], 1e-7)
    assert np.concatenate(vector_objective(x[:3], x[3:], logits, labels)[1:]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("classes", [2, 4])
def test_isotonic_is_scikit_learn_s_one_against_the_rest(classes):
    logits, labels = draw(800, classes)
    found, (new, _) = fit_one("isotonic", logits, labels), draw(200, classes, seed=1)
    columns = []
    for k in range(classes):
        fit = IsotonicRegression(y_min=1 / 802, y_max=801 / 802, out_of_bounds="clip")
        columns.append(fit.fit(softmax(logits)[:, k], labels == k).predict(softmax(new)[:, k]))
    expected = np.stack(columns, axis=1)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax(found.calibrated(new)), expected, atol=1e-9)


@pytest.mark.parametrize("name", ["temperature", "vector", "isotonic"])
@pytest.mark.parametrize("seed", range(5))
def test_of_two_classes_every_calibrator_rises_with_the_probability(name, seed):
    logits, labels = draw(400, 2, 2.0, [0.5, 0.0], seed)
    order = np.argsort(softmax(logits)[:, 1])
    for sign in (1, -1):  # -1: a model that is wrong more often than right
        calibrated = fit_one(name, sign * logits, labels).calibrated(sign * logits)
        assert (np.diff(softmax(calibrated)[order[::sign], 1]) >= -1e-12).all()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ["temperature", "vector", "isotonic"])
def test_perfect_separation_gives_finite_figures_and_no_certainty(name, classes):
    labels = np.arange(300) % classes
    logits = np.eye(classes)[labels] * 4.0
    found = fit_one(name, logits, labels)
    assert ((found.temperature >= BOUNDS[0]) & (found.temperature <= BOUNDS[1])).all()
    assert np.isfinite(found.calibrated(logits)).all()
    wrong = np.roll(logits, 1, axis=1)
    assert nll(found.calibrated(wrong), labels) < 10  # what a mistake would cost
    assert softmax(found.calibrated(logits)).max() < 1 - 1e-5


# -- the choice ------------------------------------------------------------------------------------------------------


def test_the_calibrator_that_the_logits_were_made_for_is_chosen():
    everything = ["isotonic", "vector", "temperature", "none"]  # the order of the names decides nothing
    for scale, bias, expected in ((1.0, 0.0, "none"), (3.0, 0.0, "temperature"), (2.0, [1.0, -1.0], "vector")):
        fit = fit_calibrator(*draw(2500, 2, scale, bias), None, everything)
        assert fit.calibration.calibrator == expected
        assert [entry.calibrator for entry in fit.candidates] == ["none", "temperature", "vector", "isotonic"]
    logits, labels = draw(3000, 2, 1.0)
    bent = np.stack([np.zeros(3000), np.sinh(1.5 * (logits[:, 1] - logits[:, 0]))], axis=1)
    assert fit_calibrator(bent, labels, None, everything).calibration.calibrator == "isotonic"


def test_folds_hold_out_whole_groups():
    """Copies of a row in one group: with rows split, isotonic would be judged by rows that it was fitted on."""
    logits, labels = draw(60, 2, 1.0)
    labels = np.random.default_rng(5).integers(0, 2, 60)  # nothing to learn
    logits, labels, groups = np.repeat(logits, 10, axis=0), np.repeat(labels, 10), np.repeat(np.arange(60), 10)
    rowwise, grouped = (fit_calibrator(logits, labels, g, ["temperature", "isotonic"]) for g in (None, groups))
    assert rowwise.candidates[2].cv_nll < grouped.candidates[2].cv_nll
    assert rowwise.calibration.calibrator == "isotonic"
    assert grouped.calibration.calibrator == "temperature"
    assert (grouped.n, grouped.groups) == (600, 60)
    # The held-out figure is that of fits without the group: here done literally, each group left out by itself.
    few, few_labels, few_groups = logits[:200], labels[:200], groups[:200]
    fit = fit_calibrator(few, few_labels, few_groups, ["none", "temperature"], folds=20)
    literal = 0.0
    for group in range(20):
        out = few_groups == group
        calibration = fit_one("temperature", few[~out], few_labels[~out], few_groups[~out])
        literal += out.sum() * nll(calibration.calibrated(few[out]), few_labels[out]) / 200
    assert fit.candidates[1].cv_nll == pytest.approx(literal)


def test_the_same_rows_and_seed_give_the_same_fit():
    logits, labels = draw(500, 3)
    first, second = (fit_calibrator(logits, labels, None, ["temperature", "vector"], seed=3) for _ in range(2))
    assert first.candidates == second.candidates
    assert (first.calibration.temperature == second.calibration.temperature).all()


# -- rows that are not enough -----------------------------------------------------------------------------------------


def test_too_few_rows_leave_the_logits_alone_and_say_so():
    logits, labels = draw(CALIBRATORS["temperature"].least_rows - 1)
    fit = fit_calibrator(logits, labels, None)
    assert (fit.kept, fit.calibration.calibrator, fit.nll_after) == (False, "none", fit.nll_before)
    assert fit.notes == ("29 photos are too few for temperature, 30 are needed",)
    logits, labels = draw(150)
    fit = fit_calibrator(logits, labels, None, ["temperature", "vector", "isotonic"])
    assert [entry.calibrator for entry in fit.candidates] == ["none", "temperature", "vector"]
    assert fit.notes == ("150 photos are too few for isotonic, 300 are needed",)


def test_a_rare_class_is_too_little_for_flexible_calibrators():
    logits, labels = draw(500)
    keep = np.r_[np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:5]]
    fit = fit_calibrator(logits[keep], labels[keep], None, ["temperature", "vector"])
    assert fit.calibration.calibrator == "temperature"
    assert fit.notes == ("class 1 has 5 photos, too few for vector, 10 of each class are needed",)


def test_one_class_alone_and_one_group_alone_are_told():
    logits, labels = draw(100)
    fit = fit_calibrator(logits, np.ones(100, int), None)
    assert (fit.calibration.calibrator, fit.kept) == ("none", False)
    assert "all 100 photos are of class 1" in fit.notes[0]
    fit = fit_calibrator(logits, labels, np.zeros(100), ["temperature", "vector"])
    assert (fit.calibration.calibrator, fit.kept) == ("none", False)
    assert "one group, nothing can be held out to judge a calibrator by" in fit.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"candidates": ["platt"]},
            "calibrator: expected one or more of none, temperature, vector, isotonic; found platt",
        ),
        ({"candidates": []}, "calibrator: expected .*; found nothing"),
        ({"candidates": ["none", "none"]}, "twice"),
        ({"groups": np.zeros(99)}, "expected one group per row, found 99 for 100 rows"),
        ({"labels": np.full(100, 2)}, "label 2 of row 0 is not in 0..1"),
        ({"logits": np.full((100, 2), np.nan)}, "NaN or infinite"),
        ({"logits": np.full((100, 2), 0.5)}, "expected logits, found probabilities"),
    ],
)
def test_bad_input_is_named_in_one_line(change, message):
    logits, labels = draw(100)
    given = {"logits": logits, "labels": labels, "groups": None} | change
    with pytest.raises(UserError, match=message) as caught:
        fit_calibrator(**given)
    assert "\n" not in str(caught.value)


# -- what is applied --------------------------------------------------------------------------------------------------


def test_parts_add_up_and_the_folded_threshold_decides_at_one_half():
    logits, _ = draw(500)
    bias = np.array([0.1, -0.1]), np.array([-0.4, 0.9]), np.array([0.0, np.log(0.7 / 0.3)])
    calibration = Calibration("vector", np.full(2, 2.0), *bias, positive=1, threshold=0.3)
    np.testing.assert_allclose(calibration.calibrated(logits), logits / 2 + bias[0] + bias[1])
    np.testing.assert_allclose(calibration.served(logits), logits / 2 + calibration.logit_bias)
    decided = calibration.decisions(logits)
    assert (decided == (softmax(calibration.calibrated(logits))[:, 1] > 0.3)).all()
    assert (decided == calibration.served(logits).argmax(axis=1)).all()
    assert (decided != calibration.calibrated(logits).argmax(axis=1)).any()


def test_with_three_classes_the_largest_calibrated_logit_decides():
    shift = np.array([0.0, 0.0, 1.0])
    calibration = Calibration("vector", np.full(3, 2.0), shift, np.zeros(3), np.zeros(3), positive=1)
    assert calibration.decisions(np.array([[1.9, 0.0, 0.0], [2.1, 0.0, 0.0], [0.0, 4.0, 1.0]])).tolist() == [2, 0, 1]


@pytest.mark.parametrize("positive", [0, 1])
def test_a_probability_at_the_threshold_is_no_positive(positive):
    zeros = np.zeros(2)
    calibration = Calibration("none", np.ones(2), zeros, zeros, zeros, positive=positive)
    assert calibration.decisions(np.zeros((1, 2))).tolist() == [1 - positive]
