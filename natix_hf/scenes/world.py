"""Lays out one camera sequence in a generated street: which objects there are, and where the camera sees them from.

`build` chooses light, street, camera path and objects from one random generator and a label. Streets without a work
zone get decoys. Decoys follow the same placement rule and use the same palette as work zones, so that neither colour
nor position alone reveals the label. `paint.py` draws the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from natix_hf.scenes.light import Light, draw_light
from natix_hf.scenes.pen import WHITE, Colour, shade, warm
from natix_hf.scenes.street import Street, View, draw_street
from natix_hf.scenes.vehicles import VEHICLES

WORK = ("cone", "barrel", "barrier", "excavator", "warning_sign")
OTHERS = (
    "car",
    "van",
    "truck",
    "bus",
    "person",
    "tree",
    "lamp_post",
    "traffic_light",
    "sign",
    "bin",
    "planter",
    "parasol",
)
CLASSES = (*WORK, *OTHERS, "billboard", "crane", "awning")
SUPERSAMPLE = 2


class Sizes(NamedTuple):
    """Heights of work-zone objects, in pixels of a photo with 360 rows.

    Attributes:
        smallest: smaller objects are left out because they cannot be recognised.
        anchor: least height in every frame of the anchor, the object that justifies the label.
        furthest, nearest: range of the anchor's height in the frame where it is nearest; drawn log-uniformly.
    """

    smallest: int
    anchor: int
    furthest: int
    nearest: int


# Painted outlines differ a little from the boxes used here, so the guarantee for a photo is a little weaker: with
# `USUAL`, 28 pixels of height and 60 % of the object visible. After shrinking to 224 rows, these anchors are larger
# than a patch of 16 pixels. `DISTANT` guarantees 9.6 pixels, or 6 of 224.
USUAL = Sizes(smallest=12, anchor=32, furthest=44, nearest=170)
DISTANT = Sizes(smallest=5, anchor=11, furthest=12, nearest=170)
IN_FRAME, CLEAR = 0.8, 0.72  # least shares of the anchor's box: inside the photo, and also not hidden
GRID = 12  # points along each axis that measure the share that is not hidden

HEIGHTS = {  # metres
    "cone": (0.5, 1.0), "barrel": (0.95, 1.15), "barrier": (0.9, 1.2), "excavator": (2.7, 3.6),
    "warning_sign": (1.5, 2.6), "person": (1.5, 1.9), "tree": (4.0, 11.0), "lamp_post": (5.5, 8.5),
    "traffic_light": (2.8, 3.6), "sign": (2.1, 3.0), "bin": (0.9, 1.25), "planter": (0.7, 1.2),
    "parasol": (2.1, 2.7), "billboard": (2.6, 5.0), "crane": (26.0, 48.0), "car": (1.45, 1.45),
    "van": (2.3, 2.3), "truck": (3.2, 3.2), "bus": (3.1, 3.1), "awning": (3.0, 3.0),
}  # fmt: skip
# these objects may be that many times higher in the photo than a cone
TALL = {"excavator": 1.8, "car": 1.5, "van": 2.0, "billboard": 2.5, "parasol": 1.6, "warning_sign": 1.3, "sign": 1.3}
PAINTS = ((232, 232, 230), (32, 33, 36), (150, 152, 156), (88, 92, 98), (38, 60, 120), (120, 26, 30), (60, 92, 70))
AWNING_REACH, AWNING_HEIGHTS = 1.1, (2.25, 3.1)  # metres
WIDTHS = {
    "barrier": 2.0,
    "excavator": 1.5,
    "cone": 0.7,
    "barrel": 0.6,
    "warning_sign": 0.6,
    "tree": 0.7,
    "parasol": 1.1,
    "billboard": 1.2,
}


@dataclass(frozen=True)
class Thing:
    """An object in the street: kind, foot `(x, z)` and height in metres, colours, and the seed of its details."""

    kind: str
    x: float
    z: float
    height: float
    seed: int
    colours: tuple[Colour, ...] = ()
    flag: bool = False  # vehicles: oncoming; trees: bare
    length: float = 0.0  # awnings


@dataclass(frozen=True)
class World:
    """One street that a camera passes; `views` holds the camera of each frame, at supersampled size."""

    light: Light
    street: Street
    things: tuple[Thing, ...]
    views: tuple[View, ...]
    unit: float  # photo pixels per pixel of a photo of 360 rows
    smallest: int  # least height of a drawn work-zone object, in pixels of a photo of 360 rows


def build(rng: np.random.Generator, work: bool, frames: int, size: tuple[int, int], sizes: Sizes = USUAL) -> World:
    """Lay out a street for `frames` frames of `size` (width, height) pixels, with a work zone or with decoys.

    `sizes` sets the distance of both.
    """
    light = draw_light(rng)
    street = draw_street(rng, light.weather, light.daytime == "night")
    width, height = size[0] * SUPERSAMPLE, size[1] * SUPERSAMPLE
    unit = min(size) / 360
    bend = 0.0 if rng.random() < 0.45 else rng.normal(0, 0.0016)
    focal, eye = max(width, height) * rng.uniform(0.62, 0.92), rng.uniform(1.2, 2.2)
    horizon, centre = height * rng.uniform(0.38, 0.56), width * rng.uniform(0.38, 0.62)
    start = rng.uniform(-0.7, 0.85) * (street.half_road + 0.4 * street.pavement)

    def views_of(step: float, shake: np.ndarray) -> tuple[View, ...]:
        return tuple(
            View(width, height, focal, horizon + h * height, start + x, eye, i * step, bend, centre + c * width)
            for i, (x, h, c) in enumerate(shake)
        )

    shake = rng.normal(0, 1, (frames, 3)) * (0.06, 0.006, 0.01) * (frames > 1)
    steps = rng.uniform(0.5, 2.2)
    while True:  # until every frame shows the anchor
        kinds = _work_kinds(rng) if work else _decoy_kinds(rng)
        anchor_height = _height(rng, kinds[0])
        single = 1.35 if len(kinds) == 1 else 1.0
        drawn = rng.uniform(np.log(sizes.furthest * single), np.log(sizes.nearest))
        pixels = np.exp(drawn) * TALL.get(kinds[0], 1.0) * unit * SUPERSAMPLE
        depth = max(focal * anchor_height / pixels, focal * eye / (0.95 * height - horizon), 3.0)
        furthest = focal * anchor_height / (sizes.anchor * unit * SUPERSAMPLE)
        if depth > min(0.8 * light.visibility, furthest):
            continue
        step = min(steps, max(0.0, furthest - depth) / max(frames - 1, 1))
        if frames > 1 and step < 0.15:
            continue
        views = views_of(step, shake)
        z = views[-1].z + depth
        reach = street.half_road + max(street.pavement, 0.8)
        x = rng.uniform(-reach, reach)
        if kinds[0] in VEHICLES:
            x = _lane(rng, street)
        columns = [view.point(x, 0, z - view.z)[0] / width for view in views]
        boxes = [rough_box(Thing(kinds[0], x, z, anchor_height, 0), view) for view in views]
        inside = min(covered(box, (0, 0, width, height)) for box in boxes)
        if min(columns) > 0.08 and max(columns) < 0.92 and inside >= IN_FRAME:
            break
    zone = _zone(rng, kinds, x, z, anchor_height, street)
    things = sorted((*zone, *_beside(zone[0], _ordinary(rng, street, light), views)), key=lambda thing: -thing.z)
    return World(light, street, tuple(things), views, unit, sizes.smallest)


def _height(rng: np.random.Generator, kind: str) -> float:
    return float(rng.uniform(*HEIGHTS[kind]))


# Layouts of a work zone: how often each is drawn, and the smallest and largest number of its objects. The first is
# the anchor, which must be visible.
LAYOUTS = {
    "taper": (0.24, {"cone": (3, 8), "warning_sign": (0, 1)}),
    "barrels": (0.15, {"barrel": (2, 6), "warning_sign": (0, 1)}),
    "closure": (0.2, {"barrier": (1, 3), "cone": (0, 3)}),
    "dig": (0.15, {"excavator": (1, 1), "barrier": (0, 2), "cone": (0, 4)}),
    "sign": (0.13, {"warning_sign": (1, 2), "cone": (0, 1)}),
    "single": (0.13, {}),
}


def _work_kinds(rng: np.random.Generator) -> list[str]:
    """The objects of a work zone; the first is the anchor."""
    _, numbers = LAYOUTS[str(rng.choice(list(LAYOUTS), p=[share for share, _ in LAYOUTS.values()]))]
    kinds: list[str] = []
    for kind, (least, most) in numbers.items():
        kinds += [kind] * (least if least == most else int(rng.integers(least, most + 1)))
    return kinds or [str(rng.choice(["cone", "barrel", "barrier"]))]


def _decoy_kinds(rng: np.random.Generator) -> list[str]:
    """The objects that take the places of a work zone in a street without one."""
    weights = {"bin": 0.2, "planter": 0.14, "person": 0.16, "parasol": 0.12, "car": 0.14, "van": 0.08, "sign": 0.1}
    weights["billboard"] = 0.06
    p = np.asarray(list(weights.values()))
    kinds = [str(rng.choice(list(weights), p=p / p.sum()))]
    for _ in range(int(rng.integers(1, 6))):
        again = rng.random() < 0.5 and kinds[0] not in ("car", "van", "billboard")
        kinds.append(kinds[0] if again else str(rng.choice(list(weights), p=p / p.sum())))
    return kinds


def _dress(rng: np.random.Generator, kind: str, loud: bool) -> tuple[Colour, ...]:
    """Colours of a decoy: from the work-zone palette if `loud`, otherwise arbitrary."""
    dull = tuple(float(c) for c in rng.uniform(30, 220, 3))
    if kind in VEHICLES and not loud:
        dull = PAINTS[int(rng.integers(0, len(PAINTS)))]
    if kind == "person":  # a crowd in orange would look like road workers
        loud = loud and bool(rng.random() < 0.4)
    first = warm(rng) if loud else dull
    return (first, WHITE if rng.random() < 0.75 else shade(first, 0.6))


def _make(
    rng: np.random.Generator,
    kind: str,
    x: float,
    z: float,
    height: float | None = None,
    loud: bool | None = None,
    flag: bool = False,
) -> Thing:
    loud = bool(rng.random() < 0.15) if loud is None else loud
    height = _height(rng, kind) if height is None else height
    return Thing(kind, float(x), float(z), height, int(rng.integers(0, 2**31)), _dress(rng, kind, loud), flag)


def _lane(rng: np.random.Generator, street: Street) -> float:
    lane = int(rng.integers(0, street.lanes))
    return -street.half_road + (lane + 0.5) * 2 * street.half_road / street.lanes


def _zone(
    rng: np.random.Generator, kinds: list[str], x: float, z: float, height: float, street: Street
) -> list[Thing]:
    """The work zone or the decoys: a line of objects that starts at the anchor and leads away from the camera."""
    zone = [_make(rng, kinds[0], x, z, height, loud=bool(rng.random() < 0.65))]
    slope, spacing = rng.normal(0, 0.12), rng.uniform(1.0, 3.2)
    across = rng.random() < 0.35  # side by side instead of one behind the other
    for index, kind in enumerate(kinds[1:], start=1):
        if across:
            place = (x + index * spacing * 0.55 * (1 if x < 0 else -1), z + rng.uniform(0.0, 0.8))
        else:
            place = (x + index * spacing * slope + rng.normal(0, 0.12), z + index * spacing + rng.uniform(0, 0.5))
        if kind in ("car", "van"):
            place = (_lane(rng, street), z + rng.uniform(4, 30))
        zone.append(_make(rng, kind, *place, loud=bool(rng.random() < 0.5)))
    return zone


def _side(rng: np.random.Generator) -> float:
    return float(rng.choice([-1.0, 1.0]))


def _ordinary(rng: np.random.Generator, street: Street, light: Light) -> list[Thing]:
    """Traffic, people, plants and street furniture, which any street can have whatever its label."""
    road, walk = street.half_road, street.half_road + max(street.pavement, 1.0)
    things = [*_traffic(rng, street), *_trees(rng, walk, light.weather)]
    lamp_side, gap = _side(rng), rng.uniform(16, 30)
    if rng.random() < 0.7:
        for z in rng.uniform(5, 15) + np.arange(3) * gap:
            things.append(_make(rng, "lamp_post", lamp_side * (road + 0.5), z))
    for kind, most in {"person": 5, "sign": 3, "bin": 2, "planter": 2}.items():
        for _ in range(int(rng.integers(0, most)) if rng.random() < 0.6 else 0):
            things.append(_make(rng, kind, _side(rng) * rng.uniform(road + 0.3, walk), rng.uniform(5, 28)))
    for kind, chance, far in (("traffic_light", 0.18, 40), ("parasol", 0.08, 30), ("billboard", 0.12, 60)):
        if rng.random() < chance:
            things.append(_make(rng, kind, _side(rng) * (road + rng.uniform(0.4, 2.5)), rng.uniform(7, far)))
    if rng.random() < 0.16:
        things.append(_make(rng, "crane", _side(rng) * rng.uniform(10, 50), 150, loud=True))
    for house in street.houses:
        if house.shop and house.start < 50 and rng.random() < 0.75:
            awning = _make(rng, "awning", house.x, house.start + 0.5, loud=bool(rng.random() < 0.35))
            things.append(replace(awning, length=house.end - house.start - 1.0))
    return things


def _traffic(rng: np.random.Generator, street: Street) -> Iterator[Thing]:
    """Vehicles on the road, and perhaps a row of parked ones."""
    kinds, p = list(VEHICLES), [0.74, 0.13, 0.08, 0.05]
    for _ in range(int(rng.integers(0, 5))):
        x = _lane(rng, street)
        yield _make(rng, str(rng.choice(kinds, p=p)), x, rng.uniform(7, 55), flag=x < 0)
    if rng.random() < 0.5:
        for z in rng.uniform(4, 8) + np.arange(int(rng.integers(1, 6))) * rng.uniform(5.6, 7.5):
            yield _make(rng, "car" if rng.random() < 0.85 else "van", street.half_road + 0.6, z)


def _trees(rng: np.random.Generator, walk: float, weather: str) -> Iterator[Thing]:
    """Trees beside the pavement, in the colours of one season."""
    autumn = rng.random() < 0.26 and weather != "snow"
    bare = weather == "snow" or (not autumn and rng.random() < 0.15)
    for _ in range(int(rng.integers(0, 9))):
        if autumn and rng.random() < 0.8:
            leaf = (rng.uniform(196, 240), rng.uniform(84, 160), rng.uniform(16, 50))
        else:
            leaf = (rng.uniform(44, 104), rng.uniform(90, 136), rng.uniform(36, 64))
        tree = _make(rng, "tree", _side(rng) * (walk + rng.uniform(-0.4, 4)), rng.uniform(6, 55), flag=bare)
        yield replace(tree, colours=(leaf,))


def rough_box(thing: Thing, view: View) -> tuple[float, float, float, float]:
    """Approximate box `(left, top, right, bottom)` of an object, in canvas pixels."""
    depth = max(thing.z - view.z, 0.5)
    x, y = view.point(thing.x, 0, depth)
    k = view.focal / depth
    if thing.kind in VEHICLES:  # with the side wall that leads away from the camera
        width, roof, length, _, _ = VEHICLES[thing.kind]
        ends = [(u, d) for u in (-0.5 * width, 0.5 * width) for d in (depth, depth + length)]
        columns, rows = zip(*(view.point(thing.x + u, roof * 1.08, d) for u, d in ends))
        return min(columns), min(rows), max(columns), y
    if thing.kind == "awning":  # it hangs over the pavement along its shop front
        out, far = thing.x - AWNING_REACH * (1 if thing.x > 0 else -1), max(thing.z + thing.length - view.z, depth)
        corners = [view.point(u, v, d) for u in (thing.x, out) for v in AWNING_HEIGHTS for d in (depth, far)]
        columns, rows = zip(*corners)
        return min(columns), min(rows), max(columns), max(rows)
    half = thing.height * WIDTHS.get(thing.kind, 0.5) / 2 * k
    return x - half, y - thing.height * k, x + half, y


def _beside(anchor: Thing, things: list[Thing], views: tuple[View, ...]) -> list[Thing]:
    """`things` without those that hide `anchor` in a frame: more than 15 % alone, or too much of it together."""
    boxes = [rough_box(anchor, view) for view in views]
    visible = [_points(box) for box in boxes]
    visible = [points[_within(points, (0, 0, view.width, view.height))] for points, view in zip(visible, views)]
    kept = []
    for thing in things:
        if thing.z <= anchor.z + 0.3:
            before = [rough_box(thing, view) for view in views]
            left = [points[~_within(points, box)] for points, box in zip(visible, before)]
            alone = max(covered(box, other) for box, other in zip(boxes, before))
            if alone > 0.15 or min(map(len, left)) < CLEAR * GRID**2:
                continue
            visible = left
        kept.append(thing)
    return kept


def _points(box: tuple[float, ...]) -> np.ndarray:
    """`GRID` x `GRID` points spread over a box, `(points, 2)`."""
    shares = (np.arange(GRID) + 0.5) / GRID
    across, down = np.meshgrid(box[0] + shares * (box[2] - box[0]), box[1] + shares * (box[3] - box[1]))
    return np.stack([across.ravel(), down.ravel()], axis=1)


def _within(points: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
    return ((points >= box[:2]) & (points <= box[2:])).all(axis=1)


def covered(box: tuple[float, ...], by: tuple[float, ...]) -> float:
    """Share of `box` that `by` covers."""
    across = min(box[2], by[2]) - max(box[0], by[0])
    down = min(box[3], by[3]) - max(box[1], by[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return max(0.0, across) * max(0.0, down) / area if area > 0 else 1.0
