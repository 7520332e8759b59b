"""The pen that draws the objects of a generated street, and the colours that they share.

A `Pen` draws in metres around the foot of an object. It applies scale, light and fog, and records the bounding box of
what it drew. `objects.py` and `vehicles.py` contain the objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import ImageDraw

Colour = tuple[float, float, float]
Points = Sequence[tuple[float, float]]

WHITE, BLACK, GREY, DARK, GLASS = (236, 236, 232), (22, 22, 24), (140, 142, 145), (52, 54, 58), (58, 74, 88)


class Pen:
    """Draws in metres around a foot point and records the bounding box of what it drew.

    Args:
        draw: the canvas.
        foot: `(x, y)` of the origin, in canvas pixels.
        scale: pixels per metre.
        tint: applies light and fog at this distance to an sRGB colour; its second argument is the shine in [0, 1].
        glows: lamps that shine at night are appended here as `(x, y, radius, colour)`, in canvas pixels.
    """

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        foot: tuple[float, float],
        scale: float,
        tint: Callable[[Colour, float], tuple[int, int, int]],
        glows: list[tuple[float, float, float, Colour]],
    ) -> None:
        self.draw, self.foot, self.scale, self.tint, self.glows = draw, foot, scale, tint, glows
        self.box = [math.inf, math.inf, -math.inf, -math.inf]

    def spots(self, points: Points) -> list[tuple[float, float]]:
        """Convert metres to canvas pixels and extend the box to these points."""
        x0, y0 = self.foot
        spots = [(x0 + u * self.scale, y0 - v * self.scale) for u, v in points]
        box = self.box
        for x, y in spots:
            box[0], box[1], box[2], box[3] = min(box[0], x), min(box[1], y), max(box[2], x), max(box[3], y)
        return spots

    def poly(self, points: Points, colour: Colour, shine: float = 0.0) -> None:
        self.draw.polygon(self.spots(points), fill=self.tint(colour, shine))

    def rect(self, u0: float, v0: float, u1: float, v1: float, colour: Colour, shine: float = 0.0) -> None:
        self.poly([(u0, v0), (u1, v0), (u1, v1), (u0, v1)], colour, shine)

    def oval(self, u: float, v: float, ru: float, rv: float, colour: Colour, shine: float = 0.0) -> None:
        (x0, y1), (x1, y0) = self.spots([(u - ru, v - rv), (u + ru, v + rv)])
        self.draw.ellipse([x0, y0, x1, y1], fill=self.tint(colour, shine))

    def line(self, points: Points, width: float, colour: Colour, shine: float = 0.0) -> None:
        stroke = max(1, round(width * self.scale))
        self.draw.line(self.spots(points), fill=self.tint(colour, shine), width=stroke, joint="curve")

    def lamp(self, u: float, v: float, radius: float, colour: Colour) -> None:
        x, y = self.foot
        self.glows.append((x + u * self.scale, y - v * self.scale, radius * self.scale, colour))


def shade(colour: Colour, factor: float) -> Colour:
    """A lighter or darker version of a colour."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def warm(rng: np.random.Generator) -> Colour:
    """A random orange, red or yellow, the palette of work-zone objects and decoys."""
    kind = rng.random()
    if kind < 0.62:
        return (rng.uniform(226, 255), rng.uniform(84, 132), rng.uniform(8, 48))
    if kind < 0.82:
        return (rng.uniform(186, 226), rng.uniform(22, 50), rng.uniform(20, 48))
    return (rng.uniform(232, 250), rng.uniform(168, 200), rng.uniform(10, 50))


def shadow(pen: Pen, half: float, flat: float, colour: Colour) -> None:
    """Draw a shadow on the ground, `half` metres to each side, that does not extend the object's box."""
    box = list(pen.box)
    pen.oval(half * 0.15, 0.0, half, half * flat, colour)
    pen.box = box
