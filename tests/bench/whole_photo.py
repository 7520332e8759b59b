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
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from natix_hf.decision.calibration import Calibration
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.photo_cost import PhotoCost
from natix_hf.documents.step_record import StepRecord
from natix_hf.recipe.yaml_and_command_line import RecipeParser
from natix_hf.report.intervals import bootstrap_intervals, group_count, paired_differences
from natix_hf.report.metrics import LOWER_IS_BETTER
from natix_hf.runs.saved_logits import read_predictions

ROOT = Path(__file__).resolve().parents[2]
RATIOS = ("0.5", "0.1", "0.1", "0.3")
SHARED = ("--near_duplicates", "false", "--slices", "object_size", "--until", "assemble", "--disable_tqdm", "true")
FIRST = "224 squash"
TILES = ("--views", "tiles", "--views_grid", "3")
LORA = ("--lora_last_blocks", "2", "--gradient_accumulation_steps", "1", "--activation_checkpointing", "false")


@dataclass(frozen=True)
class Arm:
    """How one row of the table is trained: recipe, and words for the command line of `train`."""

    words: tuple[str, ...]
    recipe: str = "probe"

    def missing(self, known: set[str]) -> list[str]:
        """The keys of its words that this release does not know."""
        return [word for word in self.words if word.startswith("--") and word[2:] not in known]


ARMS = {
    FIRST: Arm(("--image_size", "224")),
    "224 crop": Arm(("--image_size", "224", "--resize", "crop")),
    "256 x 448": Arm(("--image_size", "256", "448")),
    "384 x 672": Arm(("--image_size", "384", "672")),
    "tiles, probe": Arm(("--image_size", "224", *TILES)),
    "224 squash, LoRA": Arm(("--image_size", "224", *LORA), "lora"),
    "256 x 448, LoRA": Arm(("--image_size", "256", "448", *LORA), "lora"),
    "tiles, LoRA": Arm(("--image_size", "224", *TILES, *LORA), "lora"),
    "tiles, early exits": Arm(("--image_size", "224", *TILES, "--views_exit", "risk")),
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


def train(arm: Arm, folder: Path, seed: int, draw: int, given: argparse.Namespace) -> None:
    """Train an arm in this process, unless that was done; exits where the job fails."""
    from natix_hf import train as verb

    if StepRecord.path(folder, "assemble").is_file():
        return
    words = ["--dataset_name", "builtin:scenes", "--dataset_config", f"{given.count} {given.size} far"]
    words += ["--model_name_or_path", given.backbone, "--split_ratios", *RATIOS, "--split_seed", str(draw)]
    words += ["--seed", str(seed), "--output_dir", str(folder), "--overwrite_output_dir", "true", *SHARED]
    print(f"== {folder.name}", file=sys.stderr, flush=True)
    verb.main([str(ROOT / "recipes" / f"{arm.recipe}.yaml"), *words, *arm.words])


def test_rows(folders: list[Path]) -> Rows:
    """The test rows of some runs, in the order of the ids within each."""
    parts = []
    for folder in folders:
        saved = read_predictions(folder, "val_test")
        order = np.argsort(saved.ids.astype(str))
        served = Calibration.from_document(CalibrationFile.read(folder)).served(saved.logits)
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
    found = {name: test_rows([run_folder(given, name, *pair) for pair in pairs]) for name in arms}
    first = found[arms[0]]
    for name, rows in found.items():
        if not np.array_equal(rows.ids, first.ids):
            sys.exit(f"{name}: tested on other photos than {arms[0]}: remove {given.output} and begin anew")
    photos, groups = len(set(first.ids)), group_count(first.groups, len(first.ids))
    heads = [head for head, *_ in columns(first)]
    cost = {name: PhotoCost.read(run_folder(given, name, *pairs[0])) for name in arms}
    body = []
    for name, rows in found.items():
        one = cost[name]
        body.append([name, *figures(rows), f"{one.flop / 1e9:.3g}", f"{one.seconds:.3f}", str(one.views)])
    lines = [
        f"Checkpoint `{Path(given.backbone).name}`, {given.count} streets of {given.size}; {len(pairs)} runs an arm "
        f"(seed, draw: {', '.join(map(str, pairs))}), {len(first.ids)} test rows of {photos} photos in {groups} "
        f"groups. 95 % intervals from 1000 resamples of groups. Seconds: {cost[arms[0]].device}.",
        "",
        *table(["arm", *heads, "GFLOP", "s a photo", "views"], body),
        "",
        *table(
            [f"less {arms[0]}", *heads], [[name, *differences(rows, first)] for name, rows in list(found.items())[1:]]
        ),
    ]
    return lines


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
    known = {action.dest for action in RecipeParser()._actions}
    arms = []
    for name in given.arms:
        if missing := ARMS[name].missing(known):
            print(f"{name}: left out, this release has no {', '.join(missing)}", file=sys.stderr)
        else:
            arms.append(name)
    pairs = [(seed, draw) for draw in given.draws for seed in given.seeds]
    for pair in [] if given.table else pairs:
        for name in arms:
            train(ARMS[name], run_folder(given, name, *pair), *pair, given)
    finished = [
        pair
        for pair in pairs
        if all(StepRecord.path(run_folder(given, name, *pair), "assemble").is_file() for name in arms)
    ]
    if not finished:
        sys.exit("no seed and draw is finished for all arms")
    print("\n".join(report(arms, finished, given)))


if __name__ == "__main__":
    main()
