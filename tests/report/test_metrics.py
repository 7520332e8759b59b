"""Figures against scikit-learn, torchmetrics and numbers worked out by hand."""

import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from natix_hf.logits import expected_calibration_error
from natix_hf.report.metrics import METRICS, classification_metrics


def draw(n: int, classes: int, seed: int = 0, skill: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    logits = generator.normal(size=(n, classes))
    logits[np.arange(n), labels] += skill
    return logits, labels


@pytest.mark.parametrize("classes", [2, 3, 13])
def test_all_figures_agree_with_scikit_learn(classes):
    logits, labels = draw(700, classes)
    probabilities, predicted = scipy.special.softmax(logits, axis=1), logits.argmax(axis=1)
    scores = probabilities[:, 1] if classes == 2 else probabilities
    assert classification_metrics(logits, labels) == pytest.approx(
        {
            "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
            "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, predicted),
            "macro_f1": sklearn.metrics.f1_score(labels, predicted, average="macro"),
            "mcc": sklearn.metrics.matthews_corrcoef(labels, predicted),
            "auroc": np.mean([sklearn.metrics.roc_auc_score(labels == k, probabilities[:, k]) for k in range(classes)])
            if classes > 2
            else sklearn.metrics.roc_auc_score(labels, scores),
            "log_loss": sklearn.metrics.log_loss(labels, probabilities, labels=range(classes)),
            "ece": expected_calibration_error(probabilities, labels),
        }
    )


@pytest.mark.parametrize("classes", [2, 13])
def test_ece_agrees_with_torchmetrics(classes):
    logits, labels = draw(2000, classes)
    probabilities = scipy.special.softmax(logits, axis=1)
    theirs = multiclass_calibration_error(torch.tensor(probabilities), torch.tensor(labels), classes, n_bins=15)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(theirs.item(), abs=1e-6)


def test_ece_by_hand():
    # bins of width 1/2: confidences .6 (right) and .8 (wrong) share one, gap |.7 - .5| = .2; all rows are in it
    probabilities = np.array([[0.6, 0.4], [0.2, 0.8]])
    assert expected_calibration_error(probabilities, np.array([0, 0]), bins=2) == pytest.approx(0.2)
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0.0


def test_ece_refuses_rows_that_do_not_sum_to_one_and_empty_input():
    with pytest.raises(ValueError, match="does not sum to 1"):
        expected_calibration_error(np.array([[2.0, 3.0]]), np.array([0]))
    with pytest.raises(ValueError, match="n >= 1"):
        expected_calibration_error(np.zeros((0, 2)), np.zeros(0, int))


def test_order_of_the_names_and_plain_floats():
    figures = classification_metrics(*draw(50, 2))
    assert tuple(figures) == METRICS
    assert all(type(value) is float for value in figures.values())


def test_either_class_may_be_the_positive_one():
    logits, labels = draw(200, 2)
    assert classification_metrics(logits, labels, positive=0) == pytest.approx(
        classification_metrics(logits[:, ::-1], 1 - labels, positive=1)
    )


def test_auroc_ranks_saturated_logits():
    """Probabilities of both positives round to 1 in float64; the ranking still tells them from the negative."""
    logits = np.array([[0.0, 50.0], [0.0, 60.0], [0.0, 45.0]])
    assert classification_metrics(logits, np.array([1, 1, 0]))["auroc"] == 1.0


def test_a_tie_goes_to_the_lower_class():
    figures = classification_metrics(np.zeros((2, 2)), np.array([0, 1]))
    assert (figures["accuracy"], figures["mcc"], figures["auroc"]) == (0.5, 0.0, 0.5)


def test_a_class_that_is_absent_from_the_labels():
    logits, labels = draw(300, 4)
    logits, labels = logits[labels != 2], labels[labels != 2]
    figures = classification_metrics(logits, labels)
    assert np.isfinite(list(figures.values())).all()
    recalls = sklearn.metrics.recall_score(labels, logits.argmax(axis=1), labels=[0, 1, 3], average=None)
    assert figures["balanced_accuracy"] == pytest.approx(recalls.mean())


def test_labels_of_one_class_leave_auroc_undefined_and_mcc_zero(recwarn):
    figures = classification_metrics(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([1, 1]))
    assert np.isnan(figures["auroc"])
    assert (figures["mcc"], figures["accuracy"], figures["balanced_accuracy"]) == (0.0, 0.5, 0.5)
    assert not recwarn.list


def test_log_loss_of_a_confident_mistake_is_not_clipped():
    assert classification_metrics(np.array([[0.0, 200.0], [1.0, 0.0]]), np.array([0, 0]))["log_loss"] > 99


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 2)), np.array([0, 2]), "label 2 of row 1 is not in 0..1"),
        (np.array([[np.nan, 0.0]]), np.array([0]), "NaN or infinite"),
        (np.zeros((2, 2)), np.array([0]), "found"),
    ],
)
def test_unfit_arrays_are_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(logits, labels)


def test_probabilities_given_as_logarithms_are_logits():
    logits, labels = draw(50, 3)
    log_probabilities = scipy.special.log_softmax(logits, axis=1)
    assert classification_metrics(log_probabilities, labels) == pytest.approx(classification_metrics(logits, labels))
