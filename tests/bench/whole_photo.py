"""What wide photos cost and bring: one arm beside another on the same generated streets, paired by group.

    python tests/bench/whole_photo.py [--count 720] [--seeds 0 1] [--draws 0 1 2] [--arms ...] [--backbone PATH]

The streets are 960 x 540 with work zones down to 6 pixels of a squashed 224 square; a camera's sequence is a group. An
arm is trained once for each seed and each draw of the four splits, by the verb `train`; a probe's features are
computed once an arm. Rows of all seeds and draws are pooled, and a street that was drawn several times is resampled as
one. Runs that are finished are kept, so that a bench that was ended goes on. Prints Markdown. An arm whose options
this release does not have is left out with a line.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from natix_hf.data.sources.known_sources import drawn_scenes
from natix_hf.decision.calibration import Calibration
from natix_hf.decision.cascade import TwoStages
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.photo_cost import PhotoCost
from natix_hf.documents.step_record import StepRecord
from natix_hf.recipe.options import Recipe
from natix_hf.recipe.yaml_and_command_line import RecipeParser
from natix_hf.report.intervals import bootstrap_intervals, group_count, paired_differences
from natix_hf.report.metrics import LOWER_IS_BETTER
from natix_hf.runs.saved_logits import read_predictions

ROOT = Path(__file__).resolve().parents[2]
RATIOS = ("0.5", "0.1", "0.1", "0.3")
SHARED = ("--near_duplicates", "false", "--slices", "object_size", "--until", "assemble", "--disable_tqdm", "true")
FIRST = "224 squash"
TILES = ("--views", "tiles", "--views_grid", "3")
LORA = ("--lora_last_blocks", "2", "--learning_rate", "1e-3")
LORA += ("--gradient_accumulation_steps", "1", "--activation_checkpointing", "false")


def tiled(run: Path, photos: Sequence[Path]) -> np.ndarray:
    """Logits of a model that was trained without tiles: the mean of the two largest log-odds among whole and tiles."""
    from natix_hf.inference.batches import logits_of, pixels_of
    from natix_hf.inference.classify import load_classifier
    from natix_hf.photos.decode import open_photo
    from natix_hf.photos.geometry import tile_boxes

    model, processor = load_classifier(str(run))
    odds = []
    for path in photos:
        photo = open_photo(path)
        boxes = tile_boxes(*photo.size, (3, 3), 0.2)
        views = [photo, *(photo.crop((left, top, left + w, top + h)) for left, top, w, h in boxes)]
        logits = logits_of(model, torch.stack([pixels_of(view, processor) for view in views]))
        odds.append(np.sort(logits[:, 1] - logits[:, 0])[-2:].mean())
    return np.stack([np.zeros(len(odds)), odds], axis=1)


def mirrored(run: Path, photos: Sequence[Path]) -> np.ndarray:
    """Logits averaged over a photo and its mirror image, calibrated anew for that."""
    from natix_hf import predict, recalibrate

    own, table, found = (run.with_name(f"{run.name}-mirrored{end}") for end in ("", ".csv", "-predictions.csv"))
    recalibrate.main([str(run), "--tta", "flip", "--output", str(own)])
    table.write_text("\n".join(["image", *map(str, photos)]) + "\n")
    predict.main([str(own), str(table), "--tta", "flip", "--output", str(found)])
    with found.open(newline="") as file:
        shares = np.array([float(row["p_Roadwork"]) for row in csv.DictReader(file)]).clip(1e-6, 1 - 1e-6)
    return np.log(np.stack([1 - shares, shares], axis=1))


@dataclass(frozen=True)
class Arm:
    """How one row of the table is made.

    Attributes:
        words: for the command line of `train`.
        recipe: that it trains by.
        seen: gives `(n, 2)` logits of photos by the run of `FIRST`, where nothing is trained.
        views: how many times the views of `FIRST` that shows.
        needs: `module:name` that has to be there.
    """

    words: tuple[str, ...] = ()
    recipe: str = "probe"
    seen: Callable[[Path, Sequence[Path]], np.ndarray] | None = None
    views: int = 1
    needs: str = ""

    def missing(self, known: set[str]) -> list[str]:
        """What of it this release does not have; `known` are the keys of a recipe."""
        found = [word for word in self.words if word.startswith("--") and word[2:] not in known]
        module, _, name = self.needs.partition(":")
        there = not module or (find_spec(module) and hasattr(import_module(module), name))
        return found if there else [*found, self.needs]


ARMS = {
    FIRST: Arm(("--image_size", "224")),
    "224 crop": Arm(("--image_size", "224", "--resize", "crop")),
    "256 x 448": Arm(("--image_size", "256", "448")),
    "384 x 672": Arm(("--image_size", "384", "672")),
    "tiles at test time": Arm(seen=tiled, views=10, needs="natix_hf.photos.geometry:tile_boxes"),
    "mirrored at test time": Arm(seen=mirrored, views=2, needs="natix_hf.inference.averaged_views:asked_views"),
    "tiles, probe": Arm(("--image_size", "224", *TILES)),
    "224 squash, LoRA": Arm(("--image_size", "224", *LORA), "lora"),
    "256 x 448, LoRA": Arm(("--image_size", "256", "448", *LORA), "lora"),
    "tiles, LoRA": Arm(("--image_size", "224", *TILES, *LORA), "lora"),
    "tiles, early exits": Arm(("--image_size", "224", *TILES, "--views_exit", "0.1", "0.9")),
}


class Rows(NamedTuple):
    """Test rows of several runs of an arm, one behind the other.

    Attributes:
        ids, groups, sizes: `(n,)` names of photos and streets, class of the largest object.
        labels: `(n,)` class ids; 1 is roadwork.
        logits: `(n, 2)` as served, after calibration.
    """

    ids: np.ndarray
    groups: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    logits: np.ndarray


def finished(given: argparse.Namespace, name: str, seed: int, draw: int) -> bool:
    folder = run_folder(given, name, seed, draw)
    return logits_file(folder).is_file() if ARMS[name].seen else StepRecord.path(folder, "assemble").is_file()


def make(given: argparse.Namespace, name: str, seed: int, draw: int) -> None:
    """Make an arm in this process, unless that was done; exits where the job fails."""
    from natix_hf import train as verb

    if finished(given, name, seed, draw):
        return
    arm, folder = ARMS[name], run_folder(given, name, seed, draw)
    if arm.seen:
        photos, run = Path(drawn_scenes(scenes(given))), run_folder(given, FIRST, seed, draw)
        print(f"== {folder.name}", file=sys.stderr, flush=True)
        np.save(logits_file(folder), arm.seen(run, [photos / name for name in test_rows([run]).ids]))
        return
    words = ["--dataset_name", "builtin:scenes", "--dataset_config", scenes(given)]
    words += ["--model_name_or_path", given.backbone, "--split_ratios", *RATIOS, "--split_seed", str(draw)]
    words += ["--seed", str(seed), "--output_dir", str(folder), "--overwrite_output_dir", "true", *SHARED]
    print(f"== {folder.name}", file=sys.stderr, flush=True)
    verb.main([str(ROOT / "recipes" / f"{arm.recipe}.yaml"), *words, *arm.words])


def test_rows(folders: list[Path]) -> Rows:
    """The test rows of some runs, in the order of the ids within each."""
    parts = []
    for folder in folders:
        fitted = CalibrationFile.read(folder)
        saved = read_predictions(folder, "val_test", fitted=fitted)
        order = np.argsort(saved.ids.astype(str))
        served = Calibration.from_document(fitted).served(saved.logits)
        columns = (saved.ids, saved.group, saved.slices["object_size"], saved.label, served)
        parts.append([column[order] for column in columns])
    return Rows(*map(np.concatenate, zip(*parts)))


# A column: its head, the metric, the rows that it is of, and whether it is what that metric lacks to 1.
def columns(rows: Rows) -> list[tuple[str, str, np.ndarray, bool]]:
    """What is told of an arm; missed roadwork also by the size of its largest object."""
    everything = np.ones(len(rows.labels), bool)
    found = [(head, name, everything, False) for head, name in (("AUROC", "auroc"), ("MCC", "mcc"))]
    found += [(head, "accuracy", rows.labels == label, True) for head, label in (("FPR", 0), ("FNR", 1))]
    for size in ("small", "medium", "large"):
        inside = (rows.labels == 1) & np.char.startswith(rows.sizes.astype(str), size)
        if inside.any():
            found.append((f"FNR, {size}", "accuracy", inside, True))
    return [*found, ("NLL", "log_loss", everything, False)]


def figures(rows: Rows) -> list[str]:
    """The cells of an arm, each with its interval."""
    cells = []
    for _, name, inside, lacks in columns(rows):
        found = bootstrap_intervals(rows.logits[inside], rows.labels[inside], rows.groups[inside])[name]
        value, low, high = (found[end] for end in ("value", "low", "high"))
        value, low, high = (1 - value, 1 - high, 1 - low) if lacks else (value, low, high)
        cells.append(f"{value:.3f} ({low:.3f} to {high:.3f})")
    return cells


def differences(rows: Rows, first: Rows) -> list[str]:
    """An arm less the first on the same photos; a star where the interval leaves 0 out."""
    cells = []
    for _, name, inside, lacks in columns(rows):
        one, other = (each.logits[inside] for each in (rows, first))
        found = paired_differences(one, other, rows.labels[inside], rows.groups[inside])[name]
        value, low, high = (found[end] for end in ("difference", "low", "high"))
        value, low, high = (-value, -high, -low) if lacks else (value, low, high)
        worse = (value > 0) == (lacks or name in LOWER_IS_BETTER)
        star = "" if low <= 0 <= high else " worse" if worse else " better"
        cells.append(f"{value:+.3f} ({low:+.3f} to {high:+.3f}){star}")
    return cells


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Markdown."""
    return ["| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows)]


def report(arms: list[str], pairs: list[tuple[int, int]], given: argparse.Namespace) -> list[str]:
    """Both tables of the pairs of seed and draw that all arms have finished."""
    found = {name: arm_rows(given, name, pairs) for name in arms}
    first = found[arms[0]]
    for name, rows in found.items():
        if not np.array_equal(rows.ids, first.ids):
            sys.exit(f"{name}: tested on other photos than {arms[0]}: remove {given.output} and begin anew")
    photos, groups = len(set(first.ids)), group_count(first.groups, len(first.ids))
    heads = [head for head, *_ in columns(first)]
    body = []
    for name, rows in found.items():
        folders = [run_folder(given, FIRST if ARMS[name].seen else name, *pair) for pair in pairs]
        costs = [PhotoCost.read(folder) for folder in folders]
        views = np.mean([views_seen(folder, ARMS[name].views * one.views) for folder, one in zip(folders, costs)])
        times = views / costs[0].views  # what a photo costs goes with its views
        seconds = times * np.median([one.seconds for one in costs])
        cells = [f"{times * costs[0].flop / 1e9:.3g}", f"{seconds:.3f}", f"{views:.3g}"]
        body.append([name, *figures(rows), *cells])
    lines = [
        f"Checkpoint `{Path(given.backbone).name}`, {given.count} streets of {given.size}; {len(pairs)} runs an arm "
        f"(seed, draw: {', '.join(map(str, pairs))}), {len(first.ids)} test rows of {photos} photos in {groups} "
        f"groups. 95 % intervals from 1000 resamples of groups. Seconds: of the network, {costs[0].device}.",
        "",
        *table(["arm", *heads, "GFLOP", "s a photo", "views"], body),
        "",
        *table(
            [f"less {arms[0]}", *heads], [[name, *differences(rows, first)] for name, rows in list(found.items())[1:]]
        ),
    ]
    return lines


def views_seen(folder: Path, views: int) -> float:
    """Views of a test photo on average: fewer than `views` where some leave after the first."""
    fitted = CalibrationFile.read(folder)
    if fitted.cascade is None:
        return views
    early = TwoStages.from_document(fitted.cascade, fitted.positive).leaves_early(
        read_predictions(folder, "val_test").whole
    )
    return views - (views - 1) * float(early.mean())


def arm_rows(given: argparse.Namespace, name: str, pairs: list[tuple[int, int]]) -> Rows:
    """The pooled test rows of an arm; what `FIRST` was shown otherwise has its rows and other logits."""
    if not ARMS[name].seen:
        return test_rows([run_folder(given, name, *pair) for pair in pairs])
    logits = [np.load(logits_file(run_folder(given, name, *pair))) for pair in pairs]
    return test_rows([run_folder(given, FIRST, *pair) for pair in pairs])._replace(logits=np.concatenate(logits))


def scenes(given: argparse.Namespace) -> str:
    return f"{given.count} {given.size} far"


def logits_file(folder: Path) -> Path:
    return folder.with_suffix(".npy")


def run_folder(given: argparse.Namespace, name: str, seed: int, draw: int) -> Path:
    return given.output / f"{name.replace(',', '').replace(' ', '-')}-seed{seed}-draw{draw}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="builtin:demo-backbone", help="folder of a checkpoint")
    parser.add_argument("--count", type=int, default=720, help="streets (default %(default)s)")
    parser.add_argument("--size", default="960x540", help="of the most frequent camera (default %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2], help="split seeds")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "whole_photo")
    parser.add_argument("--table", action="store_true", help="train nothing, tell of what is finished")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    known = {action.dest for action in RecipeParser(Recipe)._actions}
    arms = []
    for name in [FIRST, *(name for name in given.arms if name != FIRST)]:
        if missing := ARMS[name].missing(known):
            print(f"{name}: left out, this release has no {', '.join(missing)}", file=sys.stderr)
        else:
            arms.append(name)
    pairs = [(seed, draw) for draw in given.draws for seed in given.seeds]
    for pair in [] if given.table else pairs:
        for name in arms:
            make(given, name, *pair)
    done = [pair for pair in pairs if all(finished(given, name, *pair) for name in arms)]
    if not done:
        sys.exit("no seed and draw is finished for all arms")
    print("\n".join(report(arms, done, given)))


if __name__ == "__main__":
    main()
