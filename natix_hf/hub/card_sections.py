"""The parts of a model card about decisions, settings and pictures.

Every figure on a card has its interval and its number of photos. The lines that a command prints about a fit have
figures without intervals, so the card uses the sentences in this module instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from natix_hf.decision.calibrators import CALIBRATORS
from natix_hf.documents.calibration import CalibrationFile, ThresholdChoice
from natix_hf.documents.quantised import Quantised
from natix_hf.documents.reward import Reward
from natix_hf.documents.run_record import Prefix
from natix_hf.hub.card_text import cell
from natix_hf.hub.privacy import Names, shown_reward
from natix_hf.report.decision_lines import shown_classes
from natix_hf.report.sections import STAGES, Cell, Section, count_cell, figure_cell
from natix_hf.report.summary import sentence

# Pictures without photos or places: file in figures/ -> caption.
FIGURES = {
    "reliability": "share of right decisions against confidence, before and after calibration",
    "confusion": "confusion matrix: labels against decisions",
    "threshold": "the chosen metric against the threshold, on the photos that the threshold was fitted on",
    "ranking": "photos found and false alarms (ROC), and precision against recall",
    "risk_coverage": "share of wrong decisions if the model decides only the photos that it is most certain about",
    "cost": "error rate against the cost per photo",
    "robustness": "figures on photos that were changed, for example compressed or cropped",
    "reward": "simulated score over days",
    "probe": "comparison of the heads on val_select",
    "curriculum": "photos used in each epoch",
    "training": "loss and metrics during training",
}

INT8_LABELS = STAGES | {"precision": "precision", "recall": "recall", "fpr": "false-positive rate"}


def decision_lines(calibration: CalibrationFile | None, names: Sequence[str]) -> list[str]:
    """Sentences about calibrator, class shares, threshold and guarantee.

    Args:
        calibration: the run's calibration, or None.
        names: class names in the order of their ids.
    """
    if calibration is None:
        return ["Not calibrated."]
    rows = _rows_text(calibration)
    if calibration.options["calibrator"] == ["none"]:
        lines = ["Calibrator: none was requested."]
    elif not calibration.kept:
        lines = [f"Calibrator: none; no calibrator fitted on {rows} predicted held-out groups clearly better."]
    else:
        calibrator = CALIBRATORS[calibration.calibrator].description
        if calibration.calibrator == "temperature":
            calibrator += f", T = {calibration.temperature[0]:.3f}"
        lines = [f"Calibrator: {calibrator}, fitted on {rows}."]
    lines += _prior_lines(calibration, names, rows)
    if calibration.threshold_choice:
        lines.append(_threshold_line(calibration, calibration.threshold_choice, names[calibration.positive]))
    if calibration.cascade:
        lines += [sentence(line) for line in calibration.cascade.lines]
    if calibration.guarantee:
        lines += [sentence(line) for line in calibration.guarantee.lines]
    return lines + [f"Note: {note}." for note in calibration.notes]


def int8_section(quantised: Quantised) -> Section:
    """What int8 changed, on photos that neither the run's calibration nor the graph's was fitted on."""
    decisions, figures, guarantee = quantised.decisions, quantised.figures, quantised.guarantee_before
    rows = []
    for name, change in figures.difference.items():
        moved = Cell(change.value, f"{change.value:+.4f}", f"{change.low:+.4f} to {change.high:+.4f}")
        sides = [figure_cell(side[name]) for side in (figures.before, figures.after)]
        rows.append([INT8_LABELS[name], *sides, moved, count_cell(figures.n)])
    return Section(
        "int8",
        "int8",
        "What int8 changed",
        f"Of the {decisions.n} photos ({decisions.groups} groups) of `{decisions.on}`, {decisions.changed} get "
        f"another decision from the graph than from the run in fp32: {decisions.share:.1%}, 95 % interval "
        f"{decisions.low:.1%} to {decisions.high:.1%}; the export allowed {decisions.bound:.1%}. The table compares "
        f"both on the {figures.n} photos ({figures.groups} groups) of `{figures.on}`, each with its own calibration:",
        ["metric", "run in fp32", "graph in int8", "change", "photos"],
        rows,
        foot="" if guarantee is None else f"Guarantee of the run in fp32: {sentence(guarantee.lines[-1])}",
    )


def _rows_text(calibration: CalibrationFile) -> str:
    sent = f" (sent: {calibration.sent})" if calibration.sent else ""
    return f"{calibration.n} photos in {calibration.groups} groups of `{calibration.fitted_on}`{sent}"


def _prior_lines(calibration: CalibrationFile, names: Sequence[str], rows: str) -> list[str]:
    prior = calibration.prior
    shown = shown_classes(calibration.positive, len(names))
    if prior.target:
        shares = ", ".join(f"{cell(names[k])} {prior.seen[k]:.1%} -> {prior.target[k]:.1%}" for k in shown)
        return [f"Class shares: adjusted from those of {rows} to those expected in use: {shares}."]
    shares = ", ".join(f"{cell(names[k])} {prior.seen[k]:.1%}" for k in shown)
    return [f"Class shares: those of {rows} ({shares}). If yours differ, set `target_prior` and calibrate again."]


def _threshold_line(calibration: CalibrationFile, choice: ThresholdChoice, positive: str) -> str:
    use = (
        "It is folded into the model, which therefore decides at 0.5; the scores are no longer calibrated "
        "probabilities."
        if calibration.folded
        else "It is not used: the model decides at 0.5."
    )
    value = f"{choice.value:.3f} ({choice.value_low:.3f} to {choice.value_high:.3f})"
    return (
        f"Best threshold on the probability of {cell(positive)} by {choice.metric}: {choice.threshold:.3f} "
        f"(95 % interval {choice.low:.3f} to {choice.high:.3f}; {choice.n} photos, {choice.groups} groups). "
        f"At this threshold {choice.metric} is {value}. {use}"
    )


def pictures(run: Path, reward: Reward | None, names: Names) -> list[tuple[str, str]]:
    """`(path within the repository, caption)` of the run's pictures that may be published.

    Args:
        run: the run folder.
        reward: the run's rewards, or None. Their picture shows the names of sources.
        names: names that no published picture may show.
    """
    captions = {f"figures/{name}.png": caption for name, caption in FIGURES.items()}
    if reward is not None and shown_reward(reward, names) != reward:
        del captions["figures/reward.png"]
    return [(path, caption) for path, caption in captions.items() if (run / path).is_file()]


def prefix_settings(prefix: Prefix | None) -> list[tuple[str, str]]:
    """The settings row about cached activations; empty if training used none.

    Args:
        prefix: `prefix` of `run.json`.
    """
    if prefix is None:
        return []
    text = f"cached below the last {prefix.blocks} blocks, {prefix.views} view(s) per photo, {prefix.precision}"
    if prefix.drift is not None:
        text += f" (rounding changes features by {prefix.drift:.2%} of their spread)"
    return [("prefix_cache_gb", text)]
