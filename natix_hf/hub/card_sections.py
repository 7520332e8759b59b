"""What a card says of decisions, settings and pictures.

No figure comes without its interval and the photos behind it. The lines that a command prints about the rows of a fit
have figures without intervals, so the card has sentences of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from natix_hf.decision.calibrators import CALIBRATORS
from natix_hf.documents.calibration import CalibrationFile, ThresholdChoice
from natix_hf.documents.reward import Reward
from natix_hf.documents.run_record import Prefix
from natix_hf.hub.card_text import cell
from natix_hf.hub.privacy import Names, shown_reward
from natix_hf.report.summary import sentence

# Pictures that show neither photos nor places: file in figures/ -> what it shows.
FIGURES = {
    "reliability": "share of right decisions against confidence, before and after calibration",
    "confusion": "labels against decisions",
    "threshold": "the chosen measure against the threshold, on the photos that it was fitted on",
    "ranking": "ROC and precision-recall curves",
    "risk_coverage": "share of mistakes among the photos that are answered",
    "cost": "share of wrong answers against the cost of a photo",
    "robustness": "figures under challenge profiles",
    "reward": "simulated score over days",
    "probe": "the heads that were tried, on val_select",
    "curriculum": "which photos each epoch drew from",
    "training": "loss and figures over training",
}


def decision_lines(calibration: CalibrationFile | None, names: Sequence[str]) -> list[str]:
    """Calibrator, class shares, threshold and guarantee in sentences.

    Args:
        calibration: of the run; None: it has none.
        names: the classes in the order of their ids.
    """
    if calibration is None:
        return ["Not calibrated."]
    rows = _rows_text(calibration)
    if calibration.options["calibrator"] == ["none"]:
        lines = ["Calibrator: none was asked for."]
    elif not calibration.kept:
        lines = [f"Calibrator: none; nothing fitted on {rows} predicted held-out groups clearly better."]
    else:
        told = CALIBRATORS[calibration.calibrator].told
        if calibration.calibrator == "temperature":
            told += f", T = {calibration.temperature[0]:.3f}"
        lines = [f"Calibrator: {told}, fitted on {rows}."]
    lines += _prior_lines(calibration, names, rows)
    if calibration.threshold_choice:
        lines.append(_threshold_line(calibration, calibration.threshold_choice, names[calibration.positive]))
    if calibration.cascade:
        lines += [sentence(line) for line in calibration.cascade.lines]
    if calibration.guarantee:
        lines += [sentence(line) for line in calibration.guarantee.lines]
    return lines + [f"Note: {note}." for note in calibration.notes]


def _rows_text(calibration: CalibrationFile) -> str:
    sent = f" (sent: {calibration.sent})" if calibration.sent else ""
    return f"{calibration.n} photos in {calibration.groups} groups of `{calibration.fitted_on}`{sent}"


def _prior_lines(calibration: CalibrationFile, names: Sequence[str], rows: str) -> list[str]:
    prior = calibration.prior
    shown = [calibration.positive] if len(names) == 2 else range(len(names))
    if prior.target:
        shares = ", ".join(f"{cell(names[k])} {prior.seen[k]:.1%} -> {prior.target[k]:.1%}" for k in shown)
        return [f"Class shares: moved from those of {rows} to those expected in use: {shares}."]
    shares = ", ".join(f"{cell(names[k])} {prior.seen[k]:.1%}" for k in shown)
    return [f"Class shares: those of {rows} ({shares}). Where others are met, set `target_prior` and calibrate again."]


def _threshold_line(calibration: CalibrationFile, choice: ThresholdChoice, positive: str) -> str:
    used = (
        "It is folded into the model, which decides by it at 0.5; its scores are then no longer the probabilities "
        "themselves."
        if calibration.folded
        else "It is not used: decisions are at 0.5."
    )
    ends = f", where that is {choice.value:.3f} ({choice.value_low:.3f} to {choice.value_high:.3f})"
    return (
        f"Threshold on the probability of {cell(positive)} that is best for {choice.metric}: "
        f"{choice.threshold:.3f} (95 % interval {choice.low:.3f} to {choice.high:.3f}; {choice.n} photos, "
        f"{choice.groups} groups){ends}. {used}"
    )


def pictures(run: Path, reward: Reward | None, names: Names) -> list[tuple[str, str]]:
    """Paths within the repository, and what they show, of the run's pictures that may be published.

    Args:
        run: its folder.
        reward: what was measured of rewards, whose picture bears the names of sources.
        names: what must not be read on them.
    """
    found = [(f"figures/{name}.png", told) for name, told in FIGURES.items()]
    found = [(path, told) for path, told in found if (run / path).is_file()]
    if reward is not None and shown_reward(reward, names) != reward:
        found = [one for one in found if one[0] != "figures/reward.png"]
    return found


def prefix_settings(prefix: Prefix | None) -> list[tuple[str, str]]:
    """The row of the settings about the activations that training began from; none where none were kept.

    Args:
        prefix: that of `run.json`.
    """
    if prefix is None:
        return []
    told = f"below the last {prefix.blocks} blocks, {prefix.views} view(s) a photo, {prefix.precision}"
    if prefix.drift is not None:
        told += f", which moves features by {prefix.drift:.2%} of their spread"
    return [("prefix_cache_gb", told)]
