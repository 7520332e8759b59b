"""Temperature fits against scikit-learn and closed forms, and on the inputs that break fits in the wild."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from natix_hf.decision.temperature import BOUNDS, apply_calibration, fit_temperature, softmax
from natix_hf.errors import UserError
from natix_hf.report.metrics import classification_metrics


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


@pytest.mark.parametrize("classes", [2, 5])
def test_agrees_with_scikit_learn(classes):
    logits, labels = draw(4000, classes, true_temperature=2.5)
    calibrated = CalibratedClassifierCV(FrozenEstimator(Logits(classes)), method="temperature").fit(logits, labels)
    theirs = 1 / calibrated.calibrated_classifiers_[0].calibrators[0].beta_
    theirs = theirs / 2 if classes == 2 else theirs  # its two-class logits are (-d, d), twice our difference
    assert fit_temperature(logits, labels).temperature == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_recovers_the_temperature_that_the_logits_were_made_with(true_temperature):
    logits, labels = draw(20_000, 3, true_temperature)
    assert fit_temperature(logits, labels).temperature == pytest.approx(true_temperature, rel=0.05)


def test_matches_the_closed_form_for_logits_of_one_size():
    # 80 right and 20 wrong rows, all with margin 4: the best T gives p(right) = 1 / (1 + exp(-4 / T)) = right / all.
    logits = np.tile([0.0, 4.0], (100, 1))
    labels = np.r_[np.ones(80, int), np.zeros(20, int)]
    # The imaginary row holds the wrong class of each real row: 80 % class 0 and 20 % class 1.
    right, wrong = 80 + 0.2, 20 + 0.8
    assert fit_temperature(logits, labels).temperature == pytest.approx(4 / np.log(right / wrong), rel=1e-5)


def test_nll_and_ece_never_get_worse_than_reported_and_match_the_report():
    logits, labels = draw(500, 4, 3.0)
    fit = fit_temperature(logits, labels)
    before = classification_metrics(logits, labels)
    after = classification_metrics(apply_calibration(logits, fit.temperature, np.zeros(4)), labels)
    assert fit.kept
    assert fit.nll_after < fit.nll_before
    assert (fit.nll_before, fit.ece_before) == pytest.approx((before["log_loss"], before["ece"]))
    assert (fit.nll_after, fit.ece_after) == pytest.approx((after["log_loss"], after["ece"]))


@pytest.mark.parametrize("seed", range(20))
def test_a_fit_that_does_not_lower_the_nll_is_not_kept(seed):
    fit = fit_temperature(*draw(40, 2, 1.0, seed))
    assert fit.nll_after <= fit.nll_before
    if not fit.kept:
        assert (fit.temperature, fit.nll_after, fit.ece_after) == (1.0, fit.nll_before, fit.ece_before)


def test_calibrated_rows_without_noise_are_left_alone():
    # margin log 4 and exactly 4 of 5 right: nothing to gain, so 1 is kept and not replaced by 1.0000001
    logits = np.tile([0.0, np.log(4)], (100, 1))
    fit = fit_temperature(logits, np.r_[np.ones(80, int), np.zeros(20, int)])
    assert (fit.temperature, fit.kept) == (1.0, False)


@pytest.mark.parametrize("scale", [1e-3, 2.0, 50.0])
def test_perfect_separation_stays_inside_the_bounds(scale):
    labels = np.tile([0, 1], 100)
    logits = np.stack([1 - labels, labels], axis=1) * scale
    fit = fit_temperature(logits, labels)
    assert BOUNDS[0] <= fit.temperature <= BOUNDS[1]
    assert np.isfinite([fit.nll_before, fit.nll_after]).all()


def test_perfect_separation_is_sharpened_only_as_far_as_its_rows_allow():
    labels = np.tile([0, 1], 75)
    logits = np.stack([1 - labels, labels], axis=1) * 2.0
    fit = fit_temperature(logits, labels)
    confidence = softmax(logits / fit.temperature).max(axis=1).mean()
    assert fit.kept
    assert confidence == pytest.approx(150 / 151, abs=1e-4)  # rule of succession: one mistake in 151


def test_anticorrelated_logits_never_give_a_negative_temperature():
    logits, labels = draw(500, 2, 2.0)
    fit = fit_temperature(-logits, labels)
    assert fit.temperature == pytest.approx(BOUNDS[1], rel=1e-3)
    assert (softmax(-logits / fit.temperature).argmax(axis=1) == softmax(-logits).argmax(axis=1)).all()


def test_huge_logits_do_not_overflow():
    logits, labels = draw(200, 3, 1.0)
    fit = fit_temperature(logits * 1e4, labels)
    assert np.isfinite(fit.nll_after)
    assert fit.nll_after < fit.nll_before


def test_held_out_nll_is_better_than_plain_maximum_likelihood_on_few_rows():
    """The reason for the imaginary mistake: 150 rows, a strong classifier, mean over 60 repetitions."""
    ours, plain = [], []
    generator = np.random.default_rng(0)

    def rows(n):
        margin = generator.normal(0, 1, n)
        margin = np.sign(margin) * 8 * (0.3 + np.abs(margin))
        return np.stack([-margin, margin], axis=1) * 0.75, (generator.random(n) < scipy.special.expit(margin)).astype(
            int
        )

    def nll(logits, labels, temperature):
        return -scipy.special.log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean()

    for _ in range(60):
        (logits, labels), (new_logits, new_labels) = rows(150), rows(4000)
        likelihood = scipy.optimize.minimize_scalar(
            lambda x, logits=logits, labels=labels: nll(logits, labels, np.exp(x)),
            bounds=tuple(np.log(BOUNDS)),
            method="bounded",
        )
        ours.append(nll(new_logits, new_labels, fit_temperature(logits, labels).temperature))
        plain.append(nll(new_logits, new_labels, np.exp(likelihood.x)))
    assert np.mean(ours) < np.mean(plain)


def test_calibration_is_temperature_then_bias_and_softmax_rows_sum_to_one():
    logits = np.array([[2.0, 4.0], [1.0, 0.0]], dtype=np.float32)
    calibrated = apply_calibration(logits, 2.0, np.array([0.5, 0.0]))
    np.testing.assert_array_equal(calibrated, [[1.5, 2.0], [1.0, 0.0]])
    np.testing.assert_array_equal(apply_calibration(logits, np.array([2.0, 4.0]), np.zeros(2)), [[1, 1], [0.5, 0]])
    assert softmax(calibrated).sum(axis=1) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), "no rows"),
        (np.array([[0.0, np.nan], [1.0, 0.0]]), np.array([0, 1]), "1 of 2 rows have NaN or infinite logits"),
        (np.array([[0.0, np.inf], [1.0, 0.0]]), np.array([0, 1]), "NaN or infinite"),
        (np.zeros((2, 2)), np.array([0, 2]), "label 2 of row 1 is not in 0..1"),
        (np.zeros((2, 2)), np.array([-1, 0]), "label -1 of row 0"),
        (np.zeros((2, 1)), np.array([0, 0]), r"found \(2, 1\)"),
        (np.array([[0.2, 0.8], [0.9, 0.1]]), np.array([1, 0]), "probabilities given where logits are expected"),
    ],
)
def test_bad_input_is_named_in_one_line(logits, labels, message):
    with pytest.raises(UserError, match=message) as caught:
        fit_temperature(logits, labels)
    assert "\n" not in str(caught.value)
