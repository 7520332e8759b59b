"""Fits `calibration.json` from the logits of `val_calib`: calibrator, class prior, threshold and guarantee, in order.

Reads the files of a run folder and does not load the model. Calibrator, prior and threshold are fitted on the part
`fit`. The part `control` is used only for the guarantee and for the choice of early exits.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.decision.calibration import Calibration, DecisionRule, decision_rule
from natix_hf.decision.calibrators import CALIBRATORS
from natix_hf.decision.choice import mean_and_error, nll
from natix_hf.decision.exit_options import check_exit, exit_of
from natix_hf.decision.fit_calibrator import fit_calibrator
from natix_hf.decision.prior import class_prior
from natix_hf.decision.prior_shift import importance_weights, offset_to, prior_bias
from natix_hf.decision.threshold import fold_bias, held_out_gain, threshold_curve, unreachable_line
from natix_hf.documents.calibration import CalibrationFile, Compared, Deployment, Prior, ThresholdChoice
from natix_hf.documents.cascade import Cascade
from natix_hf.documents.guarantee import Guarantee
from natix_hf.documents.ledger import LedgerEntry, note_reads
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.documents.step_record import StepRecord
from natix_hf.errors import UserError
from natix_hf.files import read_recipe
from natix_hf.logits import softmax
from natix_hf.options import RecipeValue
from natix_hf.resampling import group_numbers
from natix_hf.runs.calibrate_cascade import cascade_rows, stages_of
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.saved_logits import check_classes, read_predictions, sent_as
from natix_hf.runs.steps import CALIBRATE, COMBINE, PREDICT, carried_out


def check_decision(options: DecisionOptions, names: Sequence[str], positive: int) -> np.ndarray | None:
    """Check the options against the classes.

    Returns:
        The expected share of each class, `(classes,)`; None if the options give none.

    Raises:
        UserError: an option does not fit the classes; the message names it.
    """
    if len(names) != 2:
        for option, asked in (("fold_threshold", options.fold_threshold), ("risk", options.risk != "none")):
            if asked:
                raise UserError(f"{option}: only for two classes, and there are {len(names)}: leave it out")
    return class_prior(options.target_prior, names, positive) if options.target_prior else None


def options_of(run: Path) -> DecisionOptions:
    """The decision options of a run: from its recipe, else from the record of its predictions."""
    done = StepRecord.of(run, PREDICT.name) or StepRecord.of(run, COMBINE.name)
    recipe, plain = read_recipe(run), dataclasses.asdict(DecisionOptions())
    said = {key: plain[key] if recipe[key] is None else recipe[key] for key in plain if key in recipe}
    return DecisionOptions(**{**(done.options if done else {}), **said})


def decision_of(recipe: Mapping[str, RecipeValue]) -> DecisionOptions:
    """The decision options among the keys of a recipe."""
    known = {field.name for field in dataclasses.fields(DecisionOptions)}
    return DecisionOptions(**{key: value for key, value in recipe.items() if key in known and value is not None})


def calibrate_run(
    run: Path,
    options: DecisionOptions | None = None,
    *,
    deployment: Deployment | None = None,
    insist: bool = False,
) -> CalibrationFile:
    """Fit the calibration on `val_calib`, write `calibration.json`, and note in the ledger which rows it read.

    Args:
        run: a folder with `run.json`, `splits.json` and the predictions on `val_calib`.
        options: those of the run by default.
        deployment: where `target_prior` comes from, if it was estimated; see `runs.deployment_shares`.
        insist: raise if the guarantee or the promise of early exits is out of reach; by default it is only noted.

    Raises:
        UserError: the run is a refit, has no such predictions, or cannot have these options. Nothing is then written.
    """
    run = Path(run)
    record = RunRecord.read(run)
    if record.purpose == "refit":
        raise UserError(
            f"{run}: a refit was trained on val_calib and keeps the calibration of its honest run: calibrate that run"
        )
    splits, options = read_certificate(run), options or options_of(run)
    with carried_out(run, CALIBRATE, dataclasses.asdict(options)):
        document, used = _fitted(run, record, splits, options, deployment)
        if insist and document.guarantee is not None and not document.guarantee.reachable:
            raise UserError(f"no guarantee: {document.guarantee.reason}")
        if insist and document.cascade is not None and document.cascade.exit.high is None:
            raise UserError(f"no early exits: {document.cascade.exit.reason}")
        document.write(run)
        note_reads(run, _entries(used, splits.fingerprints))
    return document


def _fitted(
    run: Path, record: RunRecord, splits: SplitCertificate, options: DecisionOptions, deployment: Deployment | None
) -> tuple[CalibrationFile, list[tuple[str, str, int]]]:
    """The calibration of a run, and the rows it was fitted on: step, part of val_calib, number of rows."""
    names, positive = splits.label_names, record.positive
    target = check_decision(options, names, positive)
    profile = options.calibrate_on
    split = "val_calib" if profile == "clean" else f"val_calib@{profile.replace('@', '-')}"
    if split != "val_calib" and not (run / "predictions" / f"{split}.parquet").is_file():
        raise UserError(
            f"calibrate_on: {profile} given, but {run} has no predictions on val_calib under this "
            "profile: train with that key, or leave it out"
        )
    rows = read_predictions(run, split, "fit")
    check_classes(rows, names, f"{run}: predictions/{split}.parquet")
    trained = np.array(record.training_shares) if record.training_shares else None
    used = [("fit calibration", "fit", len(rows.label))]
    if record.purpose == "cascade" and not exit_of(options):
        raise UserError(
            f"views_exit: expected risk or two numbers (low and high), found none: without exits {run} would be only "
            "its second model, which has its own run"
        )
    combined = None
    if exit_of(options):
        sent = (run / "predictions" / "robustness").glob("*.parquet")
        profiles = [profile, *(path.stem for path in sorted(sent))]
        risk = {"risk": options.risk, "risk_delta": options.risk_delta}
        check_exit(options, two_stages=rows.whole is not None, profiles=profiles, **risk)
        control = read_predictions(run, split, "control")
        stages = stages_of(run, trained)
        combined = cascade_rows(rows, control, options, names, positive, **stages._asdict())
        rows, trained = combined.fit, combined.trained
        used.append(("early exits", "control", len(control.label)))
    settings = options, target, names, positive, trained
    document = decide(rows, *settings, fitted_on=f"{split}/fit")
    update: dict[str, Any] = {"cascade": combined and combined.cascade}
    if split != "val_calib":
        clean = read_predictions(run, "val_calib", "fit")
        fits = {"clean": decide(clean, *settings, fitted_on="val_calib/fit"), profile: document}
        fitted_rows = {"clean": clean, profile: rows}
        update["compared"] = {name: _compared(fit, fitted_rows) for name, fit in fits.items()}
        update["sent"] = sent_as(run / "predictions" / f"{split}.parquet")
    if options.risk != "none":
        control = combined.control if combined else read_predictions(run, split, "control")
        fitted = Calibration.from_document(document), control, options, names, f"{split}/control"
        update["guarantee"] = guaranteed(*fitted, cascade=update["cascade"])
        used.append(("guarantee", "control", len(control.label)))
    if deployment is not None:
        update["prior"] = document.prior.model_copy(update={"deployment": deployment})
        if deployment.drift and deployment.drift.found:
            update["notes"] = [*document.notes, deployment.drift.line]
    return document.model_copy(update=update), used


def decide(
    rows: SavedLogits,
    options: DecisionOptions,
    target: np.ndarray | None,
    names: Sequence[str],
    positive: int,
    trained: np.ndarray | None = None,
    *,
    fitted_on: str,
) -> CalibrationFile:
    """Fit calibrator, prior and threshold on labelled rows. The guarantee needs other rows.

    Args:
        rows: rows with logits before calibration.
        options: the calibrators, the metric of the threshold, and whether that threshold is used.
        target: expected class shares, `(classes,)`, or None.
        names: class names.
        positive: id of the positive class.
        trained: class shares `(classes,)` to which the logits belong, if training changed them (balanced sampling,
            weights, adjustment); None: the shares of the rows.
        fitted_on: name of the rows in documents.
    """
    counts = np.bincount(rows.label, minlength=len(names))
    seen, every_class = counts / counts.sum(), bool(counts.all())
    offset = offset_to(seen, trained, options.calibrator)
    about = {"positive": positive, "class_names": names, "offset": offset}
    fit = fit_calibrator(rows.logits, rows.label, rows.group, options.calibrator, **about)
    calibration, notes = fit.calibration, list(fit.notes)
    if offset.any():
        notes.append(
            f"class shares in training: {_shares(trained, names)}; in these photos: {_shares(seen, names)}; the "
            "logits are first adjusted for the difference"
        )
    if every_class and (line := _uninformative_line(calibration, rows, seen, names)):
        notes.append(line)

    weights = None
    if target is not None and every_class:
        held = trained if trained is not None and not offset.any() else seen
        calibration = dataclasses.replace(calibration, prior_bias=prior_bias(held, target))
        weights = importance_weights(rows.label, seen, target)
    elif target is not None:
        absent = ", ".join(names[k] for k in np.flatnonzero(counts == 0))
        notes.append(f"no photo shows {absent}, so the probabilities are not adjusted to target_prior")

    choice = None
    if len(names) == 2 and every_class:
        choice = _choose_threshold(calibration, rows, options.threshold_metric, weights)
        if line := unreachable_line(choice):
            notes.append(line)
    stays_half = _stays_half(choice, fit.n) if options.fold_threshold else None
    folded = options.fold_threshold and stays_half is None
    if folded:
        bias = fold_bias(choice.threshold, positive, len(names))
        calibration = dataclasses.replace(calibration, threshold=choice.threshold, threshold_bias=bias)
    elif stays_half:
        notes.append(stays_half)

    return CalibrationFile(
        fitted_on=fitted_on,
        calibrate_on=options.calibrate_on,
        kept=fit.kept,
        candidates=list(fit.candidates),
        n=fit.n,
        groups=fit.groups,
        nll_before=fit.nll_before,
        nll_after=fit.nll_after,
        ece_before=fit.ece_before,
        ece_after=fit.ece_after,
        prior=Prior(seen=seen.tolist(), target=None if weights is None else target.tolist()),
        threshold_choice=choice,
        folded=folded,
        notes=notes,
        guarantee=None,
        compared=None,
        options=dataclasses.asdict(options),
        **_plain(calibration),
    )


def _plain(calibration: Calibration) -> dict[str, Any]:
    """A calibration as JSON types; the keys are those of `calibration.json`."""
    per_class = ("temperature", "calibrator_bias", "prior_bias", "threshold_bias", "logit_bias")
    knots = calibration.isotonic
    return {
        "calibrator": calibration.calibrator,
        "positive": calibration.positive,
        "threshold": calibration.threshold,
        "isotonic": [[x.tolist(), y.tolist()] for x, y in knots] if knots else None,
        **{name: getattr(calibration, name).tolist() for name in per_class},
    }


def _choose_threshold(
    calibration: Calibration, rows: SavedLogits, metric: str, weights: np.ndarray | None
) -> ThresholdChoice:
    """The best threshold on these rows, and its gain on held-out groups."""
    scores = softmax(calibration.calibrated(rows.logits))[:, calibration.positive]
    judged = scores, rows.label == calibration.positive, rows.group, metric
    choice = threshold_curve(*judged, weights=weights)
    return choice.model_copy(update={"held_out": held_out_gain(*judged, weights=weights)})


def _stays_half(choice: ThresholdChoice | None, n: int) -> str | None:
    """Why the threshold stays at 0.5, in one line; None if the chosen threshold is used.

    A threshold with a constraint is used if it meets the constraint. Any other threshold is used if it beats 0.5 on
    held-out groups by more than one standard error.
    """
    least = CALIBRATORS["temperature"].least_rows
    if choice is None:
        return f"the threshold stays 0.5: all {n} photos have the same class, and a threshold needs both"
    if n < least:
        return f"the threshold stays 0.5: {n} photos are too few to choose another ({least} needed)"
    if not choice.reachable:
        return "the threshold stays 0.5"
    if choice.constraint is not None:
        return None
    best, held = f"the threshold stays 0.5: {choice.threshold:.3f} is best for {choice.metric}", choice.held_out
    if held is None:
        return f"{best}, but all photos are in one group, so it cannot be checked on held-out groups"
    if held.gain > held.gain_se:
        return None
    return (
        f"{best}, but on held-out groups thresholds chosen in this way have {choice.measures} {held.value:.3f} and "
        f"0.5 has {held.at_half:.3f}, a gain of {held.gain:+.3f} with a standard error of {held.gain_se:.3f}"
    )


def _uninformative_line(
    calibration: Calibration, rows: SavedLogits, shares: np.ndarray, names: Sequence[str]
) -> str | None:
    """A line if the probabilities do not beat the class shares as predictions by more than one standard error."""
    labels = rows.label
    numbers = group_numbers(rows.group, len(labels))
    gain, error = mean_and_error(-np.log(shares)[labels] - nll(calibration.calibrated(rows.logits), labels), numbers)
    if gain > error:
        return None
    return (
        f"the probabilities of the model predict the classes of these {len(labels)} photos no better than the class "
        f"shares do: check that the model means the same by {' and '.join(names)} as the labels do"
    )


def _shares(shares: np.ndarray, names: Sequence[str]) -> str:
    return ", ".join(f"{share:.1%} {name}" for share, name in zip(shares, names))


def guaranteed(
    calibration: Calibration,
    control: SavedLogits,
    options: DecisionOptions,
    names: Sequence[str],
    fitted_on: str,
    *,
    cascade: Cascade | None = None,
) -> Guarantee:
    """The guarantee that `decision.risk_control` proves on rows that nothing else has read, with its printed lines.

    Args:
        calibration, options, names: calibration, decision options and class names of the model.
        control: the rows; for a cascade with its composite logits.
        fitted_on: name of the rows in documents.
        cascade: a cascade whose exit was chosen on the same rows, which has used a part of delta.
    """
    from natix_hf.decision.cascade import LeftForRisk, left_for_risk
    from natix_hf.decision.risk_control import capacity_line, control_risk, guarantee_line

    positive, delta = calibration.positive, options.risk_delta
    left = left_for_risk(cascade.exit, delta) if cascade else LeftForRisk(delta, chosen_among=1)
    document = control_risk(
        softmax(calibration.calibrated(control.logits))[:, positive],
        control.label == positive,
        control.group,
        risk=options.risk,
        alpha=options.risk_alpha,
        delta=left.delta,
        chosen_among=left.chosen_among,
        prevalence=options.prevalence,
        threshold=calibration.threshold,
        fitted_on=fitted_on,
    )
    ordered = (names[1 - positive], names[positive])
    lines = [capacity_line(document, ordered), guarantee_line(document, ordered)]
    return document.model_copy(update={"lines": lines})


class Carried(NamedTuple):
    """The part of the calibration that is stored in the model: the arguments of its `set_calibration`."""

    temperature: list[float]
    logit_bias: list[float]
    isotonic: list[list[list[float]]] | None
    decision: DecisionRule
    views_exit: dict[str, Any] | None = None

    def entries(self) -> dict[str, Any]:
        """The entries for `config.json`, without `views_exit` if the model has no early exits."""
        entries = self._asdict()
        if self.views_exit is None:
            del entries["views_exit"]
        return entries


def carried(document: CalibrationFile, views: Sequence[str] = ()) -> Carried:
    """What a model with this calibration stores; `views` are the views whose averaged logits it was fitted on."""
    return Carried(
        temperature=document.temperature,
        logit_bias=document.logit_bias,
        isotonic=document.isotonic,
        decision={**decision_rule(document), **({"views": list(views)} if views else {})},
        views_exit=document.cascade and _views_exit(document.cascade, document.positive),
    )


def _views_exit(cascade: Cascade, positive: int) -> dict[str, Any]:
    """The part of a cascade that is stored in the model."""
    stages = [stage.plain() for stage in cascade.stages]
    return {
        "low": cascade.exit.low,
        "high": cascade.exit.high,
        "positive": positive,
        "stages": [{name: stage[name] for name in ("temperature", "bias", "isotonic")} for stage in stages],
    }


def _compared(fit: CalibrationFile, rows: Mapping[str, SavedLogits]) -> Compared:
    """A calibration in short, and its NLL on each set of rows."""
    choice, calibration = fit.threshold_choice, Calibration.from_document(fit)
    return Compared(
        calibrator=fit.calibrator,
        temperature=fit.temperature,
        threshold=choice and choice.threshold,
        nll_on={name: _nll(calibration, part) for name, part in rows.items()},
    )


def _nll(calibration: Calibration, rows: SavedLogits) -> float:
    """NLL in nats per row, with the calibrator only: the rows have their own class shares, not the expected ones."""
    own = dataclasses.replace(calibration, prior_bias=np.zeros_like(calibration.prior_bias))
    probabilities = softmax(own.calibrated(rows.logits))
    return float(-np.log(np.maximum(probabilities[np.arange(len(rows.label)), rows.label], 1e-300)).mean())


def _entries(used: list[tuple[str, str, int]], fingerprints: Mapping[str, str]) -> list[LedgerEntry]:
    """Ledger entries: which rows of `val_calib` were used for what."""
    return [
        LedgerEntry(
            step=step,
            role="policy",
            split="val_calib",
            part=part,
            rows=n,
            fingerprint=fingerprints[f"val_calib/{part}"],
            time=time.time(),
        )
        for step, part, n in used
    ]
