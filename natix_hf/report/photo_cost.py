"""Describes `photo_cost.json`, the cost of classifying one photo, as a sentence and as cells of a table."""

from __future__ import annotations

from natix_hf.documents.photo_cost import PhotoCost

HEADS = ("views", "pixels", "tokens", "GFLOP", "seconds")


def cost_cells(cost: PhotoCost | None) -> list[str]:
    """The cells under `HEADS`; dashes for a run of an older release, which has no such file."""
    if cost is None:
        return ["-"] * len(HEADS)
    pixels = f"{cost.height} x {cost.width}"
    return [str(cost.views), pixels, str(cost.tokens), f"{cost.flop / 1e9:.4g}", f"{cost.seconds:.3g}"]


def cost_line(cost: PhotoCost) -> str:
    """One line for commands, cards and pages."""
    views, pixels, tokens, gigaflop, seconds = cost_cells(cost)
    shown = f"{views} view{'s' if cost.views > 1 else ''} of {pixels} px"
    at_once = f"{cost.batch} photos at a time" if cost.batch > 1 else "one photo at a time"
    return (
        f"a photo costs {shown}, {tokens} tokens, {gigaflop} GFLOP and {seconds} s of the network alone "
        f"({cost.device}, {at_once})"
    )
