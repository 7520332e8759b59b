"""What photos without labels say about a finished model: class shares, expected accuracy, drift. Changes no model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from natix_hf.data.certificate import read_certificate
from natix_hf.decision.calibration import Calibration
from natix_hf.decision.drift import drift_line, drift_test
from natix_hf.decision.expected_accuracy import expected_accuracy
from natix_hf.decision.prior_shift import estimate_prior, prior_bias
from natix_hf.errors import UserError
from natix_hf.training.predictions import read_predictions


def seen_shares(folder: Path, document: Mapping[str, Any], name: str) -> np.ndarray:
    """The class shares under which a model was calibrated, `(classes,)`.

    Args:
        folder: of the model.
        document: its `calibration.json`, empty where there is none.
        name: what messages call the model.

    Raises:
        UserError: nothing in the folder says it.
    """
    if "prior" in document:
        return np.array(document["prior"]["seen"])
    if (folder / "splits.json").is_file():
        splits = read_certificate(folder)
        counts = splits["class_counts"]["val_calib/fit"]
        shares = np.array([counts[label] for label in splits["label_names"]], dtype=np.float64)
        if shares.all():
            return shares / shares.sum()
    raise UserError(
        f"{name}: neither calibration.json nor splits.json says under which class shares this model was calibrated, "
        "so that those of new photos cannot be estimated: give labelled photos"
    )


def unlabelled_report(
    folder: Path,
    logits: np.ndarray,
    groups: np.ndarray,
    calibration: Calibration,
    document: Mapping[str, Any],
    seen: np.ndarray,
    positive: int,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """`prior`, `expected_accuracy` and `drift` of `recalibration.json`.

    Args:
        folder: of the model; its predictions on `val_calib/fit` are compared with, where it has them.
        logits: `(n, classes)` of the new photos before any calibration.
        groups: `(n,)`.
        calibration: what the model does.
        document: its `calibration.json`.
        seen: `(classes,)` class shares of the calibration.
        positive: id of the positive class.
        seed: of the intervals.
    """
    zeros = np.zeros(len(seen))
    under_seen = dataclasses.replace(calibration, prior_bias=zeros, threshold_bias=zeros)
    calibrated = under_seen.calibrated(logits)
    estimate = estimate_prior(calibrated, seen, groups, seed=seed)
    floor = np.maximum(estimate.prior, 1e-6)  # EM may leave a class nothing, and a bias of minus infinity is none
    moved = (calibrated + prior_bias(seen, floor)).argmax(axis=1)
    drift = None
    split = str(document.get("fitted_on", "val_calib/fit")).partition("/")[0].replace("own photos", "val_calib")
    if (folder / "predictions" / f"{split}.parquet").is_file():
        rows = read_predictions(folder, split, "fit")
        if len(np.unique(rows["label"])) == len(seen):
            drift = drift_test(
                calibrated,
                groups,
                estimate,
                under_seen.calibrated(rows["logits"]),
                rows["label"],
                rows["group"],
                positive=positive,
                seed=seed,
            )
    chances = {
        name: expected_accuracy(calibrated, decisions, seen, estimate, groups, seed=seed)
        for name, decisions in (("as_it_decides", calibration.decisions(logits)), ("with_this_prior", moved))
    }
    return {
        "prior": {
            "seen": seen.tolist(),
            "estimated": estimate.prior.tolist(),
            "low": estimate.low.tolist(),
            "high": estimate.high.tolist(),
            "iterations": estimate.iterations,
            "converged": estimate.converged,
        },
        "expected_accuracy": chances,
        "drift": None
        if drift is None
        else {**dataclasses.asdict(drift), "found": drift.found, "line": drift_line(drift)},
    }


def unlabelled_lines(report: Mapping[str, Any], names: Sequence[str], positive: int) -> list[str]:
    """What a command prints of it."""
    prior, accuracy = report["prior"], report["expected_accuracy"]
    n, groups = report["photos"]["n"], report["photos"]["groups"]
    found = f"{prior['estimated'][positive]:.1%} {names[positive]}"
    how = f"EM, {prior['iterations']} steps" + ("" if prior["converged"] else ", NOT converged")
    between = f"{prior['low'][positive]:.1%} to {prior['high'][positive]:.1%}"
    lines = [
        f"estimated class shares: {found} (95% interval {between}, {n} photos in {groups} groups; {how}); the model "
        f"was calibrated on {prior['seen'][positive]:.1%}"
    ]
    for name, text in (("as_it_decides", "as the model decides now"), ("with_this_prior", "with these class shares")):
        one = accuracy[name]
        lines.append(
            f"expected accuracy {text}: {one['value']:.3f} (95% interval {one['low']:.3f} to {one['high']:.3f}, from "
            "calibrated probabilities, without labels)"
        )
    drift = report["drift"]
    if drift is None:
        lines.append("no drift check: the model's folder holds no predictions on val_calib to compare with")
    else:
        lines.append(drift["line"])
    return lines
