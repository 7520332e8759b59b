"""The packaged `evaluate.Metric` gives the same figures, without network or files."""

import numpy as np
import pytest
import scipy.special

from natix_hf.report.classification_metric import NatixClassificationMetric
from natix_hf.report.metrics import classification_metrics


def draw(classes):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, 200)
    logits = generator.normal(size=(200, classes))
    logits[np.arange(200), labels] += 1
    return logits, labels


@pytest.mark.parametrize("classes", [2, 13])
def test_equals_the_plain_function_for_logits_and_probabilities(classes):
    logits, labels = draw(classes)
    expected = classification_metrics(logits, labels)
    assert NatixClassificationMetric().compute(predictions=logits, references=labels) == expected
    given = NatixClassificationMetric().compute(
        predictions=scipy.special.softmax(logits, axis=1), references=labels, probabilities=True
    )
    assert given == pytest.approx(expected)


def test_batches_add_up():
    logits, labels = draw(3)
    metric = NatixClassificationMetric()
    for start in range(0, 200, 64):
        metric.add_batch(predictions=logits[start : start + 64], references=labels[start : start + 64])
    assert metric.compute() == classification_metrics(logits, labels)


def test_a_probability_of_zero_for_the_label_gives_a_finite_loss():
    figures = NatixClassificationMetric().compute(
        predictions=[[1.0, 0.0], [0.2, 0.8]], references=[1, 1], probabilities=True
    )
    assert np.isfinite(figures["log_loss"])


def test_nothing_is_written(tmp_path):
    logits, labels = draw(2)
    NatixClassificationMetric(cache_dir=str(tmp_path)).compute(predictions=logits, references=labels)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
