"""Estimates from photos without labels: class shares, expected accuracy and drift. Does not change the model."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.decision.calibration import Calibration
from natix_hf.decision.calibration_error import Reference, intervals
from natix_hf.decision.drift import drift_line, drift_test
from natix_hf.decision.expected_accuracy import expected_accuracy
from natix_hf.decision.prior_shift import estimate_prior, prior_bias
from natix_hf.documents.calibration import Bounds, Drift, ExpectedAccuracy
from natix_hf.documents.recalibration import OwnShares, Recalibration
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.errors import UserError
from natix_hf.runs.calibrated_model import CalibratedModel
from natix_hf.runs.saved_logits import read_predictions


class UnlabelledEstimates(NamedTuple):
    """Estimates from photos without labels. `drift` is None if there are no predictions to compare with."""

    prior: OwnShares
    expected_accuracy: ExpectedAccuracy
    drift: Drift | None


def seen_shares(model: CalibratedModel, name: str) -> np.ndarray:
    """The class shares under which a model was calibrated, `(classes,)`; `name` is what messages call the model.

    Raises:
        UserError: no file of the folder gives them.
    """
    if model.document is not None:
        return np.array(model.document.prior.seen)
    if SplitCertificate.there(model.folder):
        splits = read_certificate(model.folder)
        counts = splits.class_counts["val_calib/fit"]
        shares = np.array([counts[label] for label in splits.label_names], dtype=np.float64)
        if shares.all():
            return shares / shares.sum()
    raise UserError(
        f"{name}: neither calibration.json nor splits.json gives the class shares of the calibration, so those of new "
        "photos cannot be estimated: pass labelled photos"
    )


def unlabelled_report(
    model: CalibratedModel, seen: np.ndarray, logits: np.ndarray, groups: np.ndarray, *, seed: int = 0
) -> UnlabelledEstimates:
    """Class shares, expected accuracy and drift, from logits before any calibration.

    Args:
        model: the model; its predictions on `val_calib/fit`, if it has them, are compared with the photos.
        seen: `(classes,)` from `seen_shares`.
        logits: `(n, classes)` of the new photos before any calibration.
        groups: `(n,)`.
    """
    calibrated = under_seen(model, seen).calibrated(logits)
    return judged(model, seen, calibrated, model.calibration.decisions(logits), groups, seed=seed)


def under_seen(model: CalibratedModel, seen: np.ndarray) -> Calibration:
    """A model's calibration without prior and threshold: its probabilities hold under the class shares `seen`."""
    zeros = np.zeros(len(seen))
    bias = zeros
    if _tried(model) == ["none"] and RunRecord.there(model.folder):
        # Logits without a calibrator belong to the class shares of training, which sampling or weights may have
        # changed.
        trained = RunRecord.read(model.folder).training_shares
        bias = prior_bias(trained, seen) if trained else zeros
    return dataclasses.replace(model.calibration, prior_bias=bias, threshold_bias=zeros)


def judged(
    model: CalibratedModel,
    seen: np.ndarray,
    calibrated: np.ndarray,
    decided: np.ndarray,
    groups: np.ndarray | None,
    *,
    seed: int = 0,
) -> UnlabelledEstimates:
    """As `unlabelled_report`, from other arrays.

    Args:
        calibrated: logits `(n, classes)` of the new photos, calibrated as by `under_seen`.
        decided: decisions of the model, `(n,)`.
        groups: `(n,)`; None: each photo is a group.
    """
    estimate = estimate_prior(calibrated, seen, groups, seed=seed)
    floor = np.maximum(estimate.prior, 1e-6)  # EM may give a class 0, and a bias must be finite
    moved = (calibrated + prior_bias(seen, floor)).argmax(axis=1)
    decisions, drift, over = {"as_it_decides": decided, "with_this_prior": moved}, None, "photos"
    chances = {
        name: expected_accuracy(calibrated, one, seen, estimate, groups, seed=seed) for name, one in decisions.items()
    }
    low, high = estimate.low, estimate.high
    fitted_on = "val_calib/fit" if model.document is None else model.document.fitted_on
    split = fitted_on.partition("/")[0].replace("own photos", "val_calib")
    if (model.folder / "predictions" / f"{split}.parquet").is_file():
        rows, own = read_predictions(model.folder, split, "fit", fitted=model.document), under_seen(model, seen)
        if len(np.unique(rows.label)) == len(seen):
            reference = Reference(own.calibrated(rows.logits), rows.label, rows.group)
            drift = drift_test(calibrated, groups, estimate, *reference, positive=model.positive, seed=seed)
            # If no calibrator was better than none, the logits are as uncertain as with a temperature.
            sought = _tried(model) not in ([], ["none"])
            fitted = "temperature" if own.calibrator == "none" and sought else own.calibrator
            low, high, ends = intervals(calibrated, decisions, groups, estimate.prior, reference, fitted, seed=seed)
            low, high = np.minimum(low, estimate.prior), np.maximum(high, estimate.prior)
            for name, (least, most) in ends.items():
                value = chances[name].value
                chances[name] = Bounds(value=value, low=min(least, value), high=max(most, value))
            over = "photos and calibration"
    prior = OwnShares(
        seen=seen.tolist(),
        estimated=estimate.prior.tolist(),
        low=low.tolist(),
        high=high.tolist(),
        interval_over=over,
        iterations=estimate.iterations,
        converged=estimate.converged,
    )
    if drift is not None:
        drift = Drift(**dataclasses.asdict(drift), found=drift.found, line=drift_line(drift))
    return UnlabelledEstimates(prior, ExpectedAccuracy(**chances), drift)


def _tried(model: CalibratedModel) -> list[str]:
    """The calibrators that were tried; empty if unknown."""
    return [] if model.document is None else list(model.document.options.get("calibrator", ()))


def accuracy_lines(accuracy: ExpectedAccuracy, deciding: str) -> list[str]:
    """Lines on the expected accuracy of the decisions, which `deciding` names, and with the estimated class shares."""
    accuracies = ((deciding, accuracy.as_it_decides), ("with these class shares", accuracy.with_this_prior))
    return [
        f"{text}: {one.value:.3f} (95% interval {one.low:.3f} to {one.high:.3f}, from calibrated probabilities, "
        "without labels)"
        for text, one in accuracies
    ]


def unlabelled_lines(report: Recalibration) -> list[str]:
    """The printed lines of a report on photos without labels."""
    prior, accuracy, positive = report.prior, report.expected_accuracy, report.positive
    n, groups, names = report.photos.n, report.photos.groups, report.classes
    share = f"{prior.estimated[positive]:.1%} {names[positive]}"
    how = f"EM, {prior.iterations} steps" + ("" if prior.converged else ", NOT converged")
    between = f"{prior.low[positive]:.1%} to {prior.high[positive]:.1%} over {prior.interval_over}"
    lines = [
        f"estimated class shares: {share} (95% interval {between}, {n} photos in {groups} groups; {how}); the model "
        f"was calibrated on {prior.seen[positive]:.1%}"
    ]
    lines += [f"expected accuracy {line}" for line in accuracy_lines(accuracy, "as the model decides now")]
    if report.drift is None:
        lines.append("no drift test: the folder of the model has no predictions on val_calib to compare with")
    else:
        lines.append(report.drift.line)
    return lines
