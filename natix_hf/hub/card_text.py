"""Small pieces of text that cards are made of: names that may stand in public, cells of tables, titles, templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from natix_hf.report.sections import Cell, Section


def template(name: str) -> str:
    """A template's text, from inside the installed package or from beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside, beside = package / "hub_cards" / name, package.parent / "hub_cards" / name
    return (inside if inside.exists() else beside).read_text(encoding="utf-8")


def title(classes: Sequence[str]) -> str:
    """The heading of a card on photos of these classes."""
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
    """The table of a section as Markdown: a figure with its interval in brackets, a dash where a row is too short."""
    width, rows = len(section.heads), []
    for row in section.rows:
        texts = [cell(one) if isinstance(one, str) else _figure(one) for one in row]
        rows.append(texts if len(row) == width else [*texts[:-1], *["-"] * (width - len(row) + 1)])
    head, *body = [f"| {' | '.join(line)} |" for line in (list(map(cell, section.heads)), *rows)]
    return "\n".join([head, f"|{'---|' * width}", *body])


def _figure(found: Cell) -> str:
    ends = "" if found.interval in ("", "-") else f" ({found.interval})"
    tag = f" ({found.tag})" if found.tag else ""
    return f"{cell(found.value)}{ends}{tag}"
