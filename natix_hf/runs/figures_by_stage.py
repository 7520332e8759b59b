"""Final figures after each step from logits to decisions, at the class shares that the model is meant for."""

from __future__ import annotations

import numpy as np

from natix_hf.decision.at_shares import figures_at_shares, with_intervals
from natix_hf.decision.calibration import Calibration
from natix_hf.documents.figures import Interval
from natix_hf.documents.final_figures import Stage, Stages
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.report.intervals import group_count

FIGURES = ("accuracy", "mcc", "nll", "brier", "ece")


def stages_document(rows: SavedLogits, calibration: Calibration, target: list[float] | None) -> Stages | None:
    """Accuracy and MCC of the decisions, NLL, Brier score and ECE of the probabilities, after each step.

    The steps are `uncalibrated`, `calibrator`, `prior` if the class shares were adjusted, and `threshold` if the model
    decides at a chosen threshold. The last one changes decisions only; its probabilities are those of the step before.

    Args:
        rows: rows of `val_test` with logits before calibration.
        calibration: calibration of the run.
        target: class shares `(classes,)` that the figures are for; None: those of the rows.

    Returns:
        Figures with intervals after each step; None if the rows lack a class.
    """
    logits, labels = rows.logits, rows.label
    counts = np.bincount(labels, minlength=logits.shape[1])
    if not counts.all():
        return None
    shares = counts / counts.sum() if target is None else np.asarray(target)
    calibrated = calibration.calibrated(logits)
    own = calibrated - calibration.prior_bias
    steps = [("uncalibrated", logits, logits.argmax(axis=1)), ("calibrator", own, own.argmax(axis=1))]
    if calibration.prior_bias.any():
        steps.append(("prior", calibrated, calibrated.argmax(axis=1)))
    if calibration.threshold_bias.any():
        steps.append(("threshold", calibrated, calibration.decisions(logits)))
    stages = []
    for name, scores, decisions in steps:
        figures = figures_at_shares(scores, decisions, labels, rows.group, shares, positive=calibration.positive)
        intervals = with_intervals({key: figures[key] for key in FIGURES if key in figures})
        stages.append(Stage(step=name, figures=Interval.each(intervals)))
    groups = group_count(rows.group, len(labels))
    return Stages(shares=shares.tolist(), n=len(labels), groups=groups, steps=stages)
