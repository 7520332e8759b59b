"""Generates the default data set: drawn street photos, half of which show roadwork.

`python -m natix_hf.scenes.photos OUT --count 2000 --seed 0` writes `images/*.jpg` and `metadata.csv` (classes `None`,
`Roadwork`).

A photo depends on `(seed, index)` alone, not on the number of workers, the order or the count. A block has 24 photos:
two camera sequences of 3 to 8 frames, each of one street, and single photos of other streets. Each street is a
`group`. 12 photos of a block show roadwork.

Each roadwork photo shows a work object at least 28 pixels high (for a shorter side of 360 pixels), and at least 60 %
of its outline is inside the photo and not hidden. With `--far` the height is 9.6 pixels (6 after a wide photo is
squashed to 224 rows), and the column `boxes` contains the boxes of the work objects.

The photos are simple drawings, meant for first trials and for tests. A model trained on them has learned nothing about
real streets.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import multiprocessing
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from natix_hf.errors import UserError, command
from natix_hf.scenes.paint import Box, paint
from natix_hf.scenes.world import DISTANT, USUAL, WORK, build

VERSION = 2  # raised when the photos change, so that a folder of an older version is not reused
LABELS = ("None", "Roadwork")
BLOCK = 24
COLUMNS = ("file_name", "label", "group", "daytime", "weather", "objects")
BOXES = "boxes"  # of the work objects: [[left, top, width, height], ...] in pixels of the upright photo
# Share of the cameras with each shape; `_shape` gives the sizes.
SHAPES = {"wide": 0.62, "portrait": 0.12, "four_three": 0.12, "square": 0.07, "small": 0.05, "large": 0.02}
SIDES = (64, 4096)  # smallest and largest side of the most frequent camera, in pixels
STORED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


@dataclass(frozen=True)
class Scene:
    """One generated photo.

    Args:
        image: RGB, upright, before JPEG.
        label: index into `LABELS`.
        objects: `(class, (left, top, right, bottom))` of each visible object, in pixels of `image`; the class is one
            of `world.CLASSES`.
        group: name of the street.
        daytime, weather: keys of `light.DAYTIMES` and `light.WEATHERS`.
        orientation: EXIF orientation of the file (1, 3, 6 or 8); the file stores the pixels rotated accordingly.
        quality: JPEG quality.
    """

    image: Image.Image
    label: int
    objects: list[tuple[str, Box]]
    group: str
    daytime: str
    weather: str
    orientation: int
    quality: int


@lru_cache(maxsize=256)
def _block(seed: int, block: int) -> tuple[tuple[int, int, int, int], ...]:
    """For each photo of a block: number of its group, its frame in the group, frames of the group, label."""
    rng = np.random.default_rng([seed, 1, block])
    lengths = [int(v) for v in rng.integers(3, 9, 2)]
    first = int(rng.integers(0, 2))
    half = BLOCK // 2
    groups = [(lengths[0], first), (lengths[1], 1 - first)]
    groups += [(1, first)] * (half - lengths[0]) + [(1, 1 - first)] * (half - lengths[1])
    order = [groups[i] for i in rng.permutation(len(groups))]
    return tuple(
        (number, frame, length, label) for number, (length, label) in enumerate(order) for frame in range(length)
    )


def _shape(rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int]:
    width, height = size
    side = round((width * height) ** 0.5 / 8) * 8
    shapes = {
        "wide": (width, height),
        "portrait": (height, width),
        "four_three": (round(side * 1.155 / 8) * 8, round(side * 0.866 / 8) * 8),
        "square": (side, side),
        "small": (width * 3 // 4, height * 3 // 4),
        "large": (width * 5 // 4, height * 5 // 4),
    }
    return shapes[str(rng.choice(list(SHAPES), p=list(SHAPES.values())))]


def scene(seed: int, index: int, size: tuple[int, int] = (640, 360), *, far: bool = False) -> Scene:
    """Photo `index` of the endless series `seed`.

    Args:
        seed: of the series; different seeds share no street.
        index: 0, 1, 2, ...
        size: width and height in pixels of the most frequent camera; most others have about the same area.
        far: work zones and decoys may also be far away.
    """
    block, place = divmod(index, BLOCK)
    number, frame, frames, label = _block(seed, block)[place]
    rng = np.random.default_rng([seed, 2, block, number])
    shape = _shape(rng, size)
    orientation = int(rng.choice([1, 3, 6, 8], p=[0.76, 0.06, 0.12, 0.06]))
    quality, camera_seed = int(rng.integers(55, 96)), int(rng.integers(0, 2**31))
    world = build(rng, bool(label), frames, shape, DISTANT if far else USUAL)
    image, objects = paint(world, frame, np.random.default_rng([seed, 3, index]), camera_seed)
    group = f"street-{seed}-{block}-{number}"
    return Scene(image, label, objects, group, world.light.daytime, world.light.weather, orientation, quality)


def encode(photo: Scene) -> bytes:
    """The photo as a JPEG file of its quality, stored with its EXIF orientation."""
    image = photo.image if photo.orientation == 1 else photo.image.transpose(STORED[photo.orientation])
    exif = Image.Exif()
    exif[0x0112] = photo.orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=photo.quality, exif=exif)
    return buffer.getvalue()


def _write(task: tuple[str, int, int, tuple[int, int], bool]) -> dict[str, str]:
    """Write one photo into the folder `task[0]` and return its row of metadata.csv."""
    folder, seed, index, size, far = task
    photo = scene(seed, index, size, far=far)
    name = f"images/{index:06d}.jpg"
    Path(folder, name).write_bytes(encode(photo))
    kinds = " ".join(sorted({kind for kind, _ in photo.objects}))
    values = (name, LABELS[photo.label], photo.group, photo.daytime, photo.weather, kinds)
    row = dict(zip(COLUMNS, values, strict=True))
    if far:
        boxes = [box for kind, box in photo.objects if kind in WORK]
        row[BOXES] = str([[left, top, right - left, bottom - top] for left, top, right, bottom in boxes])
    return row


def generate(
    folder: str | os.PathLike,
    count: int,
    seed: int,
    *,
    workers: int = 2,
    size: tuple[int, int] = (640, 360),
    start: int = 0,
    far: bool = False,
    progress: bool = True,
) -> Path:
    """Write photos `start` to `start + count - 1` of series `seed` with their metadata.csv.

    The folder appears only when it is complete. A folder that already contains the same photos stays unchanged.

    Args:
        folder: to write; it must be absent, empty, or written by the same call.
        count: number of photos, at least 1.
        workers: number of processes.
        size, far: as in `scene`; with `far` the table has a column `boxes`.

    Raises:
        UserError: a number is too small, or the folder contains other files or cannot be written.
    """
    folder = Path(folder)
    if count < 1 or start < 0 or seed < 0 or workers < 1:
        raise UserError(
            f"scenes: expected count and workers of at least 1, seed and start of at least 0; found count {count}, "
            f"workers {workers}, seed {seed}, start {start}"
        )
    settings = {"version": VERSION, "count": count, "seed": seed, "size": list(size), "start": start}
    if far:
        settings["far"] = True
    marker = folder / ".scenes.json"
    if marker.is_file() and json.loads(marker.read_text()) == settings:
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder}: contains other files: remove it or name another folder for {count} scenes of seed {seed}"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}): name another folder") from None
    try:
        (partial / "images").mkdir()
        tasks = [(str(partial), seed, index, size, far) for index in range(start, start + count)]
        rows = _write_all(tasks, workers, progress)
        with open(partial / "metadata.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, (*COLUMNS, BOXES) if far else COLUMNS)
            table.writeheader()
            table.writerows(rows)
        (partial / marker.name).write_text(json.dumps(settings) + "\n")
        partial.chmod(0o755)
        try:
            os.replace(partial, folder)
        except OSError:  # another process may have written the same photos meanwhile
            if not marker.is_file() or json.loads(marker.read_text()) != settings:
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write_all(tasks: list, workers: int, progress: bool) -> list[dict[str, str]]:
    from tqdm.auto import tqdm

    bar = {"total": len(tasks), "desc": "scenes", "unit": "photo", "disable": not progress}
    if workers == 1:
        return list(tqdm(map(_write, tasks), **bar))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        return list(tqdm(pool.map(_write, tasks, chunksize=8), **bar))


def photo_size(text: str) -> tuple[int, int]:
    """Parse width and height, such as `960x540`.

    Raises:
        ValueError: the text has another form, or a side is outside `SIDES`.
    """
    width, height = map(int, text.split("x"))
    if not all(SIDES[0] <= side <= SIDES[1] for side in (width, height)):
        raise ValueError(text)
    return width, height


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m natix_hf.scenes.photos", description="Write generated street photos."
    )
    parser.add_argument("folder", help="folder to write (absent or empty)")
    parser.add_argument("--count", type=int, default=2000, help="number of photos (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="series of photos (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default %(default)s)")
    parser.add_argument("--size", type=photo_size, default=(640, 360), help="WIDTHxHEIGHT in pixels (default 640x360)")
    parser.add_argument(
        "--far", action="store_true", help="work zones are also far away, and the table lists their boxes"
    )
    args = parser.parse_args(argv)
    folder = generate(args.folder, args.count, args.seed, workers=args.workers, size=args.size, far=args.far)
    print(folder)


if __name__ == "__main__":
    command(main)
