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
from natix_hf.decision.calibration import Calibration
from natix_hf.documents.calibration import CalibrationFile, Deployment, EstimatedShares
from natix_hf.errors import UserError
from natix_hf.files import fingerprint_bytes
from natix_hf.inference.probability_tables import read_probabilities
from natix_hf.runs.unlabelled_estimates import accuracy_lines, judged, seen_shares, under_seen

LEAST = 100  # photos; with fewer, the shares are known to 10 percentage points at best
SMALLEST = 5e-7  # half of the last digit that predictions are written with


def deployment_prior(run: Path, path: str | Path, *, seed: int = 0) -> tuple[list[float], Deployment]:
    """The class shares among photos that a run has predicted.

    Args:
        run: folder of the finished run, its calibration as it was when it predicted.
        path: what `natix_hf.predict` wrote.

    Returns:
        The shares, one a class and none of them 0, and how they were estimated.

    Raises:
        UserError: a table that cannot be used, fewer than `LEAST` photos, or one that is older than the calibration,
            so that it is not known under which class shares its probabilities hold.
    """
    run, path = Path(run), Path(path).expanduser()
    document, names = CalibrationFile.read(run), read_certificate(run).label_names
    probabilities, skipped = read_probabilities(path, names)
    n = len(probabilities)
    if n < LEAST:
        raise UserError(f"{path}: {n} photos with probabilities, at least {LEAST} are needed to estimate class shares")
    fingerprint, before = fingerprint_bytes(path.read_bytes()), document.prior.deployment
    if before and before.fingerprint == fingerprint:  # the calibration that the table is from has been replaced
        return document.prior.target, before
    if path.stat().st_mtime < (run / "calibration.json").stat().st_mtime:
        raise UserError(
            f"{path}: older than calibration.json of {run}, so its probabilities may come from another calibration: "
            "run natix_hf.predict again"
        )
    calibration, seen = Calibration.from_document(document), seen_shares(run, document, str(run))
    own = under_seen(run, calibration, document, seen)
    given = np.log(np.maximum(probabilities, SMALLEST))
    decided = (given + calibration.threshold_bias).argmax(axis=1)
    held = given - calibration.prior_bias + own.prior_bias
    found = judged(run, held, decided, None, own, document, seen, calibration.positive, seed=seed)
    target = np.maximum(found.prior.estimated, 0.5 / n)  # a class absent from n photos may still have a share above 0
    deployment = Deployment(
        **{name: getattr(found.prior, name) for name in EstimatedShares.model_fields},
        n=n,
        skipped=skipped,
        fingerprint=fingerprint,
        expected_accuracy=found.expected_accuracy,
        drift=found.drift,
    )
    return (target / target.sum()).tolist(), deployment


def deployment_lines(told: Deployment, names: Sequence[str], positive: int) -> list[str]:
    """The printed lines. With two classes only the share of the positive one is shown."""
    shown = [positive] if len(names) == 2 else range(len(names))
    shares = ", ".join(
        f"{names[k]} {told.estimated[k]:.1%} (95% interval {told.low[k]:.1%} to {told.high[k]:.1%})" for k in shown
    )
    left = f", {told.skipped} unreadable ones left out" if told.skipped else ""
    how = f"EM, {told.iterations} steps" + ("" if told.converged else ", NOT converged")
    lines = [
        f"class shares in {told.n} photos without labels{left}: {shares}; {how}; intervals over "
        f"{told.interval_over}; photos are treated as independent"
    ]
    found = accuracy_lines(told.expected_accuracy, "as it decided them")
    lines += [f"  expected accuracy there {line}" for line in found]
    if told.drift and not told.drift.found:  # what was found is among the notes of the calibration
        lines.append(f"  {told.drift.line}")
    return lines
