"""Draws the objects of a generated street: work-zone objects, people, plants and permanent street furniture.

Every object is a flat drawing in metres. Its origin is the middle of its foot, `h` is its height, and `rng` chooses
its details. `world.py` chooses the objects and their positions.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from natix_hf.scenes.pen import BLACK, DARK, GLASS, GREY, WHITE, Colour, Pen, Points, shade


def cone(pen: Pen, rng: np.random.Generator, h: float) -> None:
    colour = (rng.uniform(232, 255), rng.uniform(80, 118), rng.uniform(8, 45))
    lean, base, top = rng.normal(0, 0.03) * h, 0.27 * h, 0.055 * h
    pen.rect(-0.34 * h, 0, 0.34 * h, 0.07 * h, shade(colour, 0.7) if rng.random() < 0.6 else DARK)

    def slice_(low: float, high: float, c: Colour) -> None:
        a, b = base + (top - base) * low, base + (top - base) * high
        la, lb = lean * low, lean * high
        pen.poly([(la - a, low * h), (la + a, low * h), (lb + b, high * h), (lb - b, high * h)], c)
        dark = [(la + 0.35 * a, low * h), (la + a, low * h), (lb + b, high * h), (lb + 0.35 * b, high * h)]
        pen.poly(dark, shade(c, 0.82))

    slice_(0.06, 1.0, colour)
    if rng.random() < 0.85:
        slice_(0.58, 0.78, WHITE)
    if rng.random() < 0.6:
        slice_(0.28, 0.46, WHITE)


def barrel(pen: Pen, rng: np.random.Generator, h: float) -> None:
    colour = (rng.uniform(230, 255), rng.uniform(84, 122), rng.uniform(10, 45))
    half = 0.29 * h
    pen.rect(-half * 1.2, 0, half * 1.2, 0.08 * h, BLACK)
    for i in range(5):
        low, high = 0.08 + i * 0.18, 0.08 + (i + 1) * 0.18
        w0, w1 = half * (1.0 - 0.12 * low), half * (1.0 - 0.12 * high)
        band = WHITE if i in (1, 3) else colour
        pen.poly([(-w0, low * h), (w0, low * h), (w1, high * h), (-w1, high * h)], band)
        pen.poly([(w0 * 0.4, low * h), (w0, low * h), (w1, high * h), (w1 * 0.4, high * h)], shade(band, 0.8))
    pen.rect(-half * 0.3, 0.98 * h, half * 0.3, 1.02 * h, shade(colour, 0.6))


def stripes(
    pen: Pen, u0: float, v0: float, u1: float, v1: float, colours: tuple[Colour, Colour], step: float, slant: float
) -> None:
    """A plank from `(u0, v0)` to `(u1, v1)` with slanted stripes of two colours."""
    pen.rect(u0, v0, u1, v1, colours[1])
    u = u0 - abs(slant)
    while u < u1:
        left, right = (u, u + step), (u + slant, u + step + slant)
        points = [(left[0], v0), (left[1], v0), (right[1], v1), (right[0], v1)]
        clipped = [(min(max(p, u0), u1), q) for p, q in points]
        pen.poly(clipped, colours[0])
        u += 2 * step


def barrier(pen: Pen, rng: np.random.Generator, h: float) -> None:
    half = rng.uniform(0.7, 1.3) * h
    orange = rng.random() < 0.5
    colour = (rng.uniform(232, 250), rng.uniform(88, 120), 25) if orange else (rng.uniform(190, 222), 32, 34)
    if rng.random() < 0.3:  # water-filled plastic blocks
        count = int(rng.integers(2, 5))
        for i in range(count):
            u0, u1 = -half + 2 * half * i / count, -half + 2 * half * (i + 1) / count
            c = colour if i % 2 == 0 else WHITE
            pen.poly([(u0, 0), (u1, 0), (u1 - 0.04 * h, 0.9 * h), (u0 + 0.04 * h, 0.9 * h)], c)
            pen.rect(u0 + 0.1 * h, 0.3 * h, u1 - 0.1 * h, 0.42 * h, shade(c, 0.8))
        return
    for u in (-0.75 * half, 0.75 * half):
        pen.line([(u - 0.16 * h, 0), (u, h)], 0.05 * h, GREY)
        pen.line([(u + 0.16 * h, 0), (u, h)], 0.05 * h, GREY)
    slant = float(rng.choice([-0.18, 0.18, 0.0])) * h
    planks = [(0.7, 0.96)] if rng.random() < 0.35 else [(0.7, 0.95), (0.3, 0.52)]
    for low, high in planks:
        stripes(pen, -half, low * h, half, high * h, (colour, WHITE), 0.24 * h, slant)
    if rng.random() < 0.3:
        pen.oval(-0.7 * half, 1.06 * h, 0.09 * h, 0.09 * h, (250, 180, 40), 0.8)
        pen.lamp(-0.7 * half, 1.06 * h, 0.5 * h, (255, 170, 40))


def excavator(pen: Pen, rng: np.random.Generator, h: float) -> None:
    yellow = rng.random() < 0.7
    colour = (rng.uniform(222, 246), rng.uniform(150, 186), rng.uniform(10, 40)) if yellow else (232, 104, 26)
    s = h / 3.0 * float(rng.choice([-1.0, 1.0]))  # the sign mirrors the machine
    k = abs(s)

    def at(points: Points) -> list[tuple[float, float]]:
        return [(u * s, v * k) for u, v in points]

    track = [(-1.5, 0.1), (-1.3, 0.0), (1.3, 0.0), (1.5, 0.1), (1.5, 0.5), (1.3, 0.65), (-1.3, 0.65), (-1.5, 0.5)]
    pen.poly(at(track), DARK)
    for i in range(5):
        pen.oval((-1.1 + i * 0.55) * s, 0.32 * k, 0.17 * k, 0.17 * k, (86, 84, 80))
    pen.poly(at([(-1.6, 0.75), (1.0, 0.75), (1.0, 1.35), (-1.2, 1.55), (-1.6, 1.45)]), colour)
    pen.poly(at([(-1.6, 0.75), (1.0, 0.75), (1.0, 0.9), (-1.6, 0.9)]), shade(colour, 0.6))
    pen.poly(at([(0.05, 1.3), (1.0, 1.3), (0.9, 2.5), (0.2, 2.5)]), shade(colour, 0.9))
    pen.poly(at([(0.18, 1.45), (0.88, 1.45), (0.8, 2.36), (0.28, 2.36)]), GLASS)
    elbow, reach, swing = 2.9 + rng.uniform(-0.2, 0.3), 2.5 + rng.uniform(-0.3, 0.4), rng.uniform(0.3, 1.2)
    pen.line(at([(0.7, 1.3), (1.5, elbow * 0.85), (reach, elbow)]), 0.3 * k, shade(colour, 0.85))
    pen.line(at([(reach, elbow), (reach + 0.5, swing + 0.5)]), 0.22 * k, colour)
    bucket = [(0.2, 0.5), (0.75, 0.6), (0.6, -0.1), (0.1, 0.0)]
    pen.poly(at([(reach + u, swing + v) for u, v in bucket]), DARK)


def warning_sign(pen: Pen, rng: np.random.Generator, h: float) -> None:
    if rng.random() < 0.4:  # on a folding stand
        side, middle = 0.36 * h, 0.62 * h  # half the height of the board, and the height of its middle
        pen.line([(-0.22 * h, 0), (0, 0.4 * h), (0.22 * h, 0)], 0.035 * h, GREY)
    else:
        side, middle = 0.26 * h, h - 0.26 * h
        pen.line([(0, 0), (0, middle)], 0.04 * h, GREY)
    if rng.random() < 0.6:
        colour = (rng.uniform(236, 255), rng.uniform(112, 142), rng.uniform(10, 40))
        for size, c in ((1.0, BLACK), (0.93, colour)):
            r = side * size
            pen.poly([(0, middle - r), (r, middle), (0, middle + r), (-r, middle)], c, 0.25)
    else:
        field = (248, 206, 40) if rng.random() < 0.45 else WHITE
        for size, c in ((1.0, (205, 28, 32)), (0.66, field)):
            r = side * size
            pen.poly([(-r * 1.1, middle - r * 0.8), (r * 1.1, middle - r * 0.8), (0, middle + r * 1.05)], c, 0.25)
    pen.oval(side * 0.05, middle + side * 0.3, side * 0.09, side * 0.09, BLACK)
    back = [(0, middle + side * 0.2), (-side * 0.08, middle - side * 0.1), (-side * 0.2, middle - side * 0.5)]
    pen.line(back, side * 0.14, BLACK)
    pen.line([(-side * 0.05, middle), (side * 0.3, middle - side * 0.3)], side * 0.1, BLACK)
    foot = middle - side * 0.5
    pen.poly([(side * 0.14, foot), (side * 0.5, foot), (side * 0.32, middle - side * 0.26)], BLACK)


def person(pen: Pen, rng: np.random.Generator, h: float, coat: Colour) -> None:
    skin = shade((224, 178, 146), rng.uniform(0.45, 1.0))
    trousers = tuple(rng.uniform(20, 110, 3))
    step = rng.uniform(0.02, 0.13) * h
    pen.line([(-step, 0), (0, 0.48 * h)], 0.085 * h, trousers)
    pen.line([(step, 0), (0, 0.48 * h)], 0.085 * h, shade(trousers, 0.85))
    pen.poly([(-0.1 * h, 0.44 * h), (0.1 * h, 0.44 * h), (0.13 * h, 0.82 * h), (-0.13 * h, 0.82 * h)], coat)
    pen.poly([(0.03 * h, 0.44 * h), (0.1 * h, 0.44 * h), (0.13 * h, 0.82 * h), (0.03 * h, 0.82 * h)], shade(coat, 0.8))
    pen.line([(-0.13 * h, 0.8 * h), (-0.15 * h - step * 0.3, 0.48 * h)], 0.05 * h, shade(coat, 0.9))
    pen.line([(0.13 * h, 0.8 * h), (0.15 * h + step * 0.3, 0.48 * h)], 0.05 * h, shade(coat, 0.75))
    pen.oval(0, 0.91 * h, 0.06 * h, 0.08 * h, skin)
    hair = [(-0.065 * h, 0.92 * h), (0.065 * h, 0.92 * h), (0.05 * h, h), (-0.05 * h, h)]
    pen.poly(hair, tuple(rng.uniform(15, 120, 3)))


def tree(pen: Pen, rng: np.random.Generator, h: float, leaf: Colour | None, snow: bool) -> None:
    trunk = shade((92, 72, 56), rng.uniform(0.6, 1.2))
    pen.line([(0, 0), (rng.normal(0, 0.02) * h, 0.5 * h)], 0.055 * h, trunk)
    forks = [(rng.uniform(-0.26, 0.26) * h, rng.uniform(0.5, 0.95) * h) for _ in range(7)]
    for u, v in forks:
        pen.line([(0, 0.36 * h), (u * 0.5, (0.36 * h + v) / 2 - 0.02 * h), (u, v)], 0.018 * h, trunk)
    if leaf is None:
        for u, v in forks:
            for _ in range(2):
                twig = (u + rng.normal(0, 0.1) * h, v + rng.normal(0.0, 0.06) * h)
                pen.line([(u * 0.6, v * 0.85), twig], 0.008 * h, trunk)
        return
    spread = rng.uniform(0.16, 0.26)
    for layer in (0.68, 0.86, 1.0, 1.14):
        for _ in range(9):
            u, v = rng.normal(0, spread * 0.6) * h, (0.67 + rng.normal(0, 0.12)) * h
            r = rng.uniform(0.05, 0.12) * h
            tone = shade(leaf, layer * rng.uniform(0.9, 1.1))
            u, v = u - (layer - 1) * 0.1 * h, min(v + (layer - 1) * 0.25 * h, 0.94 * h)
            pen.oval(u, v, r, r * 0.85, WHITE if snow and layer > 1.1 else tone)


def lamp_post(pen: Pen, rng: np.random.Generator, h: float, side: float) -> None:
    pen.line([(0, 0), (0, 0.97 * h), (-side * 0.22 * h, h)], 0.13, DARK)
    pen.rect(-side * 0.22 * h - 0.3, h - 0.08, -side * 0.22 * h + 0.3, h + 0.08, (250, 230, 180), 0.9)
    pen.lamp(-side * 0.22 * h, h, 1.1, (255, 214, 150))


def traffic_light(pen: Pen, rng: np.random.Generator, h: float) -> None:
    pen.line([(0, 0), (0, h)], 0.12, DARK)
    pen.rect(-0.18, h - 1.0, 0.18, h + 0.05, BLACK)
    lit = int(rng.integers(0, 3))
    for i, colour in enumerate(((240, 40, 32), (250, 160, 30), (50, 220, 120))):
        v = h - 0.16 - i * 0.32
        pen.oval(0, v, 0.13, 0.13, colour if i == lit else shade(colour, 0.22), 0.9 if i == lit else 0.0)
        if i == lit:
            pen.lamp(0, v, 0.45, colour)


def sign(pen: Pen, rng: np.random.Generator, h: float) -> None:
    """A permanent sign: stop, give way, limit, no entry, parking or a direction board."""
    kind, r = int(rng.integers(0, 6)), 0.16 * h
    v = h - r
    pen.line([(0, 0), (0, v)], 0.03 * h, GREY)
    red = (rng.uniform(190, 220), 28, 34)
    if kind == 0:
        corners = [(math.cos(math.pi * (i + 0.5) / 4), math.sin(math.pi * (i + 0.5) / 4)) for i in range(8)]
        pen.poly([(a * r, v + b * r) for a, b in corners], red, 0.2)
        pen.rect(-0.62 * r, v - 0.2 * r, 0.62 * r, v + 0.2 * r, WHITE, 0.2)
    elif kind == 1:
        pen.poly([(-r * 1.1, v + 0.8 * r), (r * 1.1, v + 0.8 * r), (0, v - r)], red, 0.2)
        pen.poly([(-r * 0.6, v + 0.52 * r), (r * 0.6, v + 0.52 * r), (0, v - 0.5 * r)], WHITE, 0.2)
    elif kind == 2:
        pen.oval(0, v, r, r, red, 0.2)
        pen.oval(0, v, 0.72 * r, 0.72 * r, WHITE, 0.2)
        pen.rect(-0.4 * r, v - 0.3 * r, -0.08 * r, v + 0.3 * r, BLACK)
        pen.rect(0.08 * r, v - 0.3 * r, 0.4 * r, v + 0.3 * r, BLACK)
    elif kind == 3:
        pen.oval(0, v, r, r, red, 0.2)
        pen.rect(-0.7 * r, v - 0.17 * r, 0.7 * r, v + 0.17 * r, WHITE, 0.2)
    elif kind == 4:
        pen.rect(-r, v - r, r, v + r, (30, 78, 168), 0.2)
        pen.rect(-0.35 * r, v - 0.6 * r, -0.1 * r, v + 0.6 * r, WHITE, 0.2)
        pen.oval(0.12 * r, v + 0.25 * r, 0.36 * r, 0.34 * r, WHITE, 0.2)
    else:
        board = [(30, 110, 70), (28, 74, 150), (238, 196, 40)][int(rng.integers(0, 3))]
        arrow = [(-1.6, -0.6), (1.4, -0.6), (1.9, 0.0), (1.4, 0.6), (-1.6, 0.6)]
        pen.poly([(a * r, v + b * r) for a, b in arrow], board, 0.2)
        pen.rect(-1.3 * r, v - 0.15 * r, 1.0 * r, v + 0.15 * r, WHITE if board[0] < 200 else BLACK, 0.2)


def street_bin(pen: Pen, rng: np.random.Generator, h: float, colour: Colour) -> None:
    w = rng.uniform(0.26, 0.36) * h
    pen.rect(-w, 0.06 * h, w, 0.84 * h, colour)
    pen.rect(0.3 * w, 0.06 * h, w, 0.84 * h, shade(colour, 0.82))
    pen.rect(-w * 1.12, 0.84 * h, w * 1.12, h, shade(colour, 0.7))
    pen.rect(-0.6 * w, 0.62 * h, 0.6 * w, 0.74 * h, BLACK if rng.random() < 0.5 else WHITE)
    pen.oval(-0.7 * w, 0.07 * h, 0.07 * h, 0.07 * h, BLACK)
    pen.oval(0.7 * w, 0.07 * h, 0.07 * h, 0.07 * h, BLACK)


def planter(pen: Pen, rng: np.random.Generator, h: float, colour: Colour) -> None:
    pot = WHITE if rng.random() < 0.5 else shade((196, 104, 70), rng.uniform(0.7, 1.1))
    pen.poly([(-0.3 * h, 0), (0.3 * h, 0), (0.42 * h, 0.45 * h), (-0.42 * h, 0.45 * h)], pot)
    for _ in range(10):
        u, v = rng.normal(0, 0.2) * h, rng.uniform(0.46, 0.8) * h
        pen.oval(u, v, 0.13 * h, 0.11 * h, shade((70, 116, 52), rng.uniform(0.6, 1.2)))
    for _ in range(14):
        pen.oval(rng.normal(0, 0.22) * h, rng.uniform(0.5, 0.94) * h, 0.055 * h, 0.055 * h, colour)


def parasol(pen: Pen, rng: np.random.Generator, h: float, colours: tuple[Colour, Colour]) -> None:
    """A parasol over a café table, a decoy with the stripes of a barrier."""
    pen.rect(-0.3 * h, 0.28 * h, 0.3 * h, 0.31 * h, (150, 120, 90))
    pen.line([(0, 0), (0, 0.9 * h)], 0.025 * h, GREY)
    edges = np.linspace(-0.55, 0.55, 8)
    for i, (a, b) in enumerate(pairwise(edges)):
        pen.poly([(a * h, 0.74 * h), (b * h, 0.74 * h), (0.02 * h * (1 if i > 3 else -1), h)], colours[i % 2])


def billboard(pen: Pen, rng: np.random.Generator, h: float, colours: tuple[Colour, Colour]) -> None:
    w = rng.uniform(0.35, 0.8) * h
    pen.rect(-0.05 * h, 0, 0.05 * h, 0.4 * h, DARK)
    pen.rect(-w, 0.38 * h, w, h, DARK)
    pen.rect(-w * 0.94, 0.41 * h, w * 0.94, 0.97 * h, colours[0])
    pen.oval(rng.uniform(-0.4, 0.4) * w, 0.7 * h, 0.2 * h, 0.2 * h, colours[1])
    for i in range(int(rng.integers(1, 4))):
        right = w * rng.uniform(-0.2, 0.8)
        pen.rect(-w * 0.8, (0.46 + i * 0.07) * h, right, (0.49 + i * 0.07) * h, BLACK if i % 2 else WHITE)


def crane(pen: Pen, rng: np.random.Generator, h: float, colour: Colour) -> None:
    """A tower crane far behind the houses, which does not make the street a work zone."""
    side, w = float(rng.choice([-1.0, 1.0])), 0.02 * h
    pen.line([(0, 0), (0, h)], w, colour)
    pen.line([(-0.2 * h * side, 0.9 * h), (0.62 * h * side, 0.9 * h)], w * 0.8, colour)
    pen.line([(-0.2 * h * side, 0.9 * h), (0, h), (0.5 * h * side, 0.9 * h)], w * 0.3, colour)
    pen.rect(-0.2 * h * side - 0.03 * h, 0.83 * h, -0.2 * h * side + 0.03 * h, 0.9 * h, GREY)
    pen.line([(0.4 * h * side, 0.9 * h), (0.4 * h * side, 0.62 * h)], w * 0.2, DARK)
