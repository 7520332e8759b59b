"""Estimates class shares in deployment from predictions of a run on photos without labels, for `natix_hf.calibrate`.

The probabilities that `natix_hf.predict` wrote hold for the class shares that the run was calibrated for, so this
prior is removed first. The shares are then estimated by EM, and the photos are tested for drift from the calibration
photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.documents.calibration import CalibrationFile, Deployment, EstimatedShares
from natix_hf.errors import UserError
from natix_hf.files import fingerprint_bytes
from natix_hf.inference.probability_tables import read_probabilities
from natix_hf.report.decision_lines import shown_classes
from natix_hf.runs.calibrated_model import CalibratedModel
from natix_hf.runs.unlabelled_estimates import accuracy_lines, judged, seen_shares, under_seen

LEAST = 100  # photos; with fewer, the shares are known to 10 percentage points at best
SMALLEST = 5e-7  # half of the last digit that predictions are written with


def deployment_prior(run: Path, path: str | Path) -> tuple[list[float], Deployment]:
    """The class shares among photos that a run has predicted.

    Args:
        run: folder of the finished run, with the calibration that it had when it predicted.
        path: a table that `natix_hf.predict` wrote.

    Returns:
        The shares, one per class and all above 0, and how they were estimated.

    Raises:
        UserError: the table cannot be used, has fewer than `LEAST` photos, or is older than the calibration, so its
            probabilities may belong to other class shares.
    """
    run, path = Path(run), Path(path).expanduser()
    document, names = CalibrationFile.read(run), read_certificate(run).label_names
    probabilities, skipped = read_probabilities(path, names)
    n = len(probabilities)
    if n < LEAST:
        raise UserError(f"{path}: expected at least {LEAST} photos with probabilities, found {n}: predict more photos")
    fingerprint, before = fingerprint_bytes(path.read_bytes()), document.prior.deployment
    if before and before.fingerprint == fingerprint:  # its first use replaced the calibration that it is from
        return document.prior.target, before
    if path.stat().st_mtime < (run / "calibration.json").stat().st_mtime:
        raise UserError(
            f"{path}: older than calibration.json of {run}, so its probabilities may come from another calibration: "
            "run natix_hf.predict again"
        )
    model = CalibratedModel.read(run, len(names))
    seen, calibration = seen_shares(model, str(run)), model.calibration
    logits = np.log(np.maximum(probabilities, SMALLEST))
    decided = (logits + calibration.threshold_bias).argmax(axis=1)
    calibrated = logits - calibration.prior_bias + under_seen(model, seen).prior_bias
    estimates = judged(model, seen, calibrated, decided, None)
    target = np.maximum(estimates.prior.estimated, 0.5 / n)  # a class that is absent here may still occur
    deployment = Deployment(
        **{name: getattr(estimates.prior, name) for name in EstimatedShares.model_fields},
        n=n,
        skipped=skipped,
        fingerprint=fingerprint,
        expected_accuracy=estimates.expected_accuracy,
        drift=estimates.drift,
    )
    return (target / target.sum()).tolist(), deployment


def deployment_lines(deployment: Deployment, names: Sequence[str], positive: int) -> list[str]:
    """The printed lines. With two classes only the share of the positive one is shown."""
    shown = shown_classes(positive, len(names))
    shares = ", ".join(
        f"{names[k]} {deployment.estimated[k]:.1%} (95% interval {deployment.low[k]:.1%} to {deployment.high[k]:.1%})"
        for k in shown
    )
    left = f", {deployment.skipped} unreadable ones left out" if deployment.skipped else ""
    how = f"EM, {deployment.iterations} steps" + ("" if deployment.converged else ", NOT converged")
    lines = [
        f"class shares in {deployment.n} photos without labels{left}: {shares}; {how}; intervals over "
        f"{deployment.interval_over}; photos are treated as independent"
    ]
    accuracies = accuracy_lines(deployment.expected_accuracy, "with the decisions in that table")
    lines += [f"  expected accuracy there {line}" for line in accuracies]
    if deployment.drift and not deployment.drift.found:  # a drift that was found is in the notes of the calibration
        lines.append(f"  {deployment.drift.line}")
    return lines
