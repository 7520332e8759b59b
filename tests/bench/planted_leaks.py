"""How many planted copies are found, how many frames of one camera are taken for copies, and what a random split does.

    python tests/bench/planted_leaks.py [--count 2000] [--seed 20260] [--folder /tmp/leaks]

Four fifths of the photos are generated streets (sequences and single photos), the rest altered copies of some of
them, written as files and read back as the package reads photos. Prints Markdown. Thresholds were chosen on other
seeds. A fixed part of what a copy is: 5 % of width and height (or of one of them) cut off, in nine placements.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from natix_hf.data.duplicates.near_duplicates import find_copies
from natix_hf.data.splits.cut import assign
from natix_hf.data.splits.groups import group_rows
from natix_hf.data.splits.places import components
from natix_hf.photos.decode import open_photo
from natix_hf.photos.perceptual_hashes import QUERIES, look
from natix_hf.scenes.photos import generate

CUT = 0.05
# Shares of the cut-off strip that lie at the left and at the top; None cuts nothing along that axis.
CUTS = ((0.5, 0.5), (0, None), (1, None), (None, 0), (None, 1), (0, 0), (0, 1), (1, 0), (1, 1))


def crop(photo: Image.Image, number: int) -> Image.Image:
    """The photo without 5 % of its width and height, at placement `number` of `CUTS`."""
    bounds = []
    for size, share in zip(photo.size, CUTS[number % len(CUTS)]):
        strip = 0 if share is None else round(size * CUT)
        begin = round(strip * (share or 0))
        bounds.append((begin, begin + size - strip))
    (left, right), (top, bottom) = bounds
    return photo.crop((left, top, right, bottom))


ALTERATIONS: dict[str, tuple[Callable[[Image.Image, int], Image.Image], int]] = {  # name -> what is done, JPEG quality
    "JPEG quality 60": (lambda photo, _: photo, 60),
    "resized 50 %": (lambda photo, _: photo.resize((photo.width // 2, photo.height // 2)), 90),
    "cropped 5 %": (crop, 90),
    "flipped": (lambda photo, _: ImageOps.mirror(photo), 90),
    "brightness +20 %": (lambda photo, _: ImageEnhance.Brightness(photo).enhance(1.2), 90),
}


def alter(folder: Path, task: tuple[str, int, str]) -> str:
    """Write one altered copy; returns its file name."""
    source, number, name = task
    change, quality = ALTERATIONS[name]
    target = f"copy-{number:05d}.jpg"
    change(open_photo(folder / source), number // len(ALTERATIONS)).save(folder / target, quality=quality)
    return target


def read(path: Path) -> tuple[str, bytes, float, float]:
    """Fingerprint and look of a photo, seconds for decoding and for the look."""
    content = path.read_bytes()
    begin = time.perf_counter()
    photo = open_photo(content)
    decoded = time.perf_counter()
    seen = look(photo)
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return digest, seen, decoded - begin, time.perf_counter() - decoded


def same_pixels(paths: list[Path], first: int, second: int) -> bool:
    one, two = (open_photo(io.BytesIO(paths[row].read_bytes()).getvalue()) for row in (first, second))
    return one.size == two.size and one.tobytes() == two.tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=2000, help="photos, a fifth of them copies (default %(default)s)")
    parser.add_argument("--seed", type=int, default=20260, help="series of generated photos (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="kept and used again; default: a temporary one")
    parser.add_argument("--workers", type=int, default=2, help="processes (default %(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(given.folder or Path(temporary) / "leaks", given.count, given.seed, given.workers)


def measure(folder: Path, count: int, seed: int, workers: int) -> None:
    copies = count // 5 // len(ALTERATIONS) * len(ALTERATIONS)
    originals = count - copies
    generate(folder, originals, seed, workers=workers, progress=False)
    with open(folder / "metadata.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [row["file_name"] for row in rows]
    root = np.arange(count)  # the original of each row
    root[originals:] = np.random.default_rng(seed).permutation(originals)[:copies]
    kinds = [list(ALTERATIONS)[number % len(ALTERATIONS)] for number in range(copies)]
    with ProcessPoolExecutor(workers) as pool:
        tasks = [(names[root[originals + number]], number, kind) for number, kind in enumerate(kinds)]
        names += pool.map(partial(alter, folder), tasks, chunksize=16)
        paths = [folder / name for name in names]
        prints, looks, decoding, looking = zip(*pool.map(read, paths, chunksize=16))
    print(f"{count} photos, {copies} of them altered copies ({copies // len(ALTERATIONS)} per alteration)")
    print(f"decoding {np.median(decoding) * 1e3:.1f} ms a photo, its look {np.median(looking) * 1e3:.1f} ms (medians)")

    begin = time.perf_counter()
    found = find_copies(looks)
    print(f"near-duplicates: {found.compared} of {count * (count - 1) // 2 * QUERIES} pairs and queries compared on")
    print(f"thumbnails, {found.crowded} crowded, {time.perf_counter() - begin:.1f} s\n")
    labels = [rows[i]["label"] for i in root]
    sequence = [rows[i]["group"] for i in root]
    begin = time.perf_counter()
    # A copy that leaks carries no name of its sequence.
    own = [*sequence[:originals], *[None] * copies]
    grouping = group_rows(names, {"group": own}, prints, looks, same_pixels=partial(same_pixels, paths))
    print(f"grouping {time.perf_counter() - begin:.1f} s, ties {grouping.ties}, largest {grouping.largest}\n")

    first, second = (
        np.array([getattr(pair, end) for pair in grouping.pairs], dtype=int) for end in ("first", "second")
    )
    photo = components(count, first, second)
    hit = photo[originals:] == photo[root[originals:]]
    print("| alteration | copies | found | recall |\n|---|---|---|---|")
    for kind in ALTERATIONS:
        of_kind = np.array([name == kind for name in kinds])
        print(f"| {kind} | {of_kind.sum()} | {hit[of_kind].sum()} | {hit[of_kind].mean():.3f} |")
    right = root[first] == root[second]
    frames = ~right & (np.array(sequence)[first] == np.array(sequence)[second])
    sizes = np.unique(sequence[:originals], return_counts=True)[1]
    print(f"\nverified pairs {len(first)}: {right.sum()} of copies, {frames.sum()} of two frames of one sequence (of")
    print(f"{(sizes * (sizes - 1) // 2).sum()} such pairs), {(~right & ~frames).sum()} of unrelated photos;")
    print(f"precision {right.mean():.4f}\n")

    grouped = np.array(assign(labels, [grouping.names[number] for number in grouping.numbers], names))
    naive = np.array(assign(labels, [None] * count, names))
    print("| split | verified pairs that straddle | planted copies that straddle |\n|---|---|---|")
    for name, split in (("random rows", naive), ("whole groups", grouped)):
        apart = (split[originals:] != split[root[originals:]]).sum()
        print(f"| {name} | {(split[first] != split[second]).sum()} of {len(first)} | {apart} of {copies} |")


if __name__ == "__main__":
    main()
