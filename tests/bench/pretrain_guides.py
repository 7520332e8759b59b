"""Pretraining guided by a column that goes with the class in train but not in val_select: what probes find.

    python tests/bench/pretrain_guides.py --column camera --seeds 0 1
    python tests/bench/pretrain_guides.py --column weather --seeds 0 1

Streets are drawn. With `camera` half of the groups are seen by a camera with a warm cast; in train it took nine of ten
groups with roadwork and one of ten without, in the other splits and in the pool half of each. With `weather` it is bad
(rain, fog, snow) in nine of ten photos with roadwork and good in nine of ten without, since the others of train are
left out. Each objective pretrains without guides and with the column as spurious or informative. A line of Markdown
for each run has the probes of the original and of the last milestone: balanced accuracy for the column with the paired
difference beside the original, the class probe with all labels and its difference, and its worst slice.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PhotoFile
from transformers import AutoConfig

from natix_hf import load_photos
from natix_hf.data.splits.contracts import SPLITS, LockedSplits
from natix_hf.data.splits.unlabelled_pool import read_pool
from natix_hf.documents.pretraining import MilestoneChoice
from natix_hf.modeling.checkpoints import load_backbone, load_processor, local_folder
from natix_hf.photos.geometry import GEOMETRIES
from natix_hf.runs.judge_guides import slice_text
from natix_hf.runs.pretrain_run import finish_pretraining, pretrain_run
from natix_hf.scenes.photos import LABELS, generate
from natix_hf.training.pretrain.pretrain_options import PretrainOptions
from natix_hf.training.pretrain.pretrain_trainer import PretrainTrainer
from natix_hf.training.pretrain.pretraining_arguments import PretrainingArguments
from natix_hf.training.pretrain.student import Student

BASE = "builtin:demo-backbone"
SIZE = (192, 112)  # of the most frequent camera, in pixels
BAD = {"rain", "fog", "snow"}
WITH_CLASS = 0.9  # share of the photos of train whose weather goes with their class
CAST = np.array([1.2, 1.0, 0.75], dtype=np.float32)  # of the warm camera, on red, green and blue
SHARES = {"train": 0.45, "val_select": 0.45, "val_calib": 0.05, "val_test": 0.05}


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metadata.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def described(folder: Path, column: str, train: set[str], seed: int) -> tuple[Path, list[dict[str, str]]]:
    """The folder of the photos as the cameras saw them, and their rows with the column as it goes with the class."""
    chance, rows = np.random.default_rng(seed), table(folder)
    work = {row["group"]: row["label"] == LABELS[1] for row in rows}
    drawn = dict(zip(sorted(work), chance.random(len(work)).tolist()))
    if column == "weather":
        for row in rows:
            row["weather"] = "bad" if row["weather"] in BAD else "good"
        against = [row for row in rows if (row["weather"] == "bad") != work[row["group"]] and row["group"] in train]
        kept = round(sum(row["group"] in train for row in rows) * (1 - WITH_CLASS))
        out = {against[place]["file_name"] for place in chance.permutation(len(against))[kept:]}
        return folder, [row for row in rows if row["file_name"] not in out]
    for row in rows:
        warm = (WITH_CLASS if work[row["group"]] else 1 - WITH_CLASS) if row["group"] in train else 0.5
        row["camera"] = "warm" if drawn[row["group"]] < warm else "plain"
    return seen(folder, rows), rows


def seen(folder: Path, rows: list[dict[str, str]]) -> Path:
    """A copy of the photos in which those of the warm camera have its cast; made once."""
    place = folder.with_name(f"{folder.name}-camera")
    if not place.is_dir():
        stage = place.with_name(f".{place.name}-{os.getpid()}")
        (stage / "images").mkdir(parents=True)
        for row in rows:
            with PhotoFile.open(folder / row["file_name"]) as photo:
                exif, pixels = photo.getexif(), np.asarray(photo.convert("RGB")).astype(np.float32)
            if row["camera"] == "warm":
                pixels = pixels * CAST
            pixels = np.clip(pixels, 0, 255).astype(np.uint8)
            PhotoFile.fromarray(pixels).save(stage / row["file_name"], quality=90, exif=exif)
        stage.rename(place)
    return place


def splits_of(folder: Path, column: str, seed: int = 0) -> DatasetDict:
    """Four splits of whole groups."""
    chance = np.random.default_rng(seed)
    groups = sorted({row["group"] for row in table(folder)})
    home = dict(zip(groups, chance.choice(list(SHARES), len(groups), p=list(SHARES.values())).tolist()))
    place, rows = described(folder, column, {group for group in groups if home[group] == "train"}, seed)
    text = {name: Value("string") for name in ("id", "group", column)}
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=list(LABELS)), **text})
    parts = {}
    for split in SPLITS:
        found = [row for row in rows if home[row["group"]] == split]
        columns = {
            "image": [str(place / row["file_name"]) for row in found],
            "label": [LABELS.index(row["label"]) for row in found],
            "id": [row["file_name"] for row in found],
            "group": [row["group"] for row in found],
            column: [row[column] for row in found],
        }
        parts[split] = Dataset.from_dict(columns, features=features)
    return DatasetDict(parts)


def pool_of(folder: Path, column: str) -> Path:
    """A table of the pool that does not say the class."""
    place, rows = described(folder, column, set(), 1)
    with open(place / "pool.csv", "w", newline="", encoding="utf-8") as file:
        written = csv.writer(file)
        written.writerow(["image", "group", column])
        written.writerows([row["file_name"], row["group"], row[column]] for row in rows)
    return place / "pool.csv"


def locked(args: argparse.Namespace) -> LockedSplits:
    rows = splits_of(args.folder / "labelled", args.column)
    splits = load_photos(rows, group_column="group", near_duplicates=False).dedicate("pretrain")
    table = str(pool_of(args.folder / "pool", args.column))
    splits.add_pool(read_pool([table], group_column=["group"], guides=[args.column]))
    return splits


def pretrained(args: argparse.Namespace, objective: str, guide: str, seed: int) -> MilestoneChoice:
    """One run into a folder of its own; how its milestones were judged."""
    run = args.folder / f"{args.column}-{objective}-{guide}-{seed}"
    if MilestoneChoice.there(run):
        return MilestoneChoice.read(run)
    guides = {args.column: "spurious" if guide == "none" else guide}  # without one the column is judged all the same
    options = PretrainOptions(
        pretrain_objective=objective,
        pretrain_guides=None if guide == "none" else [f"{args.column}={guide}"],
        pretrain_guides_weight=args.weight,
        pretrain_heads_share=0.3,
        pretrain_milestones=1,
        pretrain_momentum=0.8,
        pretrain_drop_path=0.0,
        pretrain_prototypes=512,
        pretrain_local_size=32,
        pretrain_local_crops=2,
        pretrain_train=args.train,
        pretrain_guard_steps=args.steps,
    )
    training = PretrainingArguments(
        output_dir=str(run),
        overwrite_output_dir=True,
        learning_rate=args.rate,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch,
        logging_steps=max(1, args.steps // 5),
        dataloader_num_workers=0,
        disable_tqdm=True,
        use_cpu=True,
        seed=seed,
        report_to="none",
    )
    splits, processor = locked(args), load_processor(BASE, GEOMETRIES["squash"](args.size))
    trainer = PretrainTrainer(
        Student(load_backbone(BASE), options, seed=seed),
        training,
        options,
        splits=splits,
        processing_class=processor,
        base=BASE,
        base_config=AutoConfig.from_pretrained(local_folder(BASE)),
    )
    pretrain_run(trainer, splits)
    return finish_pretraining(
        run,
        splits,
        base=BASE,
        processor=processor,
        metric="balanced_accuracy",
        positive=1,
        guides=guides,
        cache_dir=str(args.folder / "features"),
        card={"objective": objective, "train": args.train, **trainer.facts()},
    )


def row(name: str, column: str, choice: MilestoneChoice, seconds: float) -> str:
    first, last = choice.candidates[0], choice.candidates[-1]
    before, after, beside = first.guides[column], last.guides[column], last.beside_original["100%"]
    gap = after.beside_original
    cells = [
        name,
        f"{before.balanced_accuracy.value:.3f} -> {after.balanced_accuracy.value:.3f} "
        f"({gap.difference:+.3f}, {gap.low:+.3f} to {gap.high:+.3f})",
        f"{before.auroc.value:.3f} -> {after.auroc.value:.3f}",
        f"{first.probes['100%']:.3f} -> {last.probes['100%']:.3f} "
        f"({beside.difference:+.3f}, {beside.low:+.3f} to {beside.high:+.3f})",
        f"{slice_text(first)} -> {slice_text(last)}",
        "original" if choice.chosen == 0 else f"step {choice.chosen}",
        f"{seconds:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/bench-guides"), help="photos and runs")
    parser.add_argument("--column", choices=["camera", "weather"], default="camera")
    parser.add_argument("--labelled", type=int, default=1000, help="photos with labels")
    parser.add_argument("--unlabelled", type=int, default=500)
    parser.add_argument("--objectives", nargs="+", default=["distill", "dino"])
    parser.add_argument("--guides", nargs="+", default=["none", "spurious", "informative"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=64, help="side of the large crops")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--weight", type=float, default=1.0, help="pretrain_guides_weight")
    parser.add_argument("--train", default="last_blocks", help="pretrain_train")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    generate(args.folder / "labelled", args.labelled, 601, size=SIZE, workers=1, progress=False)
    generate(args.folder / "pool", args.unlabelled, 602, size=SIZE, workers=1, progress=False)
    heads = ["run", args.column, "AUROC", "class", "worst slice", "kept", "s"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads), flush=True)
    for objective in args.objectives:
        for seed in args.seeds:
            for guide in args.guides:
                begin = time.process_time()
                choice = pretrained(args, objective, guide, seed)
                print(row(f"{objective} {guide} {seed}", args.column, choice, time.process_time() - begin), flush=True)


if __name__ == "__main__":
    main()
