"""Draws the steps of a pipeline as an SVG: one box per step, top to bottom in the order of the data flow."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape
from pathlib import Path

from natix_hf.files import write_text
from natix_hf.runs.pipeline.plan import State

WIDTH, LEFT, BOX, GAP = 760, 20, 54, 26  # pixels
FRESH, DUE, PHOTOS = "#dfeee0", "#fbe3c0", "#5b7fa6"


def draw(states: Sequence[State], title: str, path: Path) -> None:
    """Write the picture.

    Args:
        states: the steps in order.
        title: name of the version.
        path: of the SVG file.
    """
    height = 60 + len(states) * (BOX + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="32" font-size="18" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (step, why) in enumerate(states):
        top = 50 + number * (BOX + GAP)
        if number:
            middle, above = LEFT + 110, top - GAP
            parts.append(
                f'<path d="M{middle} {above}V{top - 7}" stroke="#555" fill="none"/>'
                f'<path d="M{middle - 5} {top - 8}h10l-5 8z" fill="#555"/>'
            )
        edge = f'stroke="{PHOTOS}" stroke-width="2.5"' if step.photos else 'stroke="#999"'
        colour = FRESH if why is None else DUE
        parts.append(f'<rect x="{LEFT}" y="{top}" width="220" height="{BOX}" rx="6" fill="{colour}" {edge}/>')
        state = "up to date" if why is None else textwrap.shorten(why, 68, placeholder=" ...")
        for x, y, size, text in (
            (LEFT + 12, top + 24, 16, step.name),
            (LEFT + 12, top + 43, 11, "reads photos" if step.photos else "reads files"),
            (LEFT + 236, top + 22, 13, textwrap.shorten(step.does, 72, placeholder=" ...")),
            (LEFT + 236, top + 42, 13, state),
        ):
            weight = ' font-weight="bold"' if size == 16 else ""
            parts.append(f'<text x="{x}" y="{y}" font-size="{size}"{weight}>{escape(text)}</text>')
    write_text(path, "\n".join([*parts, "</svg>", ""]))
