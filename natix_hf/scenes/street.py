"""The empty street of a generated photo: camera, ground, road markings, houses, hills.

`View` projects metres to pixels. `paint_street` paints everything that is not an object. `world.py` chooses the
objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import ImageDraw

from natix_hf.scenes.light import Light
from natix_hf.scenes.pen import GLASS, WHITE, Colour, shade

NEAR, FAR = 1.15, 170.0  # range of distances that is drawn, in metres


@dataclass(frozen=True)
class View:
    """A camera in the street. World coordinates are metres: x to the right of the road's middle, y up, z along it.

    Args:
        width, height: of the canvas, in pixels.
        focal: focal length in pixels.
        horizon: row of the horizon.
        x, eye, z: position of the camera; `eye` is its height.
        bend: curvature of the road, in 1 / metres.
        centre: column of the vanishing point of a straight road.
    """

    width: int
    height: int
    focal: float
    horizon: float
    x: float
    eye: float
    z: float
    bend: float
    centre: float

    def point(self, x: float, y: float, depth: float) -> tuple[float, float]:
        """Canvas position of a point `depth` metres ahead."""
        k = self.focal / depth
        return self.centre + k * (x + self.bend * depth * depth - self.x), self.horizon - k * (y - self.eye)


@dataclass(frozen=True)
class House:
    """A house that spans `start` to `end` metres along the street, with its front at `x` (negative: left side)."""

    x: float
    start: float
    end: float
    height: float
    wall: Colour
    gable: bool
    roof: Colour
    floors: int
    columns: int
    lit: tuple[bool, ...]
    shop: bool


@dataclass(frozen=True)
class Street:
    """The appearance of a street without objects; lengths in metres."""

    half_road: float
    lanes: int
    pavement: float
    asphalt: Colour
    paving: Colour
    verge: Colour
    marking: Colour
    dash: tuple[float, float]
    edge_lines: bool
    houses: tuple[House, ...]
    skyline: tuple[tuple[float, float], ...]  # (position in [-1.2, 1.2], height in units of 5.5 % of the canvas)
    skyline_colour: Colour
    zebra: float | None


def draw_street(rng: np.random.Generator, weather: str, night: bool) -> Street:
    """A random street: city, suburb or country road."""
    kind = str(rng.choice(["city", "suburb", "country"], p=[0.5, 0.3, 0.2]))
    lanes = int(rng.choice([1, 2, 2, 2, 3, 4]))
    half_road = lanes * rng.uniform(1.6, 1.9) + (0.6 if lanes == 1 else 0.2)
    pavement = 0.0 if kind == "country" else rng.uniform(1.6, 3.6)
    tone = rng.uniform(66, 118)
    snow = weather == "snow"
    green = (rng.uniform(70, 120), rng.uniform(100, 140), rng.uniform(48, 72))
    dry = (rng.uniform(140, 180), rng.uniform(128, 150), rng.uniform(84, 110))
    verge = green if not snow and rng.random() < 0.7 else dry
    if snow:
        verge = (222, 226, 232)
    paving = shade((168, 164, 158), rng.uniform(0.8, 1.15)) if not snow else (206, 210, 216)
    asphalt = (tone * rng.uniform(0.97, 1.05), tone, tone * rng.uniform(0.97, 1.06))
    if snow and rng.random() < 0.6:
        asphalt = (168, 171, 176)
    elif weather == "rain":
        asphalt = shade(asphalt, 0.72)
    houses = tuple(_houses(rng, kind, half_road + pavement, night)) if kind != "country" else ()
    if kind == "country" and rng.random() < 0.5:
        houses = tuple(h for h in _houses(rng, "suburb", half_road + 6, night) if rng.random() < 0.3)
    points = [(float(a), float(b)) for a, b in zip(np.linspace(-1.2, 1.2, 13), rng.uniform(0.2, 1.0, 13), strict=True)]
    return Street(
        half_road=float(half_road),
        lanes=lanes,
        pavement=float(pavement),
        asphalt=asphalt,
        paving=paving,
        verge=verge,
        marking=WHITE if rng.random() < 0.8 else (228, 190, 60),
        dash=(float(rng.uniform(1.5, 4.0)), float(rng.uniform(3.0, 6.0))),
        edge_lines=bool(rng.random() < 0.6),
        houses=houses,
        skyline=tuple(points),
        skyline_colour=shade((96, 112, 100) if kind == "country" else (128, 126, 128), rng.uniform(0.7, 1.1)),
        zebra=float(rng.uniform(9, 22)) if kind == "city" and rng.random() < 0.2 else None,
    )


def _houses(rng: np.random.Generator, kind: str, front: float, night: bool) -> list[House]:
    houses = []
    for side in (-1, 1):
        z = rng.uniform(-8, 4)
        while z < 120:
            length = rng.uniform(7, 20) if kind == "city" else rng.uniform(8, 13)
            floors = int(rng.integers(2, 8)) if kind == "city" else int(rng.integers(1, 3))
            wall = [
                shade((212, 200, 178), rng.uniform(0.7, 1.1)),
                (rng.uniform(130, 178), rng.uniform(74, 100), rng.uniform(60, 84)),
                (rng.uniform(110, 190),) * 2 + (rng.uniform(120, 190),),
                (rng.uniform(206, 226), rng.uniform(176, 200), rng.uniform(110, 150)),
            ][int(rng.choice(4, p=[0.4, 0.25, 0.25, 0.1]))]
            columns = max(2, int(length / rng.uniform(2.4, 3.6)))
            chance = rng.uniform(0.1, 0.6) if night else 0.02
            houses.append(
                House(
                    x=side * (front + (0.0 if kind == "city" else rng.uniform(2.5, 7))),
                    start=float(z),
                    end=float(z + length),
                    height=floors * rng.uniform(2.9, 3.4) + 0.6,
                    wall=wall,
                    gable=kind != "city",
                    roof=shade((120, 64, 48) if rng.random() < 0.5 else (76, 76, 82), rng.uniform(0.8, 1.15)),
                    floors=floors,
                    columns=columns,
                    lit=tuple(bool(v) for v in rng.random(floors * columns) < chance),
                    shop=bool(kind == "city" and rng.random() < 0.45),
                )
            )
            z += length
            if kind != "city":
                z += rng.uniform(2, 9)
            elif rng.random() >= 0.8:
                z += rng.uniform(3, 10)
    return houses


def paint_street(draw: ImageDraw.ImageDraw, view: View, street: Street, light: Light, snow: bool) -> None:
    """Paint skyline, ground, markings and houses, from far to near."""
    far = light.tint(FAR)
    base = view.height * 0.055
    width, foot = view.width, view.horizon + 3
    line = [((a + 1.2) / 2.4 * width * 1.2 - width * 0.1, view.horizon - base * h) for a, h in street.skyline]
    draw.polygon([(-5, foot), *line, (width + 5, foot)], fill=far(street.skyline_colour, 0.0))
    _paint_ground(draw, view, street, light)
    for house in sorted(street.houses, key=lambda h: (-h.end, abs(h.x))):
        if house.end - view.z > NEAR + 0.3:
            _paint_house(draw, view, house, light, snow)


def _paint_ground(draw: ImageDraw.ImageDraw, view: View, street: Street, light: Light) -> None:
    edges = np.geomspace(FAR, NEAR, 26)
    road, walk = street.half_road, street.half_road + street.pavement

    def band(x0: float, x1: float, far: float, near: float, colour: Colour, tint: Callable) -> None:
        corners = [view.point(x0, 0, far), view.point(x1, 0, far), view.point(x1, 0, near), view.point(x0, 0, near)]
        draw.polygon(corners, fill=tint(colour, 0.0))

    for index, (far, near) in enumerate(pairwise(edges)):
        tint = light.tint((far + near) / 2)
        top = view.point(0, 0, far)[1]
        bottom = max(view.height, top) if index == len(edges) - 2 else view.point(0, 0, near)[1]
        draw.rectangle([0, top, view.width, bottom + 1], fill=tint(street.verge, 0.0))
        if street.pavement:
            band(-walk, walk, far, near, street.paving, tint)
            band(-road - 0.18, road + 0.18, far, near, shade(street.paving, 0.72), tint)
        band(-road, road, far, near, street.asphalt, tint)
        if street.edge_lines:
            for side in (-1, 1):
                band(side * (road - 0.3), side * (road - 0.18), far, near, street.marking, tint)
    length, period = street.dash[0], sum(street.dash)
    starts = np.arange(np.floor(view.z / period) * period, view.z + 90, period)
    for lane in range(1, street.lanes):
        x = -road + 2 * road * lane / street.lanes
        for start in starts:
            near, far = start - view.z, start - view.z + length
            if far > NEAR:
                near = max(near, NEAR)
                band(x - 0.07, x + 0.07, far, near, street.marking, light.tint(near))
    if street.zebra is not None and street.zebra - view.z > 2:
        near = street.zebra - view.z
        for x in np.arange(-road + 0.3, road - 0.5, 1.0):
            band(x, x + 0.5, near + 3.0, near, WHITE, light.tint(near))


def _paint_house(draw: ImageDraw.ImageDraw, view: View, house: House, light: Light, snow: bool) -> None:
    near, far = max(house.start - view.z, NEAR), house.end - view.z
    side = 1 if house.x > 0 else -1
    deep = 9.0  # metres from front to back
    tint, tint_far = light.tint(near + 1), light.tint((near + far) / 2)

    def quad(x0: float, z0: float, x1: float, z1: float, y0: float, y1: float) -> list[tuple[float, float]]:
        return [view.point(x0, y0, z0), view.point(x1, y0, z1), view.point(x1, y1, z1), view.point(x0, y1, z0)]

    end = quad(house.x, near, house.x + side * deep, near, 0, house.height)
    roof = (228, 230, 234) if snow else house.roof
    if house.gable:
        ridge = house.height + 2.6
        a, b = view.point(house.x + side * deep / 2, ridge, near), view.point(house.x + side * deep / 2, ridge, far)
        draw.polygon(
            [view.point(house.x, house.height, near), a, b, view.point(house.x, house.height, far)],
            fill=tint_far(roof, 0.0),
        )
        draw.polygon([end[3], a, end[2]], fill=tint(shade(house.wall, 0.84), 0.0))
    draw.polygon(end, fill=tint(shade(house.wall, 0.84), 0.0))
    draw.polygon(quad(house.x, near, house.x, far, 0, house.height), fill=tint_far(house.wall, 0.0))
    if not house.gable:
        draw.polygon(
            quad(house.x, near, house.x, far, house.height - 0.4, house.height),
            fill=tint_far(shade(house.wall, 0.8), 0.0),
        )
    glass, lit = tint_far(GLASS, 0.0), tint_far((250, 214, 140), 0.8)
    _paint_windows(draw, view, house, glass, lit)
    if house.shop:
        a, b = max(house.start + 0.6 - view.z, NEAR), max(house.end - 0.6 - view.z, NEAR)
        bright = light.daytime == "night" and any(house.lit)
        draw.polygon(quad(house.x, a, house.x, b, 0.5, 2.5), fill=lit if bright else tint_far(shade(GLASS, 0.9), 0.0))


def _paint_windows(draw: ImageDraw.ImageDraw, view: View, house: House, glass: tuple, lit: tuple) -> None:
    storey, step = house.height / house.floors, (house.end - house.start) / house.columns
    for column in range(house.columns):
        z0 = house.start + step * (column + 0.24) - view.z
        z1 = z0 + step * 0.52
        if z1 < NEAR + 0.2:
            continue
        z0 = max(z0, NEAR)
        (x_near, _), (x_far, _) = view.point(house.x, 0, z0), view.point(house.x, 0, z1)
        if abs(x_far - x_near) < 2:
            continue
        k0, k1 = view.focal / z0, view.focal / z1
        for floor in range(1 if house.shop else 0, house.floors):
            low = floor * storey + storey * 0.34 - view.eye
            high = low + storey * 0.46
            shape = [
                (x_near, view.horizon - k0 * low),
                (x_far, view.horizon - k1 * low),
                (x_far, view.horizon - k1 * high),
                (x_near, view.horizon - k0 * high),
            ]
            draw.polygon(shape, fill=lit if house.lit[floor * house.columns + column] else glass)
