"""Formats `calibration.json` as lines of text, for the output of commands and for model cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from natix_hf.documents.calibration import CalibrationFile, Compared, ThresholdChoice
from natix_hf.documents.final_figures import FinalFigures

KEPT_NONE = "no calibrator, none predicted held-out groups clearly better"
LABELS = {"accuracy": "accuracy", "mcc": "MCC", "nll": "NLL", "ece": "ECE"}


def calibration_lines(
    calibration: CalibrationFile, names: Sequence[str] | None = None, *, guarantee: bool = True
) -> list[str]:
    """Calibrator, prior, threshold and guarantees, with the photos that they were computed from.

    Args:
        calibration: of a model.
        names: class names in the order of the ids; by default `class 0`, `class 1`, ...
        guarantee: whether to include the guarantees of abstention and of early exits.

    Returns:
        Lines without line ends.
    """
    lines = _calibrator(calibration)
    if calibration.sent:
        lines.append(f"  {calibration.calibrate_on} sent: {calibration.sent}")
    if calibration.compared:
        lines += _compared(calibration.compared)
    names = names or [f"class {k}" for k in range(len(calibration.logit_bias))]
    if calibration.prior.target:
        lines.append(_prior(calibration, names))
    if calibration.threshold_choice:
        lines.append(_threshold(calibration, calibration.threshold_choice))
    if guarantee and calibration.cascade:
        lines += calibration.cascade.lines
    if guarantee and calibration.guarantee:
        lines += calibration.guarantee.lines
    return lines + [f"note: {note}" for note in calibration.notes]


def shown_classes(positive: int, classes: int) -> Sequence[int]:
    """The classes whose shares are shown: of two classes only the positive one."""
    return [positive] if classes == 2 else range(classes)


def stage_lines(metrics: FinalFigures, positive: int) -> list[str]:
    """Figures with 95 % intervals after each step from logits to decisions, from `stages` of `metrics.json`.

    Args:
        metrics: of the run.
        positive: id of the positive class; of two classes, only its share is printed.
    """
    stages = metrics.stages
    if not stages:
        return []
    names, shares = list(metrics.labels), stages.shares
    shown = shown_classes(positive, len(names))
    mix = ", ".join(f"{names[k]} {shares[k]:.1%}" for k in shown)
    lines = [f"step by step on {metrics.split} ({stages.n} photos, {stages.groups} groups), figures for {mix}:"]
    for step in stages.steps:
        figures = ", ".join(
            f"{LABELS[name]} {ends.value:.3f} ({ends.low:.3f} to {ends.high:.3f})"
            for name, ends in step.figures.items()
            if name in LABELS
        )
        lines.append(f"  {step.step:<12}  {figures}")
    return lines


def _calibrator(calibration: CalibrationFile) -> list[str]:
    if calibration.options.get("calibrator") == ["none"]:
        return ["calibration: none requested"]
    start = f"calibration on {calibration.fitted_on} ({calibration.n} photos)"
    cross_validated = [candidate for candidate in calibration.candidates if candidate.cv_nll is not None]
    lines = []
    if cross_validated:
        figures = ", ".join(f"{candidate.calibrator} {candidate.cv_nll:.4f}" for candidate in cross_validated)
        lines = [f"NLL on held-out groups of {calibration.fitted_on}: {figures}: {calibration.calibrator} chosen"]
    if not calibration.kept:
        return [*lines, f"{start}: {KEPT_NONE}, NLL {calibration.nll_before:.4f}"]
    match calibration.calibrator:
        case "temperature":
            fitted = f"T = {calibration.temperature[0]:.3f}"
        case "vector":
            temperatures = _list(sorted(set(calibration.temperature)))
            fitted = f"vector, T = {temperatures}, bias = {_list(calibration.calibrator_bias)}"
        case "isotonic":
            fitted = f"isotonic, {len(calibration.isotonic[0][0])} knots"
        case other:
            fitted = other
    return [
        *lines,
        f"{start}: {fitted}, NLL {calibration.nll_before:.4f} -> {calibration.nll_after:.4f}, "
        f"ECE {calibration.ece_before:.4f} -> {calibration.ece_after:.4f}",
    ]


def _compared(compared: Mapping[str, Compared]) -> list[str]:
    lines = []
    for name, fit in compared.items():
        threshold = "-" if fit.threshold is None else f"{fit.threshold:.3f}"
        figures = ", ".join(f"{nll:.4f} on {rows}" for rows, nll in fit.nll_on.items())
        lines.append(
            f"  fitted on {name}: {fit.calibrator}, T = {_list(sorted(set(fit.temperature)))}, best threshold "
            f"{threshold}, NLL {figures}"
        )
    return lines


def _prior(calibration: CalibrationFile, names: Sequence[str]) -> str:
    prior = calibration.prior
    shown = shown_classes(calibration.positive, len(names))
    shares = ", ".join(f"{names[k]} {prior.seen[k]:.1%} -> {prior.target[k]:.1%}" for k in shown)
    estimate, source = prior.deployment, "target_prior"
    if estimate:
        ends = ", ".join(f"{estimate.low[k]:.1%} to {estimate.high[k]:.1%}" for k in shown)
        source = f"those estimated from {estimate.n} photos without labels (EM, 95 % interval {ends})"
    return (
        f"class shares of {calibration.fitted_on} ({calibration.n} photos) -> {source}: {shares}, "
        f"bias {_list(calibration.prior_bias)}"
    )


def _threshold(calibration: CalibrationFile, choice: ThresholdChoice) -> str:
    held_out = f" ({choice.held_out.value:.3f} on held-out groups)" if choice.held_out else ""
    used = (
        f"used, moved to 0.5 by a bias of {calibration.threshold_bias[calibration.positive]:+.3f}"
        if calibration.folded
        else "not used, decisions are at 0.5"
    )
    return (
        f"best threshold for {choice.metric}: {choice.threshold:.3f} (95 % interval {choice.low:.3f} to "
        f"{choice.high:.3f}; {choice.n} photos, {choice.groups} groups), {choice.measures} {choice.at_half:.3f} at "
        f"0.5 -> {choice.value:.3f} there{held_out}; {used}"
    )


def _list(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
