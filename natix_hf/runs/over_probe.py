"""Compares the fine-tuned model with the probe it started from, on the same photos, each with its own temperature."""

from __future__ import annotations

import numpy as np

from natix_hf.decision.fit_calibrator import fit_calibrator
from natix_hf.documents.probe import OverProbe
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.report.intervals import bootstrap_intervals, group_count, paired_differences
from natix_hf.report.summary import LABELS, figure_text

COMPARED = ("accuracy", "mcc", "auroc", "log_loss")


def over_probe(fit: SavedLogits, test: SavedLogits, tuned: np.ndarray, positive: int) -> OverProbe:
    """What fine-tuning added over the probe on `val_test`.

    Args:
        fit, test: the probe's predictions on `val_calib/fit` and `val_test`, as `read_predictions` gives them.
        tuned: logits `(n, classes)` that the tuned model serves for the rows of `test`, in their order.
        positive: id of the positive class.

    Returns:
        For each metric the values of probe and tuned model with intervals, and the difference (tuned minus probe)
        with a paired interval over groups.
    """
    before = fit_calibrator(fit.logits, fit.label, fit.group).calibration.calibrated(test.logits)
    after, labels, groups = tuned, test.label, test.group
    intervals = [bootstrap_intervals(one, labels, groups, positive=positive) for one in (before, after)]
    changes = paired_differences(after, before, labels, groups, positive=positive)
    metrics = {
        name: {"probe": intervals[0][name], "tuned": intervals[1][name], "difference": changes[name]}
        for name in COMPARED
    }
    for one in metrics.values():
        for values in one.values():
            values |= {key: None for key, value in values.items() if value != value}
    return OverProbe(split="val_test", n=len(labels), groups=group_count(groups, len(labels)), metrics=metrics)


def over_probe_lines(found: OverProbe) -> list[str]:
    """The printed lines of the comparison with the probe."""
    lines = [f"over the probe on the same {found.n} photos of {found.split}, tuned minus probe:"]
    for name, one in found.metrics.items():
        change, ends = one.difference, "-"
        if change.low is not None:
            ends = f"{change.low:+.3f} to {change.high:+.3f}"
        shown = "-" if change.difference is None else f"{change.difference:+.3f}"
        lines.append(f"  {LABELS[name]}: {figure_text(one.probe.value)} {shown} ({ends})")
    return lines
