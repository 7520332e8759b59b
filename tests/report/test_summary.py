"""What is written to metrics.json and what is printed."""

import numpy as np
import pytest
from finished_run import calibration_document
from two_stages import cascade_documents

from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.figures import Interval
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.report.metrics import classification_metrics
from natix_hf.report.summary import metrics_document, summary_lines

CALIBRATION = CalibrationFile.check(calibration_document(temperature=[1.3, 1.3]))


def document(times_read_before=0, classes=2, one_class=False):
    generator = np.random.default_rng(0)
    labels = np.zeros(90, int) if one_class else generator.integers(0, classes, 90)
    logits = generator.normal(size=(90, classes))
    logits[np.arange(90), labels] += 2
    names = ["None", "Roadwork"] if classes == 2 else [f"kind {i}" for i in range(classes)]
    made = metrics_document(
        logits / 2,
        logits,
        labels,
        np.arange(90) // 3,
        label_names=names,
        times_read_before=times_read_before,
        n_boot=100,
    )
    return made, logits, labels


@pytest.mark.parametrize("classes", [2, 13])
def test_the_document_is_of_its_class_and_holds_plain_numbers(classes):
    made, logits, labels = document(classes=classes)
    assert FinalFigures.parse(made.text(), "") == made
    assert (made.n, made.groups, made.split) == (90, 30, "val_test")
    assert sum(made.labels.values()) == 90
    figures = classification_metrics(logits / 2, labels)
    assert {name: interval.value for name, interval in made.metrics.items()} == figures
    assert made.uncalibrated.log_loss == classification_metrics(logits, labels)["log_loss"]


def test_an_undefined_figure_is_null_and_printed_as_a_dash():
    made, _, _ = document(one_class=True)
    assert FinalFigures.parse(made.text(), "") == made
    assert made.metrics["auroc"] == Interval(value=None, low=None, high=None)
    assert any(line.split() == ["AUROC", "-", "-"] for line in summary_lines(made))


def test_the_printed_table_has_every_metric_n_groups_and_calibration():
    made, _, _ = document()
    text = "\n".join(summary_lines(made, CALIBRATION))
    assert "val_test: 90 photos" in text
    assert "in 30 groups" in text
    for label in ("accuracy", "balanced accuracy", "macro F1", "MCC", "AUROC", "log loss (NLL)", "ECE"):
        assert f"  {label} " in text
    assert "95 % interval" in text
    assert "calibration on val_calib/fit (75 photos): T = 1.300, NLL 0.3000 -> 0.2000, ECE 0.0500 -> 0.0200" in text
    accuracy = made.metrics["accuracy"]
    assert f"{accuracy.value:.3f}  {accuracy.low:.3f} to {accuracy.high:.3f}" in text


def test_what_is_promised_of_early_exits_is_printed():
    cascade, _ = cascade_documents()
    with_cascade = CALIBRATION.model_copy(update={"cascade": cascade})
    assert cascade.lines[0] in summary_lines(document()[0], with_cascade)


@pytest.mark.parametrize(
    ("times", "words"), [(0, "first evaluation"), (1, "models once before"), (3, "models 3 times before")]
)
def test_the_last_line_says_how_often_the_rows_were_read(times, words):
    assert words in summary_lines(document(times)[0])[-1]


def test_a_temperature_that_was_not_kept_is_said_so():
    text = "\n".join(
        summary_lines(document()[0], CALIBRATION.model_copy(update={"kept": False, "temperature": [1.0, 1.0]}))
    )
    assert "no calibrator, none predicted held-out groups clearly better, NLL 0.3000" in text
