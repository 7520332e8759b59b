"""Figures after each step from logits to decisions, against scikit-learn on rows that have the expected shares."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, matthews_corrcoef

from natix_hf.decision.calibration import Calibration
from natix_hf.decision.threshold import fold_bias
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.logits import softmax
from natix_hf.report.decision_lines import stage_lines
from natix_hf.report.summary import metrics_document
from natix_hf.runs.figures_by_stage import stages_document

SEEN = np.array([0.1, 0.9])


def rows(n=6000, share=0.9, seed=0):
    """Logits twice the log posterior under `SEEN`, whatever the share of positives among the rows."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(n) < share).astype(int)
    margin = generator.normal(0, 1.5, n) + np.where(labels == 1, 1.2, -1.2)
    posterior = margin * 2.4 / 1.5**2 + np.log(0.9 / 0.1)
    logits = np.stack([-posterior, posterior], axis=1)
    return SavedLogits(logits, labels, np.array([f"g{i // 2}" for i in range(n)], dtype=object))


def calibration(threshold=None):
    prior, zeros = np.log(0.5 / SEEN), np.zeros(2)
    fold = zeros if threshold is None else fold_bias(threshold, 1, 2)
    return Calibration("temperature", np.full(2, 2.0), zeros, prior, fold, 1, threshold or 0.5)


def test_figures_at_the_expected_shares_are_those_of_rows_that_have_them():
    even = rows(50_000, 0.5, seed=1)
    document = stages_document(rows(8000), calibration(0.3), [0.5, 0.5])
    steps = {step.step: step.figures for step in document.steps}
    assert list(steps) == ["uncalibrated", "calibrator", "prior", "threshold"]
    assert (document.n, document.groups) == (8000, 4000)
    cut = {"uncalibrated": (even.logits, 0.5), "calibrator": (even.logits / 2, 0.5)}
    moved = even.logits / 2 + np.log(0.5 / SEEN)
    cut |= {"prior": (moved, 0.5), "threshold": (moved, 0.3)}
    for name, (logits, threshold) in cut.items():
        p = softmax(logits)[:, 1]
        expected = {
            "accuracy": np.mean((p > threshold) == even.label),
            "mcc": matthews_corrcoef(even.label, p > threshold),
            "nll": log_loss(even.label, p),
            "brier": 2 * brier_score_loss(even.label, p),
        }
        for figure, value in expected.items():
            assert steps[name][figure].value == pytest.approx(value, abs=0.03), (name, figure)
            assert steps[name][figure].low <= steps[name][figure].value <= steps[name][figure].high
    assert steps["prior"]["mcc"].low > steps["calibrator"]["mcc"].high
    assert steps["prior"]["nll"].high < steps["calibrator"]["nll"].low
    assert steps["prior"]["ece"].value < 0.02 < steps["calibrator"]["ece"].value


def test_without_a_target_the_shares_are_those_of_the_rows_and_unused_steps_are_left_out():
    drawn = rows(500)
    plain = Calibration("none", np.ones(2), np.zeros(2), np.zeros(2), np.zeros(2))
    document = stages_document(drawn, plain, None)
    assert [step.step for step in document.steps] == ["uncalibrated", "calibrator"]
    share = drawn.label.mean()
    assert document.shares == pytest.approx([1 - share, share])
    exact = document.steps[0].figures
    p = softmax(drawn.logits)[:, 1]
    assert exact["accuracy"].value == pytest.approx(np.mean((p > 0.5) == drawn.label))
    assert exact["mcc"].value == pytest.approx(matthews_corrcoef(drawn.label, p > 0.5))
    assert exact["nll"].value == pytest.approx(log_loss(drawn.label, p))
    drawn.label[:] = 1
    assert stages_document(drawn, plain, None) is None


def test_every_line_has_its_interval_and_the_photos_behind_it():
    document = stages_document(rows(400), calibration(), [0.5, 0.5])
    labels = np.repeat([0, 1], [40, 360])
    logits = np.eye(2)[labels]
    about = {"label_names": ["None", "Roadwork"], "times_read_before": 0, "n_boot": 9}
    lines = stage_lines(metrics_document(logits, logits, labels, None, stages=document, **about), 1)
    assert lines[0] == "step by step on val_test (400 photos, 200 groups), figures for Roadwork 50.0%:"
    assert [line.split()[0] for line in lines[1:]] == ["uncalibrated", "calibrator", "prior"]
    assert all(line.count(" to ") == 4 for line in lines[1:])
    assert stage_lines(metrics_document(logits, logits, labels, None, **about), 1) == []
