"""Draws the checks of the pretraining guard as charts."""

from __future__ import annotations

from collections.abc import Sequence

from natix_hf.documents.pretraining import Look
from natix_hf.report.charts import Axis, Chart


def guard_charts(looks: Sequence[Look], least_share: float) -> list[Chart]:
    """Effective rank, distance to the nearest neighbour, and similarity to the original model over the steps.

    Args:
        looks: checks in order; the first is that of the original model.
        least_share: share of the first rank below which a run is stopped.
    """
    steps = [look.step for look in looks]

    def curves(title: str, low: float, note: str, **values: tuple[str, Sequence[float | None]]) -> Chart:
        known = [value for _, of in values.values() for value in of if value is not None]
        chart = Chart(
            title,
            f"{title} over {steps[-1]} steps.",
            Axis("step", 0, steps[-1]),
            Axis(title.lower(), min([low, *known]), 1.05 * max(known)),
            note=note,
        )
        for name, (style, of) in values.items():
            chart.line(steps, of, style, name.replace("_", " "))
        return chart

    ranks, least = [look.rank for look in looks], least_share * looks[0].rank
    likeness = {
        "cosine": ("blue", [look.cosine for look in looks]),
        "CKA": ("orange", [look.cka for look in looks]),
        # Without a teacher there are no values, and no curve is drawn.
        "entropy_of_the_teacher": ("gray dash", [look.teacher_entropy for look in looks]),
    }
    return [
        curves(
            "Effective rank",
            0.0,
            f"The run stops if the rank falls below {least:.1f}, which is {least_share:g} of the first rank.",
            rank=("blue", ranks),
            limit=("gray dash thin", [least] * len(looks)),
        ),
        curves(
            "Distance to the nearest photo",
            0.0,
            "If photos move closer together, the model tells them apart less well.",
            distance=("blue", [look.neighbour_distance for look in looks]),
        ),
        curves("Similarity to the original model", 1.0, "1 means equal to the original model.", **likeness),
    ]
