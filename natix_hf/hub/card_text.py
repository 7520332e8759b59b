"""Text helpers that the model card and the dataset card share: templates, titles, tables and table cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from natix_hf.report.sections import Cell, Section


def template(name: str) -> str:
    """The text of a template, from the installed package or from the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed, in_checkout = package / "hub_cards" / name, package.parent / "hub_cards" / name
    return (installed if installed.exists() else in_checkout).read_text(encoding="utf-8")


def title(classes: Sequence[str]) -> str:
    """The heading of a card for these classes."""
    shown = " / ".join(classes) if len(classes) <= 4 else f"{len(classes)} classes"
    return f"Street photos: {shown}"


def cell(value: Any) -> str:
    """A value as text that cannot break a Markdown table."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def counts_text(counts: Mapping[str, int]) -> str:
    """`120 None, 80 Roadwork`."""
    return ", ".join(f"{count} {cell(name)}" for name, count in counts.items())


def section_table(section: Section) -> str:
    """The table of a section as Markdown: intervals in brackets after their figures, short rows filled with dashes."""
    width, rows = len(section.heads), []
    for row in section.rows:
        texts = [cell(value) if isinstance(value, str) else _figure(value) for value in row]
        rows.append(texts if len(row) == width else [*texts[:-1], *["-"] * (width - len(row) + 1)])
    head, *body = [f"| {' | '.join(line)} |" for line in (list(map(cell, section.heads)), *rows)]
    return "\n".join([head, f"|{'---|' * width}", *body])


def _figure(figure: Cell) -> str:
    interval = "" if figure.interval in ("", "-") else f" ({figure.interval})"
    tag = f" ({figure.tag})" if figure.tag else ""
    return f"{cell(figure.value)}{interval}{tag}"
