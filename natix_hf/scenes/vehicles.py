"""Draws the vehicles of a generated street: the end that faces the camera and one side in perspective."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from natix_hf.scenes.pen import BLACK, GLASS, WHITE, Colour, Pen, shade

VEHICLES = {  # width, roof height, length, height where the windows begin, inset of the roof on each side; metres
    "car": (1.75, 1.45, 4.2, 0.88, 0.2),
    "van": (2.0, 2.3, 5.2, 1.25, 0.06),
    "truck": (2.4, 3.2, 7.5, 1.0, 0.0),
    "bus": (2.5, 3.1, 11.0, 1.3, 0.03),
}


def vehicle(
    pen: Pen,
    rng: np.random.Generator,
    kind: str,
    colour: Colour,
    deep: Callable[[float, float], tuple[float, float]],
    oncoming: bool,
) -> None:
    """Draw a vehicle seen along the road: its near end and the side that faces the camera.

    Args:
        deep: maps a `(u, v)` point of the near end to the same point of the far end, in the pen's metres.
        oncoming: draw headlamps instead of tail lamps.
    """
    width, roof, _, shoulder, taper = VEHICLES[kind]
    roof = roof * rng.uniform(0.94, 1.08)
    half, top = width / 2, width / 2 - taper
    lean = 1.0 if deep(0, 0)[0] > 0 else -1.0  # the side that the camera sees
    body = [(half * lean, 0.25), deep(half * lean, 0.25), deep(half * lean, shoulder), (half * lean, shoulder)]
    glass = [(half * lean, shoulder), deep(half * lean, shoulder), deep(top * lean, roof), (top * lean, roof)]
    below = [(-half, 0.1), (half, 0.1), deep(half * lean, 0.1), deep(half * lean, 0.3)]
    pen.poly([*below, (half * lean, 0.3), (-half * lean, 0.3)], BLACK)
    pen.poly(body, shade(colour, 0.78))
    pen.poly(glass, shade(colour, 0.74))
    if kind != "truck":
        opposite = glass[2:] + glass[:2]
        inner = [(a * 0.86 + b * 0.14, c * 0.86 + d * 0.14) for (a, c), (b, d) in zip(glass, opposite)]
        pen.poly(inner, GLASS)
    for along in (0.17, 0.8):
        (u0, v0), (u1, v1) = (half * lean, 0.32), deep(half * lean, 0.32)
        size = 1 + along * (deep(0, 1)[1] - deep(0, 0)[1] - 1)
        across = max(0.1, abs(u1 - u0) * 0.09)
        pen.oval(u0 + (u1 - u0) * along, v0 + (v1 - v0) * along, across, 0.32 * size, BLACK)
    pen.poly([(top, roof), (-top, roof), deep(-top, roof), deep(top, roof)], shade(colour, 1.1))
    pen.poly([(-half, 0.25), (half, 0.25), (half, shoulder), (top, roof), (-top, roof), (-half, shoulder)], colour)
    if kind in ("car", "bus") or rng.random() < 0.5:
        low, high = shoulder + 0.06, roof - 0.1
        a, b = half - 0.12, top - 0.08
        pen.poly([(-a, low), (a, low), (b, high), (-b, high)], GLASS)
        pen.poly([(-a, low), (-a * 0.4, low), (-b * 0.1, high), (-b, high)], shade(GLASS, 1.35))
    pen.rect(-half, 0.25, half, 0.42, shade(colour, 0.6))
    pen.rect(-0.28, 0.5, 0.28, 0.62, (238, 206, 70) if rng.random() < 0.3 else WHITE)
    lamp = (255, 250, 225) if oncoming else (214, 26, 24)
    for u in (-half + 0.17, half - 0.17):
        pen.rect(u - 0.15, 0.64, u + 0.15, 0.8, lamp, 0.75)
        pen.lamp(u, 0.72, 0.55 if oncoming else 0.3, lamp)
    for u in (-half * 0.8, half * 0.8):
        pen.rect(u - 0.12, 0.0, u + 0.12, 0.26, BLACK)
