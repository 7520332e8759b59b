"""Final figures after each step from logits to decisions, at the class shares that the model is meant for."""

from __future__ import annotations

import numpy as np

from natix_hf.decision.at_shares import figures_at_shares, with_intervals
from natix_hf.decision.calibration import Calibration
from natix_hf.documents.figures import Interval
from natix_hf.documents.final_figures import Stage, Stages
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.resampling import group_numbers

FIGURES = ("accuracy", "mcc", "nll", "brier", "ece")


def stages_document(
    rows: SavedLogits, calibration: Calibration, target: list[float] | None, *, seed: int = 0
) -> Stages | None:
    """Accuracy and MCC of the decisions, NLL, Brier score and ECE of the probabilities, after each step.

    The steps are `uncalibrated`, `calibrator`, `prior` where the class shares were moved, and `threshold` where one
    was moved to 0.5: its probabilities are those of the step before, it changes decisions.

    Args:
        rows: of `val_test`, with their logits before calibration.
        calibration: of the run.
        target: the shares that figures are put together at, `(classes,)`; None: those of the rows.

    Returns:
        Figures with intervals after each step; None where a class is missing among the rows.
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
    made = []
    for name, scores, decisions in steps:
        figures = figures_at_shares(
            scores, decisions, labels, rows.group, shares, positive=calibration.positive, seed=seed
        )
        intervals = with_intervals({key: figures[key] for key in FIGURES if key in figures})
        made.append(Stage(step=name, figures=Interval.each(intervals)))
    groups = int(group_numbers(rows.group, len(labels)).max()) + 1
    return Stages(shares=shares.tolist(), n=len(labels), groups=groups, steps=made)
