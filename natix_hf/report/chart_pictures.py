"""Draws charts as PNG for the card and for `figures/`, with the same shapes as on the page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import Circle, Polygon, Rectangle

from natix_hf.report.charts import Chart
from natix_hf.report.figures import BLUE, GREY, ORANGE, new_figure, save_figure

COLOURS = {"blue": BLUE, "orange": ORANGE, "gray": GREY, "good": "#17764a"}
INK, SOFT, GRID, LINE = "#16181b", "#5c636b", "#ebeae6", "#c9c8c3"
PIXELS_PER_INCH = 80  # of a chart's box
GAP, HEAD, LEGEND, NOTE_LINE = 20, 26, 20, 15  # pixels between charts, for a title, for a legend, for a line of notes
NOTE_LETTERS = 78  # of a line of notes as wide as a chart


def draw_charts(charts: Sequence[Chart], path: str | Path) -> None:
    """Draw charts side by side into one PNG, each with title, legend and note.

    Args:
        charts: as on the page.
        path: of the PNG, which is written completely or not at all.
    """
    notes = [textwrap.wrap(chart.note.replace("\u00a0", " "), NOTE_LETTERS) for chart in charts]
    stacks = [[chart, *([chart.below] if chart.below else [])] for chart in charts]
    drawn = max(sum(part.height for part in stack) for stack in stacks)
    foot = NOTE_LINE * max(map(len, notes)) + GAP // 2
    width = sum(chart.width for chart in charts) + GAP * (len(charts) + 1)
    head = HEAD + (LEGEND if any(chart.legend for chart in charts) else 0)
    height = head + drawn + foot
    # With a layout engine, matplotlib would measure every text twice.
    figure, (axes,) = new_figure(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH, 1, layout=None)
    axes.set_position((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for place, (stack, note) in enumerate(zip(stacks, notes)):
        left, top = GAP + place * (stack[0].width + GAP), head
        _words(axes, left, HEAD - 8, stack[0].title, size=13, colour=INK, weight="bold")
        _legend(axes, stack[0], left, HEAD + 12)
        for part in stack:
            _draw(axes, part, left, top)
            top += part.height
        for line, text in enumerate(note):
            _words(axes, left, head + drawn + NOTE_LINE * (line + 0.7), text, size=10.5)
    save_figure(figure, path)


def _draw(axes: Axes, chart: Chart, left: float, top: float) -> None:
    for y, text in chart.y_ticks:
        axes.plot([left + chart.left, left + chart.right], [top + y] * 2, color=GRID, linewidth=0.9, zorder=0)
        _words(axes, left + chart.left - 8, top + y + 4, text, align="right")
    for x, text in chart.x_ticks:
        axes.plot([left + x] * 2, [top + chart.bottom, top + chart.bottom + 4], color=LINE, linewidth=0.9)
        _words(axes, left + x, top + chart.bottom + 18, text, align="center")
    axes.plot([left + chart.left, left + chart.right], [top + chart.bottom] * 2, color=LINE, linewidth=0.9)
    for shape in chart.shapes:
        match shape.kind:
            case "line":
                thin = "thin" in shape.style
                xs, ys = [left + x for x, _ in shape.points], [top + y for _, y in shape.points]
                axes.plot(xs, ys, **_line_style(shape.style), linewidth=1.1 if thin else 1.8, alpha=0.6 if thin else 1)
            case "area":
                points = [(left + x, top + y) for x, y in shape.points]
                colour = COLOURS[shape.style.removeprefix("band ")]
                axes.add_patch(Polygon(points, closed=True, color=colour, alpha=0.14, linewidth=0))
            case "bar":
                corner = left + shape.x, top + shape.y
                axes.add_patch(Rectangle(corner, shape.width, shape.height, color=COLOURS[shape.style], linewidth=0))
            case "dot":
                centre, colour = (left + shape.x, top + shape.y), COLOURS[shape.style]
                axes.add_patch(Circle(centre, shape.radius, facecolor=colour, edgecolor="white", zorder=3))
            case "text":
                align = "right" if shape.anchor == "end" else "left"
                _words(axes, left + shape.x, top + shape.y, shape.text, align=align, colour=INK, weight="bold")
    _words(axes, left + (chart.left + chart.right) / 2, top + chart.height - 6, chart.x_label, align="center")
    _words(axes, left, top + 12, chart.y_label)


def _legend(axes: Axes, chart: Chart, left: float, y: float) -> None:
    for style, name in chart.legend:
        axes.plot([left, left + 18], [y - 4] * 2, **_line_style(style), linewidth=2)
        _words(axes, left + 24, y, name, size=11)
        left += 44 + 6.2 * len(name)


def _line_style(style: str) -> dict:
    colour, *kinds = style.split()
    return {"color": COLOURS[colour], "linestyle": (0, (4, 3)) if "dash" in kinds else "-"}


def _words(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    align: str = "left",
    size: float = 11.5,
    colour: str = SOFT,
    weight: str = "normal",
) -> None:
    points = size * 72 / PIXELS_PER_INCH  # size is in pixels of the box
    # A dollar sign in a class name must not start a formula.
    axes.text(x, y, text, ha=align, va="baseline", fontsize=points, color=colour, weight=weight, parse_math=False)
