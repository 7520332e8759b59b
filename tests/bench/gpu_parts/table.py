"""The rows of `gpu.py` in Markdown. It knows nothing of how a figure is measured."""

from __future__ import annotations

from typing import Any

HEADER = ["| line | figure | target | before | how |", "|---|---|---|---|---|"]


def shown(line: dict[str, Any] | None) -> str:
    """A figure with its unit; `-` where there is none."""
    if line is None or line["value"] is None:
        return "-"
    value = line["value"]
    digits = f"{value:.2f}" if value == 0 or abs(value) >= 0.01 else f"{value:.0e}"
    return f"{digits} {line['unit']}".strip()


def missed(line: dict[str, Any]) -> bool:
    """Whether a figure is on the wrong side of its target, `<= NUMBER` or `>= NUMBER`."""
    if line["value"] is None or not line["target"]:
        return False
    sign, number = line["target"].split()
    return line["value"] > float(number) if sign == "<=" else line["value"] < float(number)


def rows_of_part(name: str, part: dict[str, Any], before: dict[str, Any] | None) -> list[str]:
    """The rows of one part.

    Args:
        part: its status, its lines, and its fault where it failed or was not run.
        before: the same of an earlier run.
    """
    old = {line["what"]: line for line in (before or {}).get("lines", [])}
    rows = []
    for line in part.get("lines", []):
        target = line["target"] + ", missed" * missed(line)
        rows.append([line["what"], shown(line), target, shown(old.get(line["what"])), line["how"]])
    if "fault" in part:
        rows.append([name, f"{part['status']}: {part['fault']}", "", "", ""])
    return ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
