"""Formats `comparison.json` as lines of text and as an HTML page."""

from __future__ import annotations

from functools import partial

from natix_hf.documents.comparison import BesideFirst, ComparedRun, Comparison, JudgedDifference
from natix_hf.report import photo_cost
from natix_hf.report.sections import difference_cell, figure_cell
from natix_hf.report.summary import LABELS, difference_text, figure_and_interval, sentence

SHOWN = ("mcc", "accuracy", "balanced_accuracy", "auroc", "log_loss", "ece", "macro_f1")
LISTED = 5  # most slices and photos in the lines of text
LOWER = "lower is better for log loss and ECE"


def comparison_lines(document: Comparison) -> list[str]:
    """The comparison as lines of text: figures of all runs, then the difference of each run from the first."""
    level = f"{100 * document.level:g} %"
    lines = [
        f"{document.split}: {document.n} photos in {document.groups} groups, {level} intervals from "
        f"{document.resamples} resamples of groups; {LOWER}"
    ]
    columns = [["metric", *(LABELS[name] for name in SHOWN), *_COST]]
    for run in document.runs:
        figures = [figure_and_interval(run.metrics[name]) for name in SHOWN]
        columns.append([run.name, *figures, *cost_cells(run)])
    lines += _table([list(row) for row in zip(*columns)])
    for run in document.beside_first:
        lines += ["", *_lines_of(document, run)]
    return [*lines, "", *document.notes]


def _lines_of(document: Comparison, run: BesideFirst) -> list[str]:
    """A run compared with the first one."""
    gaps = [(name, run.difference[name]) for name in SHOWN]
    lines = [f"{run.name} minus {document.first}:"]
    lines += _table([[LABELS[name], signed(gap), winner(document, run, gap)] for name, gap in gaps])
    lines += [f"  {line}" for line in sentences(document, run)]
    if large := [row for row in run.slices if not row.small]:
        lines.append(f"  by slice, balanced accuracy ({len(large)} slices without the small ones, worst first):")
        rows = []
        for row in large if len(large) <= LISTED else [*large[: LISTED - 1], large[-1]]:
            gap, photos = row.balanced_accuracy, f"{row.n} photos, {row.groups} groups"
            rows.append([f"{row.column} = {row.value}", signed(gap), winner(document, run, gap), photos])
        lines += _table(rows)
    if run.photos:
        ids = ", ".join(photo.id for photo in run.photos[:LISTED])
        lines.append(f"  decisions differ on {run.differ} photos, most on {ids}")
    return lines


_COST = ("method", "parameters", "trained parameters", "size", "training", "latency")
_COST += tuple(f"{head} per photo" for head in photo_cost.HEADS)


def cost_cells(run: ComparedRun) -> list[str]:
    """The cost of a run as texts in the order of `_COST`; a dash for an unknown value."""
    cost = run.cost

    def cell(value: float | None, pattern: str, scale: float = 1.0) -> str:
        return "-" if value is None else pattern.format(value / scale)

    return [
        cost.method or "-",
        cell(cost.parameters, "{:.2f} M", 1e6),
        cell(cost.trainable_parameters, "{:.3f} M", 1e6),
        cell(cost.megabytes, "{:.1f} MB"),
        cell(cost.training_seconds, "{:.0f} s"),
        cell(cost.latency_p50, "{:.3f} s"),
        *photo_cost.cost_cells(cost.photo),
    ]


def signed(gap: JudgedDifference) -> str:
    """A difference and its interval with explicit signs; a dash if the difference is undefined."""
    return "-" if gap.difference is None else difference_text(gap)


def winner(document: Comparison, run: BesideFirst, gap: JudgedDifference) -> str:
    """Text that names the better run, or says that there is no clear difference."""
    if gap.better is None:
        return "no clear difference"
    return f"{run.name if gap.better == 'this' else document.first} is better"


def sentences(document: Comparison, run: BesideFirst) -> list[str]:
    """Sentences on right and wrong decisions, McNemar's test, and agreement."""
    right, test, n = run.right, run.mcnemar, document.n
    kappa = "" if run.kappa is None else f", Cohen's kappa {run.kappa:.3f}"
    return [
        f"right: both on {right['both']} of {n} photos, only {document.first} on {right['only_first']}, "
        f"only {run.name} on {right['only_this']}, neither on {right['neither']}",
        f"McNemar's test: p = {_p(test.p_groups)} by groups (one run is ahead in {test.groups} of {document.groups} "
        f"groups), p = {_p(test.p)} by photos",
        f"the same decision on {100 * run.agreement:.1f} % of the photos{kappa}",
    ]


def comparison_html(document: Comparison, version: str = "") -> str:
    """The comparison as one self-contained HTML page.

    Args:
        version: of natix_hf.
    """
    from natix_hf.report.page import render

    return render(
        "comparison.html.jinja",
        document=document,
        level=f"{100 * document.level:g} %",
        counts=", ".join(f"{count} {name}" for name, count in list(document.labels.items())[:6]),
        lower=sentence(LOWER),
        heads={name: LABELS[name] for name in SHOWN},
        costs=_COST,
        figure_cell=figure_cell,
        cost_cells=cost_cells,
        gap_cell=difference_cell,
        winner=partial(winner, document),
        sentences=lambda run: [sentence(line) for line in sentences(document, run)],
        sentence=sentence,
        version=version,
    )


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
