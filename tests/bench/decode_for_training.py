"""Photos a second from 1080p JPEGs to a training view of 224 pixels: plain PIL, first reads, the pre-resized copy.

    python tests/bench/decode_for_training.py [--photos 200] [--image_size 224] [--folder FOLDER]

Draws the photos once (1920x1080, JPEG quality 90), makes the copy, then reads all of them in every way, one after the
other on one core, in five rounds, and prints medians and ratios as Markdown; then the same for the parts of our ways.
Plain PIL opens, converts, resizes and makes a tensor, without augmentation; first read and copy are what a training
run does (`TrainingPhotos`, augment basic). Not a test: it takes minutes.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset, Features, Value
from datasets import Image as Photo
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from natix_hf.files import fingerprint_bytes
from natix_hf.inference.augment import training_view
from natix_hf.photos.copies import PhotoCopies, copied, open_copy, photo_copies
from natix_hf.photos.decode import open_photo
from natix_hf.photos.geometry import Squash
from natix_hf.scenes.photos import scene
from natix_hf.training.training_photos import TrainingPhotos

SIZE = (1920, 1080)
ROUNDS = 5


def draw(task: tuple[Path, int]) -> None:
    """Write scene `number`, if its camera has the size asked for (others are smaller, larger or upright)."""
    folder, number = task
    image = scene(0, number, SIZE).image
    if image.size == SIZE:
        image.save(folder / f"{number:05d}.jpg", quality=90)


def photo_rows(folder: Path, count: int) -> Dataset:
    """`count` rows with `id, image (a path), label, fingerprint`; photos that are not there yet are drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        for start in itertools.count(step=64):
            if len(list(folder.glob("*.jpg"))) >= count:
                break
            list(pool.map(draw, [(folder, start + i) for i in range(64)], chunksize=4))
    paths = sorted(folder.glob("*.jpg"))[:count]
    columns = {
        "id": [path.name for path in paths],
        "image": [{"bytes": None, "path": str(path)} for path in paths],
        "label": [0] * count,
        "fingerprint": [fingerprint_bytes(path.read_bytes()) for path in paths],
    }
    kinds = {"id": Value("string"), "image": Photo(decode=False), "label": Value("int64")}
    return Dataset.from_dict(columns, features=Features({**kinds, "fingerprint": Value("string")}))


def seconds(work: Callable[[int], object], count: int) -> float:
    """Seconds of the processor that one item takes, over all of them; what else the machine does is not counted."""
    begin = time.process_time()
    for index in range(count):
        work(index)
    return (time.process_time() - begin) / count


def alternating(ways: dict[str, Callable[[int], object]], count: int) -> dict[str, list[float]]:
    """Seconds a photo of every way in every round; the ways take turns, so that a busy machine troubles all alike."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, work in ways.items():
            times[name].append(seconds(work, count))
    return times


def table(times: dict[str, list[float]]) -> list[str]:
    """Ways with their median time, and how many times as quick as the first they are, least and most over rounds."""
    base = next(iter(times.values()))
    lines = ["| way | ms a photo | photos a second | times the first |", "|---" * 4 + "|"]
    for name, taken in times.items():
        ratios = [first / own for first, own in zip(base, taken)]
        quick = statistics.median(base) / statistics.median(taken)
        lines.append(
            f"| {name} | {statistics.median(taken) * 1e3:.2f} | {1 / statistics.median(taken):.0f} | "
            f"{quick:.1f} ({min(ratios):.1f} to {max(ratios):.1f}) |"
        )
    return lines


def ways(rows: Dataset, image_size: int, copies: PhotoCopies) -> dict[str, Callable[[int], object]]:
    """The whole ways from photo `i` of `rows` to a view `(3, image_size, image_size)`, plain PIL first."""
    options = {"augment": "basic", "geometry": Squash(image_size), "seed": 0}
    first, copy = TrainingPhotos(rows, **options), TrainingPhotos(rows, **options, copies=copies)
    paths = [photo["path"] for photo in rows["image"][:]]

    def plain(index: int) -> torch.Tensor:
        with Image.open(paths[index]) as image:
            small = image.convert("RGB").resize((image_size, image_size), Image.Resampling.BILINEAR)
        return pil_to_tensor(small)

    return {
        "plain PIL": plain,
        "first read": lambda i: first[(0, i)],
        "pre-resized copy": lambda i: copy[(0, i)],
    }


def compare(rows: Dataset, image_size: int, cache: Path) -> list[str]:
    """The two tables, in Markdown: whole ways, and the parts of ours."""
    side, count = Squash(image_size).copy_side(), len(rows)
    copies = photo_copies(rows, side=side, cache_dir=cache, num_proc=1)
    paths = [photo["path"] for photo in rows["image"][:]]
    originals = [{"bytes": Path(path).read_bytes(), "path": path} for path in paths]
    stored, fingerprints = [copies[i] for i in range(count)], rows["fingerprint"][:]
    halves = [open_photo(photo, min_side=side) for photo in originals]
    opened = [open_copy(content, min_side=side) for content in stored]
    view = partial(training_view, augment="basic", geometry=Squash(image_size), seed=0, epoch=0, row_id="a")
    parts = {
        "making a copy: decode, resize, encode": lambda i: copied(originals[i], fingerprints[i], side),
        "first read: decode": lambda i: open_photo(originals[i], min_side=side),
        "first read: view": lambda i: view(halves[i]),
        "copy: read and check": lambda i: copies[i],
        "copy: decode": lambda i: open_copy(stored[i], min_side=side),
        "copy: view": lambda i: view(opened[i]),
    }
    sizes = [sum(map(len, contents)) / count / 1e3 for contents in ([p["bytes"] for p in originals], stored)]
    return [
        f"{count} photos of {SIZE[0]}x{SIZE[1]}, {sizes[0]:.0f} kB each; copies with a short side of {side}, "
        f"{sizes[1]:.0f} kB each; views of {image_size} px; one core, medians of {ROUNDS} rounds.",
        "",
        *table(alternating(ways(rows, image_size, copies), count)),
        "",
        *table(alternating(parts, count)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=200, help="number of photos (default %(default)s)")
    parser.add_argument("--image_size", type=int, default=224, help="pixels of the view (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the photos are kept; a temporary folder by default")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="decode-for-training-") as temporary:
        rows = photo_rows(arguments.folder or Path(temporary) / "photos", arguments.photos)
        print("\n".join(compare(rows, arguments.image_size, Path(temporary) / "cache")))


if __name__ == "__main__":
    main()
