"""Computes the final figures (`metrics.json`) and formats them as the lines that a command prints.

Every figure comes with the number of photos and groups that it is based on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.figures import Difference, Interval
from natix_hf.documents.final_figures import FinalFigures, Stages, Uncalibrated
from natix_hf.report.decision_lines import calibration_lines, stage_lines
from natix_hf.report.intervals import bootstrap_intervals, measured_on
from natix_hf.report.metrics import class_counts, classification_metrics

LABELS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "mcc": "MCC",
    "auroc": "AUROC",
    "log_loss": "log loss (NLL)",
    "ece": "ECE",
}
# For readers who do not know the metrics.
MEANINGS = {
    "accuracy": "share of correct decisions",
    "balanced_accuracy": "share of correct decisions in each class, averaged over the classes",
    "macro_f1": "balance between missed photos and false alarms in each class, averaged over the classes",
    "mcc": "agreement between decisions and labels: 1 is perfect, 0 is guessing",
    "auroc": "how often a photo of a class has a higher score for it than another photo; 0.5 is guessing",
    "log_loss": "error of the probabilities; lower is better",
    "ece": "mean gap between the confidence and the share of correct decisions; lower is better",
}


def metrics_document(
    logits: np.ndarray,
    uncalibrated_logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    *,
    label_names: Sequence[str],
    positive: int = 1,
    times_read_before: int,
    stages: Stages | None = None,
    split: str = "val_test",
    n_boot: int = 1000,
    seed: int = 0,
) -> FinalFigures:
    """The content of `metrics.json`; a figure that is not defined is None.

    Args:
        logits: `(n, classes)` calibrated, as the model gives them.
        uncalibrated_logits: `(n, classes)` before temperature and bias.
        labels: `(n,)` class ids.
        groups: `(n,)` the group of each row; None: each row is a group.
        times_read_before: how many other models were evaluated on these rows.
        stages: figures after each step from logits to decisions.
    """
    intervals = bootstrap_intervals(logits, labels, groups, positive=positive, n_boot=n_boot, seed=seed)
    uncalibrated = classification_metrics(uncalibrated_logits, labels, positive)
    return FinalFigures(
        **measured_on(split, len(labels), groups, positive_label=label_names[positive], resamples=n_boot),
        labels=class_counts(labels, label_names),
        metrics=Interval.each(intervals),
        uncalibrated=Uncalibrated(log_loss=uncalibrated["log_loss"], ece=uncalibrated["ece"]),
        times_read_before=times_read_before,
        stages=stages,
    )


def summary_lines(metrics: FinalFigures, calibration: CalibrationFile | None = None) -> list[str]:
    """What a command prints about a finished run.

    Args:
        metrics: of the run.
        calibration: of the run, if it has one.

    Returns:
        Lines with the table of figures, the calibration, and how often the rows were used before.
    """
    percent = f"{metrics.level * 100:g} %"
    rows = [("metric", "value", f"{percent} interval")]
    for name, label in LABELS.items():
        interval = metrics.metrics[name]
        rows.append((label, figure_text(interval.value), interval_text(interval)))
    width = max(len(row[0]) for row in rows)
    lines = [f"{metrics.split}: {metrics.n} photos ({counts_text(metrics.labels)}) in {metrics.groups} groups"]
    if metrics.honest_run is not None:
        lines.insert(0, honest_run_line(metrics))
    lines += [f"  {label:<{width}}  {value:>6}  {interval}" for label, value, interval in rows]
    if calibration:
        lines += calibration_lines(calibration, list(metrics.labels))
        if calibration.prior.target or calibration.folded:
            lines += stage_lines(metrics, calibration.positive)
        elif calibration.kept:
            before, after = metrics.uncalibrated, metrics.metrics
            lines.append(
                f"  the same on {metrics.split} ({metrics.n} photos): "
                f"NLL {before.log_loss:.4f} -> {after['log_loss'].value:.4f}, "
                f"ECE {before.ece:.4f} -> {after['ece'].value:.4f}"
            )
    lines.append(read_before_line(metrics))
    return lines


def counts_text(labels: Mapping[str, int]) -> str:
    """The number of photos of each class; of more than four classes only how many there are."""
    if len(labels) > 4:
        return f"{len(labels)} classes"
    return ", ".join(f"{count} {name}" for name, count in labels.items())


def honest_run_line(metrics: FinalFigures) -> str:
    """Which run the figures of a refit come from."""
    return (
        f"the figures are those of the run {metrics.honest_run}; this model is its refit, trained once more on all "
        "photos including the test photos, so it has no figures of its own"
    )


def read_before_line(metrics: FinalFigures) -> str:
    """How often the test photos were used for final figures before, and what that means."""
    times = metrics.times_read_before
    if times == 0:
        return "first evaluation on these test photos on this machine"
    often = "once" if times == 1 else f"{times} times"
    return (
        f"these test photos were used for the final figures of other models {often} before on this machine: the more "
        "models are compared on them, the more optimistic the figures of the best one become"
    )


def sentence(line: str) -> str:
    """A line of a command as a sentence."""
    return line[:1].upper() + line[1:] + "."


def figure_text(value: float | None) -> str:
    """A figure with three decimals, or four if it is below 0.1; a dash if it is undefined."""
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.3f}"


def interval_text(interval: Interval) -> str:
    """`low to high`, or a dash if the interval is undefined."""
    if interval.low is None or interval.high is None:
        return "-"
    return f"{figure_text(interval.low)} to {figure_text(interval.high)}"


def figure_and_interval(interval: Interval) -> str:
    """`0.812 (0.790 to 0.833)`, with dashes for what is undefined."""
    return f"{figure_text(interval.value)} ({interval_text(interval)})"


def difference_text(gap: Difference) -> str:
    """`+0.012 (-0.003 to +0.027)`, with dashes if it is undefined."""
    value, low, high = ("-" if end is None else f"{end:+.3f}" for end in (gap.difference, gap.low, gap.high))
    return f"{value} ({low} to {high})"
