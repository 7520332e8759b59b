"""The photos of `speed.py`: scenes as JPEG files of one size, drawn once."""

from __future__ import annotations

import csv
import itertools
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from natix_hf.scenes.photos import LABELS, scene

SIZE = (1280, 720)


def draw(folder: Path, count: int) -> Path:
    """`count` generated photos of one size in `folder/images`, and `folder/labels.csv` of path, label and group."""
    done = folder / "labels.csv"
    if not done.exists():
        numbers, rows = itertools.count(), []
        (folder / "images").mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor() as pool:
            while len(rows) < count:
                part = [next(numbers) for _ in range(64)]
                rows += [row for row in pool.map(_one, [(folder, n) for n in part], chunksize=8) if row]
        with open(done, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerows([("image_path", "label", "group"), *rows[:count]])
        for row in rows[count:]:
            (folder / row[0]).unlink()
    return folder


def _one(task: tuple[Path, int]) -> tuple[str, str, str] | None:
    folder, number = task
    drawn = scene(7, number, SIZE)
    if drawn.image.size != SIZE:
        return None
    name = f"images/{number:06d}.jpg"
    drawn.image.save(folder / name, quality=90)
    return name, LABELS[drawn.label], drawn.group
