"""Temperature fits against scikit-learn and closed forms, and on the inputs that break fits in the wild."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from natix_hf.decision.temperature import BOUNDS, design_effect, fit_temperature
from natix_hf.errors import UserError
from natix_hf.logits import softmax


class Logits(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose decision function is its input."""

    def __init__(self, classes: int):
        self.classes = classes
        self.classes_ = np.arange(classes)

    def fit(self, x, y):
        return self

    def predict(self, x):
        return x.argmax(axis=1)

    def decision_function(self, x):
        return x[:, 1] - x[:, 0] if self.classes == 2 else x


def draw(n: int, classes: int, true_temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from softmax(z), logits `true_temperature` times too large."""
    generator = np.random.default_rng(seed)
    z = generator.normal(0, 1.5, (n, classes))
    labels = np.array([generator.choice(classes, p=p) for p in scipy.special.softmax(z, axis=1)])
    return z * true_temperature, labels


def nll(logits, labels, temperature):
    return -scipy.special.log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("classes", [2, 5])
def test_agrees_with_scikit_learn(classes):
    logits, labels = draw(4000, classes, true_temperature=2.5)
    calibrated = CalibratedClassifierCV(FrozenEstimator(Logits(classes)), method="temperature").fit(logits, labels)
    theirs = 1 / calibrated.calibrated_classifiers_[0].calibrators[0].beta_
    theirs = theirs / 2 if classes == 2 else theirs  # its two-class logits are (-d, d), twice our difference
    assert fit_temperature(logits, labels) == pytest.approx(theirs, rel=0.015)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_recovers_the_temperature_that_the_logits_were_made_with(true_temperature):
    logits, labels = draw(20_000, 3, true_temperature)
    assert fit_temperature(logits, labels) == pytest.approx(true_temperature, rel=0.05)


def test_is_the_mode_of_the_posterior_as_its_docstring_says():
    logits, labels = draw(90, 3, 2.0)
    groups = np.repeat(np.arange(30), 3)
    alike, true = design_effect(logits, labels, groups), np.eye(3, dtype=bool)[labels]

    def literal(log_temperature):
        surprise = -scipy.special.log_softmax(logits / np.exp(log_temperature), axis=1)
        imaginary = (surprise * ~true).sum() / 2 / 90
        return surprise[true].sum() / alike + imaginary + 0.5 * (log_temperature / 0.35) ** 2

    grid = np.linspace(-1, 2, 3001)
    expected = np.exp(grid[np.argmin([literal(x) for x in grid])])
    assert fit_temperature(logits, labels, groups) == pytest.approx(expected, abs=2e-3)


def test_few_photos_leave_the_temperature_near_1_and_many_do_not():
    found = [np.mean([fit_temperature(*draw(n, 2, 2.0, seed)) for seed in range(15)]) for n in (20, 200, 2000)]
    assert 1 < found[0] < found[1] < found[2]
    assert found[2] == pytest.approx(2, rel=0.05)


def test_photos_that_are_alike_count_as_fewer():
    logits, labels = draw(60, 2, 3.0)
    once = fit_temperature(logits, labels)
    copies, groups = [np.repeat(array, 8, axis=0) for array in (logits, labels)], np.repeat(np.arange(60), 8)
    assert design_effect(*copies, groups) == pytest.approx(8)
    assert design_effect(*copies, None) == 1
    assert fit_temperature(*copies, groups) == pytest.approx(once, rel=0.01)
    assert fit_temperature(*copies) > 1.1 * once


@pytest.mark.parametrize("scale", [1e-3, 2.0, 50.0])
def test_perfect_separation_stays_inside_the_bounds(scale):
    labels = np.tile([0, 1], 100)
    logits = np.stack([1 - labels, labels], axis=1) * scale
    temperature = fit_temperature(logits, labels)
    assert BOUNDS[0] <= temperature <= BOUNDS[1]
    assert np.isfinite(nll(logits, labels, temperature))


def test_perfect_separation_is_sharpened_less_than_the_rule_of_succession_allows():
    labels = np.tile([0, 1], 75)
    logits = np.stack([1 - labels, labels], axis=1) * 2.0
    temperature = fit_temperature(logits, labels)
    assert temperature < 1
    assert softmax(logits / temperature).max(axis=1).mean() < 150 / 151  # one mistake in 151


def test_anticorrelated_logits_never_give_a_negative_temperature():
    logits, labels = draw(500, 2, 2.0)
    temperature = fit_temperature(-logits, labels)
    assert temperature > 4
    assert (softmax(-logits / temperature).argmax(axis=1) == softmax(-logits).argmax(axis=1)).all()


def test_huge_logits_do_not_overflow():
    logits, labels = draw(200, 3, 1.0)
    temperature = fit_temperature(logits * 1e4, labels)
    assert nll(logits * 1e4, labels, temperature) < nll(logits * 1e4, labels, 1.0)


def test_held_out_nll_is_better_than_plain_maximum_likelihood_on_few_rows():
    """The reason for the prior and the imaginary mistake: 150 rows, a strong classifier, mean over 60 repetitions."""
    ours, plain = [], []
    generator = np.random.default_rng(0)

    def rows(n):
        margin = generator.normal(0, 1, n)
        margin = np.sign(margin) * 8 * (0.3 + np.abs(margin))
        return np.stack([-margin, margin], axis=1) * 0.75, (generator.random(n) < scipy.special.expit(margin)).astype(
            int
        )

    for _ in range(60):
        (logits, labels), (new_logits, new_labels) = rows(150), rows(4000)
        likelihood = scipy.optimize.minimize_scalar(
            lambda x, logits=logits, labels=labels: nll(logits, labels, np.exp(x)),
            bounds=tuple(np.log(BOUNDS)),
            method="bounded",
        )
        ours.append(nll(new_logits, new_labels, fit_temperature(logits, labels)))
        plain.append(nll(new_logits, new_labels, np.exp(likelihood.x)))
    assert np.mean(ours) < np.mean(plain)


def test_softmax_rows_sum_to_one():
    assert softmax(np.array([[1.5, 2.0], [1.0, 0.0]], dtype=np.float32)).sum(axis=1) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), "no rows"),
        (np.array([[0.0, np.nan], [1.0, 0.0]]), np.array([0, 1]), "1 of 2 rows have NaN or infinite logits"),
        (np.array([[0.0, np.inf], [1.0, 0.0]]), np.array([0, 1]), "NaN or infinite"),
        (np.zeros((2, 2)), np.array([0, 2]), "label 2 of row 1 is not in 0..1"),
        (np.zeros((2, 2)), np.array([-1, 0]), "label -1 of row 0"),
        (np.zeros((2, 1)), np.array([0, 0]), r"found \(2, 1\)"),
        (np.array([[0.2, 0.8], [0.9, 0.1]]), np.array([1, 0]), "expected logits, found probabilities"),
    ],
)
def test_bad_input_is_named_in_one_line(logits, labels, message):
    with pytest.raises(UserError, match=message) as caught:
        fit_temperature(logits, labels)
    assert "\n" not in str(caught.value)
