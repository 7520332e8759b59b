"""The lines that `natix_hf.predict` prints about the predictions that it has written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from natix_hf.decision.calibration import DecisionRule
from natix_hf.inference.classify import Written, leave_early, left_early_line, missing_line

SHOWN = 20  # unreadable photos that are named


def prediction_lines(
    written: Written, output: Path, model: Any, labels: Sequence[str], rule: DecisionRule | None
) -> list[str]:
    """Lines on decisions that are not simply the largest probability, and on photos that clients see differently.

    Args:
        written: counts of the predictions in `output`.
        model: the model that predicted.
        labels: its classes in the order of their ids.
        rule: its decision rule, if it has one.
    """
    lines = [missing_line(output, labels)]
    if leave_early(model) and written.good:
        lines.append(left_early_line(model, written))
    if rule and any(rule["threshold_bias"]):
        lines.append(
            f"{written.differing} photos decided differently from the larger probability: threshold "
            f"{rule['threshold']:.3g} on {labels[rule['positive']]}"
        )
    if rule and rule["abstain_band"]:
        low, high = rule["abstain_band"]
        lines.append(
            f"{written.asking} photos for a person to decide: probability of {labels[rule['positive']]} between "
            f"{low:.3g} and {high:.3g}"
        )
    lines += [f"photos: {note}" for note in written.client.notes()]
    return [line for line in lines if line]


def unread_lines(written: Written, output: Path) -> list[str]:
    """Lines on photos that could not be read."""
    lines = [
        f"not read: {reason if name in reason else f'{name}: {reason}'}" for name, reason in written.broken[:SHOWN]
    ]
    if written.broken:
        lines.append(f"{len(written.broken)} photos could not be read; they are listed in {output} with the reason")
    return lines
