"""From the logits of `val_calib` to `calibration.json`: calibrator, class prior, threshold, guarantee, in this order.

Works from the files of a run folder, without the model. The rows of the part `fit` give calibrator, prior and
threshold, those of the part `control` the guarantee and nothing else.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.decision.calibration import Calibration
from natix_hf.decision.calibrators import CALIBRATORS
from natix_hf.decision.choice import mean_and_error, nll
from natix_hf.decision.fit_calibrator import CalibratorFit, fit_calibrator, fit_one
from natix_hf.decision.prior import class_prior
from natix_hf.decision.prior_shift import importance_weights, prior_bias
from natix_hf.decision.temperature import softmax
from natix_hf.decision.threshold import fold_bias, held_out_gain, threshold_curve, unreachable_line
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.guarantee import Guarantee
from natix_hf.errors import UserError
from natix_hf.files import read_json, write_json
from natix_hf.resampling import group_numbers
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.saved_logits import check_classes, read_predictions, sent_as

Rows = Mapping[str, np.ndarray]  # group, label, logits


def check_decision(options: DecisionOptions, names: Sequence[str], positive: int) -> np.ndarray | None:
    """Refuse options that these classes cannot have.

    Returns:
        The expected share of each class, `(classes,)`; None where the options expect none.

    Raises:
        UserError: names the option.
    """
    if len(names) != 2:
        for option, asked in (("fold_threshold", options.fold_threshold), ("risk", options.risk != "none")):
            if asked:
                raise UserError(f"{option}: for two classes only, these are {len(names)}: leave it out")
    return class_prior(options.target_prior, names, positive) if options.target_prior else None


def options_of(run: Path) -> DecisionOptions:
    """The decision options that a run was trained with."""
    recorded = read_json(run / "run.json").get("decision")
    if recorded is None:  # a run from before there was more than one calibrator
        recipe = run / "recipe.yaml"
        recorded = yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else {}
    known = {field.name for field in dataclasses.fields(DecisionOptions)}
    values = {name: value for name, value in recorded.items() if name in known and value is not None}
    if isinstance(values.get("calibrator"), str):
        values["calibrator"] = [values["calibrator"]]
    return DecisionOptions(**values)


def split_as_sent(split: str, profile: str) -> str:
    """The name under `predictions/` of a split as a challenge profile sends it."""
    return split if profile == "clean" else f"{split}@{profile.replace('/', '-').replace('@', '-')}"


def calibrate_run(
    run: Path,
    options: DecisionOptions | None = None,
    *,
    deployment: Mapping[str, Any] | None = None,
    insist: bool = False,
) -> dict[str, Any]:
    """Fit the calibration on `val_calib`, write `calibration.json`, and note in `run.json` which rows it read.

    Args:
        run: a folder with `run.json`, `splits.json` and the predictions on `val_calib`.
        options: those of the run by default.
        deployment: where `target_prior` comes from, if it was estimated, for `prior`; see `runs.deployment_shares`.
        insist: raise where the guarantee is out of reach, rather than note it.

    Returns:
        The content of `calibration.json`.

    Raises:
        UserError: the run is a refit, has no such predictions, or cannot have these options; nothing is written then.
    """
    run = Path(run)
    record = read_json(run / "run.json")
    if record.get("purpose") == "refit":
        raise UserError(
            f"{run}: a refit saw the rows of val_calib: its calibration is carried over and stays as it is"
        )
    splits = read_certificate(run)
    names, positive = splits["label_names"], record["positive"]
    options = options or options_of(run)
    target = check_decision(options, names, positive)
    met = split_as_sent("val_calib", options.calibrate_on)
    if not (run / "predictions" / f"{met}.parquet").is_file() and met != "val_calib":
        raise UserError(
            f"calibrate_on {options.calibrate_on}: {run} has no predictions on val_calib as it sends it: train with "
            "that key, or leave it out"
        )
    rows = read_predictions(run, met, "fit")
    check_classes(rows, names, f"{run}: predictions/{met}.parquet")
    trained = np.array(record["training_shares"]) if record.get("training_shares") else None
    calibration, document = decide(rows, options, target, names, positive, trained)
    compared = None
    if met != "val_calib":
        clean = read_predictions(run, "val_calib", "fit")
        of_clean, clean_document = decide(clean, options, target, names, positive, trained)
        fits = {"clean": (of_clean, clean_document), options.calibrate_on: (calibration, document)}
        compared = {
            name: {
                "calibrator": made["calibrator"],
                "temperature": made["temperature"],
                "threshold": (made["threshold_choice"] or {}).get("threshold"),
                "nll_on": {"clean": _nll(fit, clean), options.calibrate_on: _nll(fit, rows)},
            }
            for name, (fit, made) in fits.items()
        }
    guarantee, used = None, [("fit calibration", "fit", len(rows["label"]))]
    if options.risk != "none":
        control = read_predictions(run, met, "control")
        guarantee = guaranteed(calibration, control, options, names, f"{met}/control")
        if insist and not guarantee.reachable:
            raise UserError(f"no guarantee: {guarantee.reason}")
        used.append(("guarantee", "control", len(control["label"])))
    sent = {} if met == "val_calib" else {"sent": sent_as(run / "predictions" / f"{met}.parquet")}
    document = {
        "version": 2,
        "fitted_on": f"{met}/fit",
        "calibrate_on": options.calibrate_on,
        **sent,
        **document,
        "guarantee": guarantee and guarantee.plain(),
        "compared": compared,
        "options": dataclasses.asdict(options),
    }
    if deployment is not None:
        document["prior"] = {**document["prior"], "deployment": dict(deployment)}
        if deployment["drift"] and deployment["drift"]["found"]:
            document["notes"] = [*document["notes"], deployment["drift"]["line"]]
    CalibrationFile.check(document)
    write_json(run / "calibration.json", document)
    record["ledger"] = [*record.get("ledger", []), *_entries(used, splits["fingerprints"])]
    write_json(run / "run.json", record)
    return document


def decide(
    rows: Rows,
    options: DecisionOptions,
    target: np.ndarray | None,
    names: Sequence[str],
    positive: int,
    trained: np.ndarray | None = None,
) -> tuple[Calibration, dict[str, Any]]:
    """Calibrator, prior and threshold from labelled rows.

    Args:
        rows: `logits` `(n, classes)` uncalibrated, `label` `(n,)`, `group` `(n,)`.
        options: which calibrators, which metric, whether its threshold is used.
        target: expected shares of the classes, `(classes,)`, or None.
        names: of the classes.
        positive: id of the positive class.
        trained: class shares `(classes,)` to which the logits belong, where training saw others than its photos have
            (balanced sampling, weights, adjustment); None: those of its photos, which are those of the rows.

    Returns:
        What is applied, and its part of `calibration.json`.
    """
    labels, groups, classes = rows["label"], rows["group"], len(names)
    counts = np.bincount(labels, minlength=classes)
    seen = counts / counts.sum()
    moved = np.zeros(classes)
    if trained is not None and counts.all() and options.calibrator != ["none"]:
        # A temperature cannot undo what sampling did to the odds: without this, target_prior would correct it twice.
        moved = prior_bias(trained, seen)
    about = {"positive": positive, "class_names": names}
    fit = fit_calibrator(rows["logits"] + moved, labels, groups, options.calibrator, **about)
    fit = _with_offset(fit, rows, moved, positive)
    notes = list(fit.notes)
    if moved.any():
        notes.append(
            f"training saw {_shares(trained, names)}, these photos are {_shares(seen, names)}: the logits are moved "
            "by the difference first"
        )
    if counts.all() and (line := _tells_nothing(fit.calibration, rows, seen, names)):
        notes.append(line)
    parts: dict[str, Any] = {}
    weights = None
    if target is not None and counts.all():
        held = trained if trained is not None and not moved.any() else seen
        parts["prior_bias"] = prior_bias(held, target)
        weights = importance_weights(labels, seen, target)
    elif target is not None:
        absent = ", ".join(names[k] for k in np.flatnonzero(counts == 0))
        notes.append(f"no photo of {absent} among these, the probabilities are not moved to target_prior")
    calibration = dataclasses.replace(fit.calibration, **parts)
    curve, folded = None, False
    if classes == 2 and counts.all():
        scores = softmax(calibration.calibrated(rows["logits"]))[:, positive]
        judged = scores, labels == positive, groups, options.threshold_metric
        curve = threshold_curve(*judged, weights=weights) | {"held_out": held_out_gain(*judged, weights=weights)}
        if line := unreachable_line(curve):
            notes.append(line)
    if options.fold_threshold:
        least = CALIBRATORS["temperature"].least_rows
        if curve is None:
            notes.append(f"all {fit.n} photos are of one class, a threshold needs both, it stays 0.5")
        elif fit.n < least:
            notes.append(f"{fit.n} photos are too few for a threshold ({least} needed), it stays 0.5")
        elif line := _no_gain(curve):
            notes.append(line)
        elif curve["reachable"]:
            bias = fold_bias(curve["threshold"], positive, classes)
            folded, parts = True, {"threshold": curve["threshold"], "threshold_bias": bias}
            calibration = dataclasses.replace(calibration, **parts)
        else:
            notes.append("the threshold stays 0.5")
    return calibration, {
        "calibrator": calibration.calibrator,
        "kept": fit.kept,
        "candidates": list(fit.candidates),
        "n": fit.n,
        "groups": fit.groups,
        "positive": positive,
        "temperature": calibration.temperature.tolist(),
        "isotonic": [[x.tolist(), y.tolist()] for x, y in calibration.isotonic] if calibration.isotonic else None,
        "nll_before": fit.nll_before,
        "nll_after": fit.nll_after,
        "ece_before": fit.ece_before,
        "ece_after": fit.ece_after,
        "prior": {"seen": seen.tolist(), "target": None if weights is None else target.tolist()},
        "threshold": calibration.threshold,
        "threshold_choice": curve,
        "folded": folded,
        "calibrator_bias": calibration.calibrator_bias.tolist(),
        "prior_bias": calibration.prior_bias.tolist(),
        "threshold_bias": calibration.threshold_bias.tolist(),
        "logit_bias": calibration.logit_bias.tolist(),
        "notes": notes,
    }


def _tells_nothing(calibration: Calibration, rows: Rows, shares: np.ndarray, names: Sequence[str]) -> str | None:
    """One line where the probabilities predict the rows no better than their class shares, by a standard error."""
    labels = rows["label"]
    numbers = group_numbers(rows["group"], len(labels))
    gain, error = mean_and_error(
        -np.log(shares)[labels] - nll(calibration.calibrated(rows["logits"]), labels), numbers
    )
    if gain > error:
        return None
    return (
        f"the model's scores tell nothing clear about these {len(labels)} photos: its probabilities predict them no "
        "better than the shares of the classes do; see whether the classes are what the model calls "
        f"{' and '.join(names)}"
    )


def _no_gain(curve: Mapping[str, Any]) -> str | None:
    """One line where the threshold does not better 0.5 on held-out groups by more than a standard error; else None."""
    told, held = f"threshold {curve['threshold']:.3f} for {curve['metric']}", curve["held_out"]
    if curve["constraint"] is not None:
        return None
    if held is None:
        return f"{told}: all photos are one group, nothing can be held out to judge it by, it stays 0.5"
    if held["gain"] > held["gain_se"]:
        return None
    return (
        f"{told}: thresholds chosen so have {curve['measures']} {held['value']:.3f} on held-out groups, 0.5 has "
        f"{held['at_half']:.3f}, a gain of {held['gain']:+.3f} with a standard error of {held['gain_se']:.3f}: it "
        "stays 0.5"
    )


def _with_offset(fit: CalibratorFit, rows: Rows, moved: np.ndarray, positive: int) -> CalibratorFit:
    """A fit on logits that were moved, as one on the logits as they are."""
    if not moved.any():
        return fit
    calibration = fit.calibration
    if calibration.isotonic is not None:  # by ranks alone: moving all logits alike changes nothing but the knots
        calibration = fit_one("isotonic", rows["logits"], rows["label"], positive=positive)
    else:
        bias = calibration.calibrator_bias + moved / calibration.temperature
        calibration = dataclasses.replace(calibration, calibrator_bias=bias)
    return dataclasses.replace(fit, calibration=calibration)


def _shares(shares: np.ndarray, names: Sequence[str]) -> str:
    return ", ".join(f"{share:.1%} {name}" for share, name in zip(shares, names))


def guaranteed(
    calibration: Calibration, control: Rows, options: DecisionOptions, names: Sequence[str], fitted_on: str
) -> Guarantee:
    """What `decision.risk_control` proves on rows that nothing else has read, and its `lines` in words."""
    from natix_hf.decision.risk_control import capacity_line, control_risk, guarantee_line

    positive = calibration.positive
    document = control_risk(
        softmax(calibration.calibrated(control["logits"]))[:, positive],
        control["label"] == positive,
        control["group"],
        risk=options.risk,
        alpha=options.risk_alpha,
        delta=options.risk_delta,
        prevalence=options.prevalence,
        threshold=calibration.threshold,
        fitted_on=fitted_on,
    )
    ordered = (names[1 - positive], names[positive])
    lines = [capacity_line(document, ordered), guarantee_line(document, ordered)]
    return document.model_copy(update={"lines": lines})


def carried(document: Mapping[str, Any]) -> dict[str, Any]:
    """What of `calibration.json` (version 1 or 2) the model carries: the arguments of its `set_calibration`."""
    calibration = Calibration.from_document(document)
    guarantee = document.get("guarantee")
    banded = guarantee is not None and guarantee["low"] is not None
    knots = calibration.isotonic
    return {
        "temperature": calibration.temperature.tolist(),
        "logit_bias": calibration.logit_bias.tolist(),
        "isotonic": None if knots is None else [[x.tolist(), y.tolist()] for x, y in knots],
        "decision": {
            "positive": calibration.positive,
            "threshold": calibration.threshold,
            "prior_bias": calibration.prior_bias.tolist(),
            "threshold_bias": calibration.threshold_bias.tolist(),
            "abstain_band": [guarantee["low"], guarantee["high"]] if banded else None,
        },
    }


def _nll(calibration: Calibration, rows: Rows) -> float:
    """Nats a row under the calibrator alone: the rows stand for their own class shares, not for those expected."""
    own = dataclasses.replace(calibration, prior_bias=np.zeros_like(calibration.prior_bias))
    probabilities = softmax(own.calibrated(rows["logits"]))
    return float(-np.log(np.maximum(probabilities[np.arange(len(rows["label"])), rows["label"]], 1e-300)).mean())


def _entries(used: list[tuple[str, str, int]], fingerprints: Mapping[str, str]) -> list[dict[str, Any]]:
    """Entries of the ledger in `run.json`: which rows of `val_calib` gave what."""
    return [
        {
            "step": step,
            "role": "policy",
            "split": "val_calib",
            "part": part,
            "rows": n,
            "fingerprint": fingerprints[f"val_calib/{part}"],
            "time": time.time(),
        }
        for step, part, n in used
    ]
