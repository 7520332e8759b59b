"""The looks of pretraining's guard as curves. Knows documents only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from natix_hf.documents.pretraining import Look
from natix_hf.report.figures import BLUE, GREY, ORANGE, new_figure, save_figure


def guard_curves(looks: Sequence[Look], path: str | Path, least_share: float) -> None:
    """Rank, distance to the nearest neighbour, and likeness to the original over the steps.

    Args:
        looks: the original's first.
        least_share: of the first rank, below which a run is ended.
    """
    steps = [look.step for look in looks]
    figure, (rank, near, drift) = new_figure(12.0, 3.4, 3)
    rank.plot(steps, [look.rank for look in looks], color=BLUE, marker="o", markersize=3)
    rank.axhline(least_share * looks[0].rank, color=GREY, linestyle="--", linewidth=1)
    rank.set(xlabel="step", ylabel="effective rank", ylim=(0, None))
    near.plot(steps, [look.neighbour_distance for look in looks], color=BLUE, marker="o", markersize=3)
    near.set(xlabel="step", ylabel="distance to the nearest", ylim=(0, None))
    drift.plot(steps, [look.cosine for look in looks], color=BLUE, marker="o", markersize=3, label="cosine")
    drift.plot(steps, [look.cka for look in looks], color=ORANGE, marker="s", markersize=3, label="CKA")
    drift.set(xlabel="step", ylabel="likeness to the original")
    entropy = [(look.step, look.teacher_entropy) for look in looks if look.teacher_entropy is not None]
    if entropy:
        drift.plot(*zip(*entropy), color=GREY, linestyle=":", label="entropy of the teacher")
    drift.legend(frameon=False)
    save_figure(figure, path)
