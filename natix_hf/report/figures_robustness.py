"""Draws the figure of robustness: one panel per profile, titled with the dated name of the profile."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from natix_hf.documents.reward import RewardEntry
from natix_hf.documents.robustness import ProfileFigures, Robustness
from natix_hf.report.figures import BLUE, GREY, ORANGE, new_figure, save_figure
from natix_hf.report.robustness import case_text, sent_text

WIDE = 90  # letters per line below the figure


def robustness(document: Robustness, path: str | Path) -> None:
    """Draw MCC with intervals by level and by distortion, compared with the undistorted photos."""
    clean, profiles = document.clean["mcc"], document.profiles
    heights = [len(profile.cases) + 2 for profile in profiles]
    figure, panels = new_figure(7.0, 0.7 + 0.2 * sum(heights), 1, rows=len(profiles), height_ratios=heights)
    ends = [clean, *(case.metrics["mcc"] for profile in profiles for case in profile.cases)]
    known = [side for end in ends for side in (end.low, end.high) if side is not None] or [0.0, 1.0]
    margin = 0.03 * (max(known) - min(known)) + 0.002
    for axes, profile in zip(panels, profiles, strict=True):
        if clean.value is not None:
            axes.axvline(clean.value, color=GREY, linestyle=":", linewidth=1.2, label="original photos")
            axes.axvspan(clean.low, clean.high, color=GREY, alpha=0.12, linewidth=0)
        for place, case in enumerate(profile.cases):
            figures = case.metrics["mcc"]
            if figures.value is None:
                continue
            colour = BLUE if case.distortion is None else ORANGE
            axes.plot([figures.low, figures.high], [place, place], color=colour, linewidth=1.6)
            axes.plot(figures.value, place, "o" if case.level is None else "s", color=colour, markersize=5)
        axes.set_yticks(range(len(profile.cases)), [case_text(case) for case in profile.cases], fontsize=8)
        axes.set(ylim=(len(profile.cases) - 0.4, -0.6), xlim=(min(known) - margin, max(known) + margin))
        axes.set_title(profile.profile, fontsize=10, loc="left")
    panels[0].legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1))
    unit = f"MCC on {document.split} with {document.level * 100:g} % intervals"
    caption = [f"{unit} ({document.n} photos, {document.groups} groups)", *sent_lines(profiles)]
    panels[-1].set_xlabel("\n".join(caption), fontsize=8)
    save_figure(figure, path)


def sent_lines(profiles: Sequence[ProfileFigures | RewardEntry]) -> list[str]:
    """How the photos of the profiles were sent, as lines below a figure."""
    sent = sent_text(profiles)
    return textwrap.wrap(f"sent: {sent}", WIDE) if sent else []
