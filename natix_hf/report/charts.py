"""Lays out charts as shapes in a box. The page draws them as SVG, and `chart_pictures.py` as PNG.

A `Chart` has shapes in a 440 x 300 box, texts around them, and its values as a table. Colours are names (`blue`,
`orange`, `gray`, `good`), because light and dark pages use different shades.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 440, 300
TABLE_ROWS = 25  # most rows in the table of a curve; the drawn curve has all its points


class Table(NamedTuple):
    """Headings of the columns, and rows of texts."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


class Axis(NamedTuple):
    """One axis of a chart.

    Attributes:
        label: quantity and unit.
        low, high: lowest and highest value.
        counts: whether the axis counts things; its ticks are then whole numbers.
    """

    label: str
    low: float
    high: float
    counts: bool = False


class Curve(NamedTuple):
    """A line through points of the box. If it has a name, the legend and the readout show it."""

    points: list[tuple[float, float]]
    style: str
    name: str
    kind = "line"


class Area(NamedTuple):
    """A filled polygon."""

    points: list[tuple[float, float]]
    style: str
    kind = "area"


class Bar(NamedTuple):
    """A rectangle, given by its upper left corner. Its text appears under the pointer."""

    x: float
    y: float
    width: float
    height: float
    style: str
    text: str
    kind = "bar"


class Dot(NamedTuple):
    """A circle. Its text appears under the pointer."""

    x: float
    y: float
    radius: float
    style: str
    text: str
    kind = "dot"


class Mark(NamedTuple):
    """A text that begins (`start`) or ends (`end`) at a point."""

    x: float
    y: float
    text: str
    anchor: str
    kind = "text"


class Chart:
    """One drawing: the axes, then lines, bands, bars and dots in the order in which they are added."""

    def __init__(
        self,
        title: str,
        description: str,
        x: Axis,
        y: Axis,
        *,
        height: int = HEIGHT,
        note: str = "",
        readout: bool = True,
    ) -> None:
        """Lay out the axes.

        Args:
            title: heading above the drawing.
            description: what the chart shows, for screen readers.
            height: of the drawing in units of the box; the width is always the same.
            note: text below the drawing.
            readout: whether the page shows the values of the curves under the pointer.
        """
        self.title, self.description, self.note = title, description, note
        self.x_label, self.y_label = x.label, y.label
        self.width, self.height = WIDTH, height
        self.left, self.right, self.top, self.bottom = 46, WIDTH - 12, 26, height - 44
        self._x, self._y = _widened(x.low, x.high), _widened(y.low, y.high)
        self.x_ticks = [(self.px(value), text) for value, text in _ticks(*self._x, 6, whole=x.counts)]
        self.y_ticks = [(self.py(value), text) for value, text in _ticks(*self._y, 5, whole=y.counts)]
        self.shapes: list[Curve | Area | Bar | Dot | Mark] = []
        self.legend: list[tuple[str, str]] = []
        self.table: Table | None = None
        self.below: Chart | None = None  # a second drawing in the same frame
        self.readout = readout

    @property
    def x_scale(self) -> tuple[float, ...]:
        """Lowest and highest value of x, and their positions; the page uses them to read values from a curve."""
        return (*self._x, self.left, self.right)

    @property
    def y_scale(self) -> tuple[float, ...]:
        """The same for y."""
        return (*self._y, self.bottom, self.top)

    def px(self, value: float) -> float:
        """Horizontal position of a value of x."""
        low, high = self._x
        return round(self.left + (value - low) / (high - low) * (self.right - self.left), 2)

    def py(self, value: float) -> float:
        """Vertical position of a value of y, limited to the area inside the axes."""
        low, high = self._y
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return round(self.bottom - share * (self.bottom - self.top), 2)

    def line(self, x: Sequence[float], y: Sequence[float], style: str, name: str = "", *, key: bool = True) -> None:
        """Add a curve. Points that are None or NaN are left out. With a name, the curve is in legend and readout."""
        points = _points(x, y)
        if not points:
            return
        self.shapes.append(Curve([(self.px(a), self.py(b)) for a, b in points], style, name))
        if name and key:
            self.legend.append((style, name))

    def band(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], style: str) -> None:
        """Add the area between two curves."""
        upper, lower = _points(x, high), _points(x, low)[::-1]
        if upper and lower:
            self.shapes.append(Area([(self.px(a), self.py(b)) for a, b in [*upper, *lower]], f"band {style}"))

    def bar(self, start: float, end: float, value: float, style: str, text: str = "") -> None:
        """Add a bar from the bottom up to `value`, between two values of x."""
        left, right, top = self.px(start), self.px(end), self.py(value)
        self.shapes.append(Bar(left, top, round(right - left, 2), round(self.bottom - top, 2), style, text))

    def dot(self, x: float, y: float, style: str, text: str = "", radius: float = 4.5) -> None:
        """Add a point. Its text appears under the pointer."""
        self.shapes.append(Dot(self.px(x), self.py(y), round(radius, 1), style, text))

    def mark(self, x: float, y: float, text: str) -> None:
        """Add a text beside a point, on the side that has more room."""
        left = self.px(x) > (self.left + self.right) / 2
        side, anchor = (-9, "end") if left else (9, "start")
        self.shapes.append(Mark(self.px(x) + side, max(self.py(y) - 8, self.top + 4), text, anchor))


def svg_path(shape: Curve | Area) -> str:
    """The attribute `d` of an SVG path."""
    drawn = "".join(f"{'L' if i else 'M'}{x},{y}" for i, (x, y) in enumerate(shape.points))
    return drawn if shape.kind == "line" else f"{drawn}Z"


def table_of_curves(x_label: str, x: Sequence[float], **curves: Sequence[float]) -> Table:
    """At most `TABLE_ROWS` evenly spaced rows of curves over the same x, including the first and the last."""
    rows = [[number(x[i]), *(number(values[i]) for values in curves.values())] for i in evenly(len(x), TABLE_ROWS)]
    return Table([x_label, *(name.replace("_", " ") for name in curves)], rows)


def evenly(count: int, most: int) -> np.ndarray:
    """At most `most` evenly spaced indices of `count` values, including the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))


def number(value: float | None) -> str:
    """A number with three decimals, a whole number above 1 without; a dash if it is missing or not finite."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.3f}"


def _points(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    return [(float(a), float(b)) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]


def _widened(low: float, high: float) -> tuple[float, float]:
    return (float(low), float(high)) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float, most: int, whole: bool) -> list[tuple[float, str]]:
    values = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(low, high)
    inside = [float(value) for value in values if low - 1e-9 <= value <= high + 1e-9]
    gap = inside[1] - inside[0] if len(inside) > 1 else 1.0
    digits = 0
    while digits < 6 and abs(round(gap, digits) - gap) > 1e-9:
        digits += 1
    return [(value, f"{value + 0.0:,.{digits}f}".replace(",", " ")) for value in inside]
