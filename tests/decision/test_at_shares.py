"""Figures at declared class shares: against scikit-learn on weighted rows, and against resamples written out."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from sklearn import metrics

from natix_hf.decision.at_shares import before_and_after, figures_at_shares, with_intervals
from natix_hf.decision.prior_shift import importance_weights


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    labels = (rng.random(200) < 0.6).astype(int)
    x = rng.normal(np.where(labels == 1, 0.8, -0.8))
    return np.stack([-x, 1.4 * x], axis=1), labels, rng.integers(0, 50, 200)


@pytest.mark.parametrize("share", [0.02, 0.6, 0.9])
def test_every_figure_is_that_of_weighted_rows(rows, share):
    logits, labels, _ = rows
    decisions = logits.argmax(axis=1)
    found = figures_at_shares(logits, decisions, labels, None, np.array([1 - share, share]), n_boot=2)
    weights = importance_weights(labels, np.bincount(labels), [1 - share, share])
    p = scipy.special.softmax(logits, axis=1)
    given = {"sample_weight": weights}
    expected = {
        "accuracy": metrics.accuracy_score(labels, decisions, **given),
        "mcc": metrics.matthews_corrcoef(labels, decisions, **given),
        "precision": metrics.precision_score(labels, decisions, **given),
        "recall": metrics.recall_score(labels, decisions),
        "fpr": 1 - metrics.recall_score(labels, decisions, pos_label=0),
        "nll": metrics.log_loss(labels, p, **given),
        "brier": 2 * metrics.brier_score_loss(labels, p[:, 1], **given),
    }
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    bins = np.minimum((confidence * 15).astype(int), 14)
    expected["ece"] = sum(abs((weights * (confidence - right))[bins == b].sum()) for b in range(15)) / weights.sum()
    assert {name: values[0] for name, values in found.items()} == pytest.approx(expected)


def test_resamples_are_of_whole_groups(rows):
    logits, labels, groups = rows
    found = figures_at_shares(logits, logits.argmax(axis=1), labels, groups, np.array([0.5, 0.5]), n_boot=5, seed=3)
    names = np.unique(groups)
    drawn = np.random.default_rng(3).integers(len(names), size=(5, len(names)))
    for b, one in enumerate(drawn, start=1):
        taken = np.concatenate([np.flatnonzero(groups == names[g]) for g in one])
        expected = metrics.balanced_accuracy_score(labels[taken], logits[taken].argmax(axis=1))
        assert found["accuracy"][b] == pytest.approx(expected)


def test_a_class_without_a_mistake_has_the_bound_of_so_few_groups():
    labels = np.repeat([0, 1], [187, 60])
    decisions = labels.copy()
    decisions[187:193] = 0
    logits = np.where(np.arange(2) == decisions[:, None], 2.0, -2.0)
    figures = figures_at_shares(logits, decisions, labels, None, np.array([0.98, 0.02]), n_boot=20_000)
    found = with_intervals(figures)
    assert found["fpr"]["value"] == found["fpr"]["low"] == 0
    assert found["fpr"]["high"] == pytest.approx(1 - 0.025 ** (1 / 187), rel=0.05)
    assert found["precision"]["value"] == found["precision"]["high"] == 1
    high, recall = found["fpr"]["high"], 0.9
    assert found["precision"]["low"] == pytest.approx(0.02 * recall / (0.02 * recall + 0.98 * high), abs=0.03)


def test_differences_are_paired(rows):
    logits, labels, groups = rows
    shares = np.array([0.5, 0.5])
    one = figures_at_shares(logits, logits.argmax(axis=1), labels, groups, shares)
    other = figures_at_shares(logits / 3, logits.argmax(axis=1), labels, groups, shares)
    found = before_and_after(one, other)
    assert found["difference"]["accuracy"] == {"value": 0, "low": 0, "high": 0}
    assert found["difference"]["nll"]["value"] == pytest.approx(
        found["after"]["nll"]["value"] - found["before"]["nll"]["value"]
    )
    assert (one["nll"] == figures_at_shares(logits, logits.argmax(axis=1), labels, groups, shares)["nll"]).all()


def test_three_classes_have_no_positive_one():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 90)
    logits = rng.normal(np.eye(3)[labels])
    shares = np.bincount(labels) / 90
    found = figures_at_shares(logits, logits.argmax(axis=1), labels, None, shares, n_boot=2)
    assert set(found) == {"accuracy", "nll", "brier", "ece"}
    assert found["accuracy"][0] == pytest.approx((logits.argmax(axis=1) == labels).mean())
    assert found["nll"][0] == pytest.approx(metrics.log_loss(labels, scipy.special.softmax(logits, axis=1)))
