"""Draws one frame of a generated street and lists the objects that are visible in it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from natix_hf.scenes import objects
from natix_hf.scenes.light import Light, finish, sky
from natix_hf.scenes.pen import Colour, Pen, shade, shadow
from natix_hf.scenes.street import NEAR, View, paint_street
from natix_hf.scenes.vehicles import VEHICLES, vehicle
from natix_hf.scenes.world import AWNING_REACH, SUPERSAMPLE, WIDTHS, WORK, Thing, World, covered

Box = tuple[int, int, int, int]
OF_OWN_COLOURS = {
    "cone": objects.cone,
    "barrel": objects.barrel,
    "barrier": objects.barrier,
    "excavator": objects.excavator,
    "warning_sign": objects.warning_sign,
    "sign": objects.sign,
    "traffic_light": objects.traffic_light,
}
OF_ONE_COLOUR = {
    "person": objects.person,
    "planter": objects.planter,
    "crane": objects.crane,
    "bin": objects.street_bin,
}
OF_TWO_COLOURS = {"parasol": objects.parasol, "billboard": objects.billboard}


def paint(
    world: World, frame: int, rng: np.random.Generator, camera_seed: int
) -> tuple[Image.Image, list[tuple[str, Box]]]:
    """Draw frame `frame` of `world`.

    Returns:
        The RGB photo, and `(class, (left, top, right, bottom))` of each visible object, in photo pixels.
    """
    view, light = world.views[frame], world.light
    snow = light.weather == "snow"
    canvas = sky(light, np.random.default_rng(camera_seed), (view.width, view.height), view.horizon)
    draw = ImageDraw.Draw(canvas)
    glows: list[tuple[float, float, float, Colour]] = []
    boxes: list[tuple[str, list[float]]] = []
    cranes = [thing for thing in world.things if thing.kind == "crane"]
    for thing in cranes:
        boxes.append(("crane", _paint_thing(draw, view, light, thing, glows, snow)))
    paint_street(draw, view, world.street, light, snow)
    for thing in world.things:
        depth = thing.z - view.z
        if thing.kind == "crane" or (depth < 2.6 and thing.kind != "awning") or depth + thing.length < NEAR + 0.5:
            continue
        small = world.smallest * world.unit * SUPERSAMPLE
        if thing.kind in WORK and view.focal * thing.height / depth < small:
            continue
        x = view.point(thing.x, 0, max(depth, NEAR))[0]
        if thing.kind != "awning" and not -0.5 * view.width < x < 1.5 * view.width:
            continue
        boxes.append((thing.kind, _paint_thing(draw, view, light, thing, glows, snow)))
    photo = finish(canvas, light, glows, view.horizon, SUPERSAMPLE, np.random.default_rng([camera_seed, 1]), rng)
    return photo, _visible(boxes, photo.size, world.unit)


def _visible(boxes: list[tuple[str, list[float]]], size: tuple[int, int], unit: float) -> list[tuple[str, Box]]:
    """Boxes clipped to the photo, without objects that are outside, tiny or hidden by a nearer object."""
    visible = []
    for index, (kind, box) in enumerate(boxes):
        box = [v / SUPERSAMPLE for v in box]
        cut = (max(0, round(box[0])), max(0, round(box[1])), min(size[0], round(box[2])), min(size[1], round(box[3])))
        whole = (box[2] - box[0]) * (box[3] - box[1])
        inside = max(0, cut[2] - cut[0]) * max(0, cut[3] - cut[1])
        if whole <= 0 or inside < 0.4 * whole or cut[3] - cut[1] < 6 * unit:
            continue
        nearer = (
            [v / SUPERSAMPLE for v in nearer_box]
            for nearer_kind, nearer_box in boxes[index + 1 :]
            if nearer_kind not in ("lamp_post", "tree", "sign")
        )
        if all(covered(box, nearer_box) < 0.7 for nearer_box in nearer):
            visible.append((kind, cut))
    return visible


def _paint_thing(
    draw: ImageDraw.ImageDraw, view: View, light: Light, thing: Thing, glows: list, snow: bool
) -> list[float]:
    """Draw one object and return its box in canvas pixels."""
    rng = np.random.default_rng(thing.seed)
    depth = max(thing.z - view.z, NEAR)
    tint = light.tint(depth * (0.45 if thing.kind == "crane" else 1.0))
    pen = Pen(draw, view.point(thing.x, 0, depth), view.focal / depth, tint, glows)
    kind, h = thing.kind, thing.height
    if kind not in ("crane", "awning", "lamp_post") and light.weather != "fog" and light.daytime != "night":
        half = VEHICLES[kind][0] * 0.6 if kind in VEHICLES else min(h * WIDTHS.get(kind, 0.4) * 0.55, 1.6)
        flat = min(0.5, 0.6 * view.eye / depth)
        shadow(pen, half, flat, (50, 52, 58) if light.weather != "snow" else (140, 144, 152))
    if kind in VEHICLES:
        back = VEHICLES[kind][2]

        def deep(u: float, v: float) -> tuple[float, float]:
            x, y = view.point(thing.x + u, v, depth + back)
            return (x - pen.foot[0]) / pen.scale, (pen.foot[1] - y) / pen.scale

        vehicle(pen, rng, kind, thing.colours[0], deep, thing.flag)
    elif kind == "awning":
        _paint_awning(pen, view, thing, depth)
    elif kind == "tree":
        objects.tree(pen, rng, h, None if thing.flag else thing.colours[0], snow)
    elif kind == "lamp_post":
        objects.lamp_post(pen, rng, h, 1.0 if thing.x > 0 else -1.0)
    elif kind in OF_ONE_COLOUR:
        OF_ONE_COLOUR[kind](pen, rng, h, thing.colours[0])
    elif kind in OF_TWO_COLOURS:
        OF_TWO_COLOURS[kind](pen, rng, h, thing.colours)
    else:
        OF_OWN_COLOURS[kind](pen, rng, h)
    return pen.box


def _paint_awning(pen: Pen, view: View, thing: Thing, depth: float) -> None:
    """Draw a striped awning along a shop front."""
    out = thing.x - (AWNING_REACH if thing.x > 0 else -AWNING_REACH)
    edges = np.linspace(depth, max(thing.z + thing.length - view.z, depth + 0.1), max(4, int(thing.length / 0.7)))

    def local(x: float, y: float, z: float) -> tuple[float, float]:
        u, v = view.point(x, y, z)
        return (u - pen.foot[0]) / pen.scale, (pen.foot[1] - v) / pen.scale

    for index, (near, far) in reversed(list(enumerate(pairwise(edges)))):
        colour = thing.colours[index % 2]
        top = [local(thing.x, 3.1, near), local(thing.x, 3.1, far), local(out, 2.5, far), local(out, 2.5, near)]
        pen.poly(top, colour)
        front = [local(out, 2.5, near), local(out, 2.5, far), local(out, 2.25, far), local(out, 2.25, near)]
        pen.poly(front, shade(colour, 0.85))
