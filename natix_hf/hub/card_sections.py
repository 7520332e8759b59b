"""The parts of a card that a run may have or not: decisions, robustness, slices, probe, pictures, what is handed in.

Each is made of a document of the run; no figure comes without its interval and the photos behind it. Lines that a
command prints about the rows of a fit give figures without intervals: the card takes them from the test rows instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from natix_hf.decision.calibrators import CALIBRATORS
from natix_hf.documents.calibration import CalibrationFile, ThresholdChoice
from natix_hf.documents.figures import Difference, Interval
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.probe import OverProbe
from natix_hf.documents.reward import Reward
from natix_hf.documents.robustness import Robustness
from natix_hf.documents.run_record import Prefix
from natix_hf.documents.selective import Selective
from natix_hf.documents.slices import Slices
from natix_hf.hub.card_text import cell
from natix_hf.hub.privacy import Names, shown_reward
from natix_hf.report.charts import Table
from natix_hf.report.page_sections import ExtraSection
from natix_hf.report.page_tables import Cell, band_table, cascade_table, robustness_table, slices_table
from natix_hf.report.summary import LABELS, figure_text, interval_text

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
WORST, SHOWN = 8, 3  # slices of the table, and figures of each
STAGES = {"accuracy": "accuracy", "mcc": "MCC", "nll": "NLL", "brier": "Brier score", "ece": "ECE"}


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
        lines += [f"{line[0].upper()}{line[1:]}." for line in calibration.cascade.lines]
    if calibration.guarantee:
        lines += [f"{line[0].upper()}{line[1:]}." for line in calibration.guarantee.lines]
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


class Section(NamedTuple):
    """A part of a card: a sentence, a table, and what stands below it."""

    text: str
    table: Table
    title: str = ""
    foot: str = ""


def stages_section(metrics: FinalFigures, positive: int) -> Section | None:
    """Figures before and after calibrator, prior and threshold; None where the run has none."""
    stages = metrics.stages
    if not stages:
        return None
    names, shares = list(metrics.labels), stages.shares
    shown = [positive] if len(names) == 2 else range(len(names))
    found = [name for name in STAGES if name in stages.steps[0].figures]
    rows = [
        [step.step, *(_with_interval(step.figures[name]) for name in found), str(stages.n)] for step in stages.steps
    ]
    return Section(
        text=f"On the {stages.n} photos ({stages.groups} groups) of `{metrics.split}`, at class shares of "
        f"{', '.join(f'{shares[k]:.1%} {cell(names[k])}' for k in shown)}:",
        table=Table(["after", *(STAGES[name] for name in found), "photos"], rows),
    )


def band_section(selective: Selective | None) -> Table | None:
    """What the band of a guarantee gives on the test rows."""
    return band_table(selective) if selective else None


def cascade_section(selective: Selective | None) -> Table | None:
    """What a cascade loses and costs on the test rows."""
    return cascade_table(selective) if selective else None


def robustness_section(document: Robustness | None) -> Section | None:
    """The photos as each challenge profile sends them; distortions one by one stand in `robustness.json` alone."""
    if not document:
        return None
    whole = [
        profile.model_copy(update={"cases": [case for case in profile.cases if case.distortion is None]})
        for profile in document.profiles
    ]
    found = robustness_table(document.model_copy(update={"profiles": whole}))
    rows = [[row.profile, row.what, *map(_cell, row.cells), str(row.n)] for row in found.rows]
    table = Table(["profile", "what is done", *found.heads, "predictions"], rows)
    return Section(_plain(found.text), table, foot=_plain(found.latency or ""))


def slices_section(document: Slices | None) -> Section | None:
    """The kinds of photos on which the model is worst beside the rest, small ones left out."""
    if not document:
        return None
    found = slices_table(document)
    rows = [
        [
            cell(row.column),
            cell(row.value) + (" (stands out)" if row.stands_out else ""),
            *map(_cell, row.cells[:SHOWN]),
            str(row.n),
            str(row.groups),
        ]
        for row in found.rows
        if not row.small
    ]
    heads = ["column", "kind", *found.heads[:SHOWN], "photos", "groups"]
    return Section(_plain(found.text), Table(heads, rows[:WORST]))


def probe_section(found: OverProbe | None) -> Section | None:
    """What fine-tuning added over the probe that it started from."""
    if not found:
        return None
    rows = [
        [
            LABELS.get(name, name),
            _with_interval(one.probe),
            _with_interval(one.tuned),
            _signed(one.difference),
            str(found.n),
        ]
        for name, one in found.metrics.items()
    ]
    return Section(
        text=f"Tuned minus probe on the same {found.n} photos ({found.groups} groups) of "
        f"`{found.split}`, 95 % intervals from resamples of whole groups:",
        table=Table(["metric", "probe", "tuned", "difference", "photos"], rows),
    )


def extra_section(section: ExtraSection) -> Section:
    """A section that was made elsewhere; why a row is too short stands in the page and in the document alone."""
    rows, width = [], len(section.heads)
    for row in section.rows:
        told = row if len(row) == width else [*row[:-1], *["-"] * (width - len(row) + 1)]
        rows.append([cell(one) if isinstance(one, str) else _cell(one) for one in told])
    return Section(_plain(section.text), Table(section.heads, rows), section.title, _plain(section.foot))


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


def _cell(found: Cell) -> str:
    ends = "" if found.interval in ("", "-") else f" ({found.interval})"
    return f"{found.value}{ends}"


def _with_interval(found: Interval) -> str:
    return f"{figure_text(found.value)} ({interval_text(found)})"


def _signed(change: Difference) -> str:
    ends = (change.difference, change.low, change.high)
    value, low, high = ("-" if end is None else f"{end:+.3f}" for end in ends)
    return f"{value} ({low} to {high})"


def _plain(text: str) -> str:
    return text.replace("\u00a0", " ")


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
