"""Photos that break no rule make no library warn: a perfect model, one class, two photos, one that is always wrong."""

import numpy as np
import pytest

from natix_hf.decision.at_shares import before_and_after, figures_at_shares
from natix_hf.decision.expected_accuracy import expected_accuracy
from natix_hf.decision.fit_calibrator import fit_calibrator
from natix_hf.decision.prior_shift import estimate_prior
from natix_hf.decision.selective import selective_document
from natix_hf.decision.threshold import threshold_curve
from natix_hf.logits import softmax
from natix_hf.report.chart_pictures import draw_charts
from natix_hf.report.intervals import bootstrap_intervals, paired_differences
from natix_hf.report.metrics import classification_metrics
from natix_hf.report.page_charts import ranking_charts
from natix_hf.report.slices import slices_document
from natix_hf.training.curriculum import cross_fitted
from natix_hf.training.probe import lbfgs_check

pytestmark = pytest.mark.filterwarnings("error")


def rows(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits `(n, classes)`, labels and groups."""
    generator = np.random.default_rng(0)
    n = {"two photos": 2, "one photo": 1}.get(kind, 60)
    classes = 3 if "three" in kind else 2
    labels = np.arange(n) % classes
    if "one class" in kind:
        labels[:] = 1
    if kind == "rare class":  # most resamples have no photo of it
        labels[:] = 0
        labels[0] = 1
    logits = np.where(np.eye(classes)[labels] > 0, 900.0, -900.0)
    if "wrong" in kind:
        logits = -logits
    if "guessing" in kind:
        logits = generator.normal(size=(n, classes))
    if kind == "one answer":
        logits = np.tile([0.0, 3.0], (n, 1))
    return logits, labels, np.arange(n) // (1 if n < 3 else 2)


KINDS = ["perfect", "perfect three", "wrong", "one class", "one class guessing", "one class wrong", "one class three"]
KINDS += ["rare class", "one answer", "two photos", "one photo", "guessing three"]


@pytest.mark.parametrize("kind", KINDS)
def test_figures_and_calibration(kind, tmp_path):
    logits, labels, groups = rows(kind)
    classes = logits.shape[1]
    figures = classification_metrics(logits, labels)
    assert 0 <= figures["accuracy"] <= 1
    bootstrap_intervals(logits, labels, groups, n_boot=50)
    paired_differences(logits, np.zeros_like(logits), labels, groups, n_boot=50)
    fit = fit_calibrator(logits, labels, groups, ["temperature", "vector", "isotonic"])
    calibrated = fit.calibration.calibrated(logits)
    selective_document(calibrated, labels, groups, None, 1, n_boot=50)
    slices_document(logits, labels, groups, {"sky": np.where(np.arange(len(labels)) % 2, "sun", "rain")}, list("abc"))
    even = np.full(classes, 1 / classes)
    estimate = estimate_prior(calibrated, even, groups, n_boot=20)
    assert np.isfinite([estimate.low, estimate.high]).all()
    chance = expected_accuracy(calibrated, logits.argmax(axis=1), even, estimate, groups, n_boot=20)
    assert np.isfinite(list(chance.plain().values())).all()
    given = logits.argmax(axis=1), labels, groups, even
    sides = [figures_at_shares(one, *given, n_boot=50) for one in (logits, calibrated)]
    before_and_after(*sides)
    both = len(np.unique(labels)) == 2 and classes == 2
    if both:
        scores, positive = softmax(logits)[:, 1], labels == 1
        for metric in ("mcc", "f1", "accuracy", "cost:1:5", "precision>=0.9"):
            threshold_curve(scores, positive, groups, metric, n_boot=50)
        draw_charts(ranking_charts(scores, positive, scores > 0.5, "b"), tmp_path / "ranking.png")


@pytest.mark.parametrize("kind", ["perfect", "perfect three", "wrong", "rare class", "guessing three"])
def test_logistic_regressions_on_features(kind):
    logits, labels, groups = rows(kind)
    features = np.concatenate([logits, logits**2, np.ones((len(labels), 1))], axis=1).astype(np.float32)
    found = lbfgs_check(features, labels, features, labels, 1)
    assert np.isfinite(found["log_loss"])
    if kind != "rare class":
        assert np.isfinite(cross_fitted(features, labels, groups, list("abc")[: logits.shape[1]])).all()
