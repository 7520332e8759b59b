"""A reader's folder: what the documents call `photos/`, `runs/lora`, `facebook/dinov3-...` and so on, but tiny.

Blocks run in it word for word. Recipes in its `recipes/` are those of the package with small photos, few steps and no
GPU; a checkpoint's id is the name of a folder that holds a random model.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from code_blocks import REPOSITORY, Block, commands
from PIL import Image
from warm import Result, Warm, plain_environment

COLOURS = {"None": (100, 120, 110), "Roadwork": (150, 100, 90)}
CHECKPOINTS = (
    "facebook/dinov3-vits16-pretrain-lvd1689m",
    "facebook/dinov3-vitl16-pretrain-lvd1689m",
    "facebook/dinov3-vith16plus-pretrain-lvd1689m",
    "my-dinov3",
)
SMALL = {
    "dataset_name": "photos",
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "activation_checkpointing": False,
    "dataloader_num_workers": 0,
    "preprocessing_num_workers": 1,
    "disable_tqdm": True,
    "use_cpu": True,
}
# Of 120 photos: enough in val_calib for the calibration of a graph in int8, which needs 30 in each half.
SPLIT_RATIOS = [0.3, 0.1, 0.5, 0.1]
# Runs that pages begin with, and what trains them.
RUNS = {f"runs/{name}": [f"recipes/{name}.yaml", "--dataset_name", "photos/"] for name in ("lora", "probe", "tiles")}


class Reader:
    """The folder, and the commands that are typed in it.

    Args:
        finished: gives the folder of a run of `RUNS`, which is trained when it is first asked for.
    """

    def __init__(self, folder: Path, warm: Warm, home: Path, finished: Callable[[str], Path] | None = None) -> None:
        self.folder, self.warm, self.finished = folder, warm, finished
        self.environment = {
            **plain_environment(),
            "NATIX_HF_HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "MPLBACKEND": "agg",
        }

    def bring_runs(self, page_blocks: list[Block]) -> None:
        """Copy the finished runs that a page uses before it trains them itself into the folder."""
        for name in RUNS:
            if _uses(page_blocks, name):
                shutil.copytree(self.finished(name), self.folder / name)

    def type(self, start: str | Path, words: list[str]) -> Result:
        """Run a module or a script in the folder."""
        return self.warm.run(
            start, tuple(words), self.environment, self.folder, prelude=f"import os; os.chdir({str(self.folder)!r})"
        )

    def has(self, module: str, words: list[str]) -> bool:
        """Whether this is the training of a run that was brought."""
        return module == "natix_hf.train" and any(
            words == RUNS[name] and (self.folder / name).exists() for name in RUNS
        )

    def ran(self, start: str | Path, words: list[str], place: str) -> None:
        done = self.type(start, words)
        assert done.status == 0, f"{place}: {start} {' '.join(words)}: {done.out[-2000:]}\n{done.err[-2000:]}"


def _uses(page_blocks: list[Block], name: str) -> bool:
    """Whether the first command about a run expects it to be there, as trained by its recipe in `RUNS`."""
    for block in page_blocks:
        if block.language == "python":
            if re.search(rf"{name}(?![\w-])", block.text):
                return True
            continue
        for module, words in commands(block.text):
            if any(re.search(rf"{name}(?![\w-])", word) for word in words):
                return True
            if module == "natix_hf.train" and words[0] == RUNS[name][0] and "--output_dir" not in words:
                return words == RUNS[name]
    return False


def write_streets(folder: Path, count: int, seed: int) -> Path:
    """Class folders of tiny photos, with a table of what a street photo may have beside its class."""
    rng = np.random.default_rng(seed)
    rows = []
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(rng.normal(colour, 40, (48, 64, 3)), 0, 255).astype(np.uint8)
            name = f"{label}/{seed}{i:03d}.jpg"
            Image.fromarray(pixels).save(folder / name, quality=90)
            city, weather = ("Boston", "Denver", "Austin")[i % 3], ("dry", "wet")[i % 2]
            rows.append((name, label, f"{label}{seed}{i // 2}", city, weather, ("day", "night")[i // 2 % 2]))
    with open(folder / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file_name", "label", "video_id", "city_name", "weather", "daytime"), *rows])
    return folder


@pytest.fixture(scope="session")
def reader_folder(tmp_path_factory, tiny_backbone: Path) -> Path:
    """What every page finds; links to it make a page's own folder."""
    folder = tmp_path_factory.mktemp("reader")
    for number, name in enumerate(("photos", "more-photos", "photos-of-mycity")):
        write_streets(folder / name, 60, seed=number)
    (folder / "dashcam").mkdir()
    for photo in sorted((folder / "more-photos").rglob("*.jpg")):
        shutil.copy(photo, folder / "dashcam" / f"{photo.parent.name}-{photo.name}")
    shutil.copy(next((folder / "more-photos" / "None").glob("*.jpg")), folder / "street.jpg")
    for name in CHECKPOINTS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(tiny_backbone)
    (folder / "recipes").mkdir()
    for recipe in (REPOSITORY / "recipes").glob("*.yaml"):
        keys = yaml.safe_load(recipe.read_text())
        keys |= {key: value for key, value in SMALL.items() if recipe.stem != "explora" or key != "num_train_epochs"}
        keys["image_size"] = [32, 48] if recipe.stem == "wide" else 32
        if recipe.stem != "explora":
            keys["split_ratios"] = SPLIT_RATIOS
        if keys.get("probe_heads") == "grid":
            keys["probe_learning_rates"] = [1e-2, 1e-1]
        if recipe.stem == "tiles":
            keys["views_grid"] = 2
        (folder / "recipes" / recipe.name).write_text(yaml.safe_dump(keys))
    return folder


@pytest.fixture(scope="session")
def finished_run(reader_folder: Path, warm: Warm, tmp_path_factory) -> Callable[[str], Path]:
    """A function: the name of a run of `RUNS` to its folder; it is trained when it is first asked for."""
    reader = Reader(reader_folder, warm, tmp_path_factory.mktemp("runs-home"))

    def train(name: str) -> Path:
        if not (reader_folder / name).exists():
            reader.ran("natix_hf.train", RUNS[name], name)
        return reader_folder / name

    return train


@pytest.fixture
def reader(tmp_path: Path, reader_folder: Path, warm: Warm, finished_run: Callable[[str], Path]) -> Reader:
    """A folder of a page's own."""
    folder = tmp_path / "reader"
    folder.mkdir()
    for name in os.listdir(reader_folder):
        if name != "runs":
            (folder / name).symlink_to(reader_folder / name)
    return Reader(folder, warm, tmp_path / "home", finished_run)
