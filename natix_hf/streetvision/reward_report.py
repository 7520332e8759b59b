"""Renders `reward.json` as lines of a command, as a section of page and card, and as a picture."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from natix_hf.documents.reward import Reward, RewardEntry
from natix_hf.report.figures import BLUE, GREY, ORANGE, new_figure, save_figure
from natix_hf.report.figures_robustness import WIDE, sent_lines
from natix_hf.report.robustness import sent_text
from natix_hf.report.sections import Cell, Section, figure_cell
from natix_hf.streetvision.reward import HALTED, SENT_LAST

# Of the score after a day: lower and upper quantile, percentage of days between them, line.
DAY_RANGES = (
    ("0.05", "0.95", 90, {"linewidth": 1.2}),
    ("0.25", "0.75", 50, {"linewidth": 5, "alpha": 0.5, "solid_capstyle": "butt"}),
)


def reward_lines(document: Reward) -> list[str]:
    """The lines that a command prints: one for each entry over all sources, then the field."""
    field, lines = document.field, []
    for entry in document.entries:
        if entry.source is not None:
            continue
        if entry.left_out is not None:
            lines.append(f"simulated reward, {entry.profile}: none, {entry.left_out}")
            continue
        reward, day = entry.reward, entry.day_score
        lines.append(
            f"simulated reward, {entry.profile}: {reward.value:.3f} "
            f"({reward.low:.3f} to {reward.high:.3f}; "
            f"{entry.n} predictions, {entry.groups} groups), score after a day {day['0.05']:.3f} to "
            f"{day['0.95']:.3f} (on 90 % of days), {entry.relative_pay.value:.2f} times the average pay, above "
            f"{entry.percentile.value:.0f} % of the field"
        )
    if lines:
        if sent := sent_text(document.entries):
            lines.append(f"  sent: {sent}")
        lines += [f"  {HALTED}", f"  {SENT_LAST}"]
        doubt = "" if field.confirmed else ", unconfirmed"
        lines.append(f"  field: {field.name} ({field.n} participants{doubt}), mean score {field.mean:.3f}")
    return lines


def reward_sections(document: Reward | None) -> list[Section]:
    """The section about the simulated reward by profile and source; empty if there is no `reward.json`."""
    if not document:
        return []
    field, sent = document.field, sent_text(document.entries)
    heads = ["profile", "source", "predictions", "mean reward", "score after a day", "times average pay"]
    return [
        Section(
            "reward",
            "Reward",
            "Simulated reward",
            f"The reward that the decisions at 0.5 would have earned on {document.split}, over {document.days} "
            f"simulated days with {document.challenges} photos (challenges) each, half of them "
            f"{document.positive_label}. "
            f"{100 * document.level:g}\u00a0% intervals come from {document.resamples} resamples of whole groups. The "
            f"range of the score covers 90\u00a0% of the days. This is a simulation: {HALTED}. What validators sent: "
            f"{SENT_LAST}.{f' How the photos were sent here: {sent}.' if sent else ''}",
            [*heads, "% of field below"],
            [_row(entry) for entry in document.entries],
            words=2,
            foot=f"Field: {field.name}, {field.n} participants, mean score {field.mean:.3f}"
            f"{'' if field.confirmed else '; the source of these scores is not confirmed'}.",
        )
    ]


def _row(entry: RewardEntry) -> list[Any]:
    predictions = Cell(entry.n, str(entry.n), f"{entry.groups} groups")
    row = [entry.profile, entry.source or "all", predictions]
    if entry.left_out is not None:
        return [*row, f"none: {entry.left_out}"]
    day, rank = entry.day_score, entry.percentile
    ends = f"{day['0.05']:.3f} to {day['0.95']:.3f}"
    return [
        *row,
        figure_cell(entry.reward),
        Cell(day["0.5"], f"{day['0.5']:.3f}", ends),
        figure_cell(entry.relative_pay),
        Cell(rank.value, f"{rank.value:.0f}", f"{rank.low:.0f} to {rank.high:.0f}"),
    ]


def reward_figure(document: Reward, path: str | Path) -> None:
    """Draw the running score over simulated days for each profile and source, with the field's quartiles.

    Args:
        document: the simulated rewards.
        path: the PNG to write; nothing is written if no entry has a reward.
    """
    entries = [entry for entry in document.entries if entry.left_out is None]
    if not entries:
        return
    field = document.field
    figure, (axes,) = new_figure(7.0, 1.8 + 0.42 * len(entries), 1)
    quartiles = [field.quantiles[q] for q in ("0.25", "0.5", "0.75")]
    doubt = "" if field.confirmed else ", unconfirmed"
    label = f"quartiles of the field ({field.name}{doubt})"
    axes.axvspan(quartiles[0], quartiles[2], color=GREY, alpha=0.18, linewidth=0, label=label)
    axes.axvline(quartiles[1], color=GREY, linestyle=":", linewidth=1.2)
    for place, entry in enumerate(entries):
        score, mean = entry.day_score, entry.reward
        first = place == 0
        for low, high, share, style in DAY_RANGES:
            label = f"score at the end of a day, {share} % of days" if first else None
            axes.plot([score[low], score[high]], [place, place], color=BLUE, label=label, **style)
        axes.errorbar(
            mean.value,
            place + 0.28,
            xerr=np.array([[mean.value - mean.low], [mean.high - mean.value]]),
            color=ORANGE,
            marker="o",
            markersize=4,
            linewidth=1.2,
            label=f"mean reward, {document.level * 100:g} % interval over groups" if first else None,
        )
    names = [_entry_name(entry) for entry in entries]
    axes.set_yticks(range(len(entries)), names, fontsize=8)
    axes.set(ylim=(len(entries) - 0.4, -0.6), xlim=(None, 1.005))
    days = f"{document.days} days of {document.challenges} challenges"
    lines = [f"simulated reward, equal classes, {days}", *textwrap.wrap(HALTED, WIDE), *sent_lines(entries)]
    axes.set_xlabel("\n".join(lines), fontsize=8)
    axes.legend(frameon=False, fontsize=7.5, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    save_figure(figure, path)


def _entry_name(entry: RewardEntry) -> str:
    source = "" if entry.source is None else f", {entry.source}"
    return f"{entry.profile}{source}\n{entry.n} predictions, {entry.groups} groups"
