"""The pictures of robustness and of the simulated reward; every profile is named with its date."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from natix_hf.documents.reward import Reward, RewardEntry
from natix_hf.documents.robustness import Case, ProfileFigures, Robustness
from natix_hf.report.figures import BLUE, GREY, ORANGE, new_figure, save_figure
from natix_hf.report.reward import HALTED
from natix_hf.report.robustness import sent_text

WIDE = 90  # letters of a line below a picture


def robustness(document: Robustness, path: str | Path, metric: str = "mcc") -> None:
    """A metric by challenge level and by distortion, with intervals, beside the photos as they are.

    Args:
        path: the PNG to write.
        metric: a name of `report.metrics.METRICS`.
    """
    clean, name = document.clean[metric], metric.replace("_", " ") if "_" in metric else metric.upper()
    profiles = document.profiles
    heights = [len(profile.cases) + 2 for profile in profiles]
    figure, panels = new_figure(7.0, 0.7 + 0.2 * sum(heights), 1, rows=len(profiles), height_ratios=heights)
    ends = [clean, *(case.metrics[metric] for profile in profiles for case in profile.cases)]
    known = [side for end in ends for side in (end.low, end.high) if side is not None] or [0.0, 1.0]
    margin = 0.03 * (max(known) - min(known)) + 0.002
    for axes, profile in zip(panels, profiles, strict=True):
        if clean.value is not None:
            axes.axvline(clean.value, color=GREY, linestyle=":", linewidth=1.2, label="photos as they are")
            axes.axvspan(clean.low, clean.high, color=GREY, alpha=0.12, linewidth=0)
        for place, case in enumerate(profile.cases):
            figures = case.metrics[metric]
            if figures.value is None:
                continue
            colour = BLUE if case.distortion is None else ORANGE
            axes.plot([figures.low, figures.high], [place, place], color=colour, linewidth=1.6)
            axes.plot(figures.value, place, "o" if case.level is None else "s", color=colour, markersize=5)
        axes.set_yticks(range(len(profile.cases)), [_case_name(case) for case in profile.cases], fontsize=8)
        axes.set(ylim=(len(profile.cases) - 0.4, -0.6), xlim=(min(known) - margin, max(known) + margin))
        axes.set_title(profile.profile, fontsize=10, loc="left")
    panels[0].legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1))
    unit = f"{name} on {document.split} with {document.level * 100:g} % intervals"
    told = [f"{unit} ({document.n} photos, {document.groups} groups)", *_sent(profiles)]
    panels[-1].set_xlabel("\n".join(told), fontsize=8)
    save_figure(figure, path)


def _sent(profiles: Sequence[ProfileFigures | RewardEntry]) -> list[str]:
    """How the photos of the profiles were sent, as lines below a picture."""
    sent = sent_text(profiles)
    return textwrap.wrap(f"sent: {sent}", WIDE) if sent else []


def _case_name(case: Case) -> str:
    if case.distortion is not None:
        return f"{case.distortion}, severity {case.severity}"
    return "all levels" if case.level is None else f"level {case.level}"


def reward(document: Reward, path: str | Path) -> None:
    """The running score over simulated days for each profile and source, beside the field's quartiles.

    Args:
        path: the PNG to write; nothing is written where no entry has a reward.
    """
    entries = [entry for entry in document.entries if entry.left_out is None]
    if not entries:
        return
    field = document.field
    figure, (axes,) = new_figure(7.0, 1.8 + 0.42 * len(entries), 1)
    quartiles = [field.quantiles[q] for q in ("0.25", "0.5", "0.75")]
    doubt = "" if field.confirmed else ", unconfirmed"
    label = f"field's middle half and median ({field.name}{doubt})"
    axes.axvspan(quartiles[0], quartiles[2], color=GREY, alpha=0.18, linewidth=0, label=label)
    axes.axvline(quartiles[1], color=GREY, linestyle=":", linewidth=1.2)
    for place, entry in enumerate(entries):
        score, mean = entry.day_score, entry.reward
        first = place == 0
        axes.plot(
            [score["0.05"], score["0.95"]],
            [place, place],
            color=BLUE,
            linewidth=1.2,
            label="score at the end of a day, nine days in ten" if first else None,
        )
        axes.plot(
            [score["0.25"], score["0.75"]],
            [place, place],
            color=BLUE,
            linewidth=5,
            alpha=0.5,
            solid_capstyle="butt",
            label="the same, one day in two" if first else None,
        )
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
    told = [f"simulated reward, equal classes, {days}", *textwrap.wrap(HALTED, WIDE), *_sent(entries)]
    axes.set_xlabel("\n".join(told), fontsize=8)
    axes.legend(frameon=False, fontsize=7.5, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    save_figure(figure, path)


def _entry_name(entry: RewardEntry) -> str:
    source = "" if entry.source is None else f", {entry.source}"
    return f"{entry.profile}{source}\n{entry.n} predictions, {entry.groups} groups"
