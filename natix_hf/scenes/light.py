"""Light, weather and camera defects of a generated street photo.

`Light` gives the visible colour of a surface at a distance: daylight, headlamps, fog. `finish` turns the drawn canvas
into a photo: surface grain, glowing lamps, rain, snow, wet road, exposure, white balance, vignette, blur, sensor
noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from natix_hf.scenes.pen import Colour

WEATHERS = {"clear": 0.36, "overcast": 0.26, "rain": 0.14, "fog": 0.1, "snow": 0.14}
DAYTIMES = {"day": 0.72, "dusk": 0.12, "night": 0.16}


@dataclass(frozen=True)
class Light:
    """The light of one street at one time.

    Args:
        daytime: `day`, `dusk` or `night`.
        weather: a key of `WEATHERS`.
        gain: factors of the ambient light on red, green and blue.
        lamp: brightness that headlamps add near the camera (0 except at night).
        air: the colour that everything fades to with distance.
        visibility: distance in metres at which 63 % of a colour is air.
        zenith, horizon: colours of the sky.
    """

    daytime: str
    weather: str
    gain: Colour
    lamp: float
    air: Colour
    visibility: float
    zenith: Colour
    horizon: Colour

    def tint(self, depth: float) -> Callable[[Colour, float], tuple[int, int, int]]:
        """A function from `(colour, shine)` to the visible colour at `depth` metres; a `shine` of 1 needs no light."""
        clear = math.exp(-depth / self.visibility)
        lamp = self.lamp * math.exp(-depth / 26.0)
        red, green, blue = (min(g + lamp, 1.15) for g in self.gain)
        air = [a * (1 - clear) for a in self.air]

        def seen(colour: Colour, shine: float) -> tuple[int, int, int]:
            r = int(colour[0] * (red + (1 - red) * shine) * clear + air[0])
            g = int(colour[1] * (green + (1 - green) * shine) * clear + air[1])
            b = int(colour[2] * (blue + (1 - blue) * shine) * clear + air[2])
            return (r if r < 255 else 255, g if g < 255 else 255, b if b < 255 else 255)

        return seen


def draw_light(rng: np.random.Generator) -> Light:
    """A random time of day and weather, with matching colours."""
    daytime = str(rng.choice(list(DAYTIMES), p=list(DAYTIMES.values())))
    weather = str(rng.choice(list(WEATHERS), p=list(WEATHERS.values())))
    spans = {"clear": (500, 1200), "overcast": (300, 700), "rain": (110, 240), "fog": (45, 95), "snow": (80, 180)}
    visibility = rng.uniform(*spans[weather])
    brightness = {"clear": 1.0, "overcast": 0.86, "rain": 0.68, "fog": 0.84, "snow": 0.9}
    bright = brightness[weather] * rng.uniform(0.88, 1.08)
    grey = rng.uniform(0.9, 1.05)
    skies = {
        "clear": ((rng.uniform(50, 120), rng.uniform(110, 165), rng.uniform(185, 235)), (196, 214, 230)),
        "overcast": ((168 * grey, 174 * grey, 182 * grey), (206 * grey, 208 * grey, 210 * grey)),
        "rain": ((116 * grey, 124 * grey, 134 * grey), (158 * grey, 162 * grey, 168 * grey)),
        "fog": ((188 * grey, 192 * grey, 194 * grey), (204 * grey, 206 * grey, 206 * grey)),
        "snow": ((188 * grey, 194 * grey, 204 * grey), (216 * grey, 218 * grey, 222 * grey)),
    }
    zenith, horizon = skies[weather]
    gain, lamp = (bright, bright, bright), 0.0
    if daytime == "dusk":
        warmth = rng.uniform(0.0, 1.0)
        gain = (bright * (0.62 + 0.16 * warmth), bright * 0.6, bright * (0.68 - 0.1 * warmth))
        zenith = (zenith[0] * 0.5, zenith[1] * 0.48, zenith[2] * 0.62)
        horizon = (min(255, horizon[0] * (0.75 + 0.3 * warmth)), horizon[1] * 0.66, horizon[2] * (0.72 - 0.2 * warmth))
    elif daytime == "night":
        dark = rng.uniform(0.2, 0.36)
        gain, lamp = (dark, dark, dark * 1.15), rng.uniform(0.4, 0.65)
        zenith, horizon = (12, 14, 26), (rng.uniform(24, 56), rng.uniform(24, 44), rng.uniform(34, 56))
    air = tuple(float(h) for h in horizon)
    return Light(daytime, weather, gain, lamp, air, float(visibility), zenith, horizon)


def _field(rng: np.random.Generator, rows: int, columns: int, size: tuple[int, int]) -> np.ndarray:
    """Smooth noise of standard deviation about 1, `(height, width)`."""
    small = rng.standard_normal((rows, columns), dtype=np.float32)
    return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BILINEAR))


def sky(light: Light, rng: np.random.Generator, size: tuple[int, int], horizon: float) -> Image.Image:
    """The sky down to row `horizon` and a little below, on an RGB canvas of `size`."""
    width, height = 96, 54
    down = np.clip(np.arange(height, dtype=np.float32) / max(1.0, horizon / size[1] * height), 0, 1)[:, None, None]
    pixels = np.asarray(light.zenith, np.float32) * (1 - down) + np.asarray(light.horizon, np.float32) * down
    pixels = np.broadcast_to(pixels, (height, width, 3))
    if light.weather in ("clear", "overcast"):
        clouds = (
            0.9 * _field(rng, 5, 5, (width, height))
            + 0.5 * _field(rng, 12, 10, (width, height))
            + 0.25 * _field(rng, 27, 24, (width, height))
        )
        cover = np.clip(clouds * 0.7 + rng.uniform(-0.7, 0.35), 0, 0.85)[:, :, None]
        tone = np.asarray(light.horizon, np.float32) * (1.12 if light.weather == "clear" else 0.9)
        pixels = pixels * (1 - cover) + tone * cover
    # the ground covers the rows further down
    rows = min(size[1], int(horizon) + 40)
    above = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    above = above.crop((0, 0, width, max(2, round(height * rows / size[1]))))
    above = above.resize((size[0] // 2, rows // 2), Image.Resampling.BILINEAR)
    above = above.resize((size[0], rows), Image.Resampling.NEAREST)
    canvas = Image.new("RGB", size)
    canvas.paste(above)
    return canvas


@lru_cache(maxsize=4)
def _noise_bank(length: int) -> np.ndarray:
    """White noise; every photo takes its sensor noise from random places of it."""
    return np.random.default_rng(length).standard_normal(length, dtype=np.float32)


def finish(
    canvas: Image.Image,
    light: Light,
    glows: list[tuple[float, float, float, Colour]],
    horizon: float,
    scale: int,
    camera: np.random.Generator,
    rng: np.random.Generator,
) -> Image.Image:
    """Turn a drawn canvas into a photo of 1 / `scale` its size.

    Args:
        canvas: RGB, supersampled.
        glows: lamps in canvas pixels; they shine at dusk and at night.
        horizon: row of the horizon on the canvas.
        camera: draws what all frames of a sequence share (exposure, colours, sharpness).
        rng: draws the noise of this frame.

    Returns:
        The photo, RGB, upright.
    """
    width, height = canvas.width // scale, canvas.height // scale
    photo = canvas.reduce(scale)
    softness = camera.uniform(0.0, 0.75) + (0.2 if light.weather in ("rain", "fog") else 0.0)
    if softness > 0.4:
        photo = photo.filter(ImageFilter.BoxBlur(softness))
    pixels = np.asarray(photo.convert("RGB", _grade(camera, rng))).astype(np.float32)
    line = int(horizon / scale)

    half = (width // 2, height // 2)
    grain = 0.028 * _field(rng, height // 40 + 2, width // 40 + 2, half)
    grain += 0.02 * _field(rng, height // 3, width // 4, half)
    across = np.linspace(-1, 1, half[0], dtype=np.float32)[None, :] ** 2
    down = np.linspace(-1, 1, half[1], dtype=np.float32)[:, None] ** 2
    vignette = 1 - np.float32(camera.uniform(0.0, 0.16)) * (across + down)
    dimming = np.asarray(Image.fromarray((1 + grain) * vignette).resize((width, height), Image.Resampling.BILINEAR))
    for channel in range(3):  # channel by channel is three times as fast as one broadcast
        pixels[:, :, channel] *= dimming
    if light.weather == "rain" and 8 < line < height - 8:  # the wet road mirrors the scene behind it
        rows = min(line, height - line)
        share = np.linspace(0.3, 0.0, rows, dtype=np.float32)[:, None, None]
        pixels[line : line + rows] += share * (pixels[line - rows : line][::-1] - pixels[line : line + rows])
    if light.daytime != "day" and glows:
        pixels += _glow(glows, (width, height), scale, 1.0 if light.daytime == "night" else 0.45)
    if light.weather in ("rain", "snow"):
        fall = _fall(light.weather, rng, (width, height))[:, :, None]
        pixels += (np.float32(235 if light.daytime == "day" else 150) - pixels) * fall
    noise = np.float32(camera.uniform(0.8, 4.5) * (2.0 if light.daytime == "night" else 1.0))
    bank = _noise_bank(1 << (2 * width * height).bit_length())
    for channel, shift in enumerate(rng.integers(0, len(bank) - width * height, 3)):
        pixels[:, :, channel] += noise * bank[shift : shift + width * height].reshape(height, width)
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))


def _grade(camera: np.random.Generator, rng: np.random.Generator) -> tuple[float, ...]:
    """Exposure, white balance, saturation and contrast of a camera, as the 3 x 4 matrix for `Image.convert`."""
    contrast = camera.uniform(0.85, 1.15)
    gain = contrast * camera.uniform(0.86, 1.14) * rng.uniform(0.98, 1.02)
    saturation, offset = camera.uniform(0.6, 1.15), 118 * (1 - contrast)
    matrix: list[float] = []
    for channel, balance in enumerate((camera.uniform(0.93, 1.08), 1.0, camera.uniform(0.92, 1.08))):
        row = [gain * balance * ((1 - saturation) / 3 + saturation * (channel == other)) for other in range(3)]
        matrix += [*row, offset]
    return tuple(matrix)


def _glow(glows: list, size: tuple[int, int], scale: int, strength: float) -> np.ndarray:
    """Halos of lamps, `(height, width, 3)`, to be added to the photo."""
    quarter = (size[0] // 4 + 1, size[1] // 4 + 1)
    layer = Image.new("RGB", quarter)
    draw = ImageDraw.Draw(layer)
    for x, y, radius, colour in glows:
        r = min(max(radius / scale / 4, 0.5), 7)
        u, v = x / scale / 4, y / scale / 4
        draw.ellipse([u - r, v - r, u + r, v + r], fill=tuple(int(c * strength) for c in colour))
    layer = layer.filter(ImageFilter.GaussianBlur(2.2)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(layer).astype(np.float32) * 0.9


def _fall(weather: str, rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Share of each pixel that rain or snow covers, `(height, width)` in [0, 1]."""
    layer = Image.new("L", size)
    draw = ImageDraw.Draw(layer)
    width, height = size
    if weather == "rain":
        slant, length = rng.uniform(-0.25, 0.25), height * rng.uniform(0.03, 0.07)
        for x, y, stretch in rng.random((int(width * height / 1500 * rng.uniform(0.5, 1.6)), 3)):
            x, y, run = x * width, y * height, length * (0.5 + stretch)
            draw.line([x, y, x + slant * run, y + run], fill=int(30 + 60 * stretch))
    else:
        for x, y, size_ in rng.random((int(width * height / 1300 * rng.uniform(0.3, 1.6)), 3)):
            x, y, r = x * width, y * height, (0.4 + 1.7 * size_**3) * height / 360
            draw.ellipse([x - r, y - r, x + r, y + r], fill=int(110 + 120 * size_))
    return np.asarray(layer).astype(np.float32) / 255
