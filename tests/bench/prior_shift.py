"""Trained where 9 of 10 photos show roadwork, tested where 5 of 10 do: plain, balanced sampling, logit adjustment.

    python tests/bench/prior_shift.py --count 2400 --test 800 --epochs 4 --seeds 0 1

Generated scenes; whole streets without roadwork are left out of the training part until the prior is reached, the test
part is another series and comes as the data set's own. LoRA on the demo backbone. No threshold is set and no prior is
folded in: the decision is the larger probability. Differences to plain are paired on the same photos, a line for each
seed. What follows `--` goes to every run. Prints Markdown.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from natix_hf.report.intervals import bootstrap_intervals, group_count, paired_differences
from natix_hf.scenes.photos import generate

ROOT = Path(__file__).resolve().parents[2]
WAYS = {
    "plain": [],
    "balanced sampling": ["--sampling", "balanced"],
    "logit adjustment": ["--logit_adjustment", "1"],
}
METRICS = {"accuracy": "accuracy", "mcc": "MCC"}


def part(photos: Path, folder: Path, prior: float) -> str:
    """Link scenes into `folder`, with so many streets without roadwork that a share of `prior` shows some."""
    with open(photos / "metadata.csv", newline="", encoding="utf-8") as file:
        rows = [{key: row[key] for key in ("file_name", "label", "group")} for row in csv.DictReader(file)]
    positive = [row for row in rows if row["label"] == "Roadwork"]
    wanted = round(len(positive) * (1 - prior) / prior)
    negative: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row["label"] != "Roadwork":
            negative.setdefault(row["group"], []).append(row)
    kept = list(positive)
    for street in negative.values():
        if len(kept) - len(positive) + len(street) <= wanted:
            kept += street
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for row in kept:
        target = folder / row["file_name"]
        if not target.exists():
            target.hardlink_to(photos / row["file_name"])
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["file_name", "label", "group"])
        table.writeheader()
        table.writerows(kept)
    return f"{len(positive)} of {len(kept)} photos"


def train(photos: Path, folder: Path, seed: int, epochs: float, words: list[str], extra: list[str]) -> tuple:
    """Run the main job; logits `(n, classes)`, labels and groups of its `val_test`, sorted by id."""
    command = [sys.executable, "-m", "natix_hf.train", str(ROOT / "recipes" / "demo.yaml")]
    command += ["--dataset_name", str(photos), "--dataset_config=", "--group_column", "group"]
    command += ["--split_ratios", "0.65", "0.15", "0.15", "0.05", "--output_dir", str(folder), "--seed", str(seed)]
    command += ["--num_train_epochs", str(epochs), "--target_prior", "0.5", *words, *extra]
    print(f"== {folder.name}", file=sys.stderr)
    if subprocess.run(command, stdout=sys.stderr, cwd=ROOT).returncode:
        sys.exit(f"{folder.name}: the main job failed, see above")
    table = pq.read_table(folder / "predictions" / "val_test.parquet").sort_by("id")
    calibration = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
    logits = np.array(table["logits"].to_pylist(), dtype=np.float64)
    logits = logits / np.array(calibration["temperature"]) + np.array(calibration["logit_bias"])
    return logits, table["label"].to_numpy(), np.array(table["group"].to_pylist())


def main() -> None:
    own = sys.argv[1:]
    own, extra = (own[: own.index("--")], own[own.index("--") + 1 :]) if "--" in own else (own, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2400, help="scenes before streets are left out")
    parser.add_argument("--test", type=int, default=800, help="scenes of the test part")
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "prior_shift")
    given = parser.parse_args(own)
    photos = given.output / f"photos-{given.count}-{given.test}"
    told = {}
    for name, count, seed, prior in (("train", given.count, 41, 0.9), ("test", given.test, 42, 0.5)):
        scenes = generate(given.output / f"scenes-{name}-{count}", count, seed)
        told[name] = part(scenes, photos / name, prior)
    print(f"Roadwork on {told['train']} to train and choose with, on {told['test']} of the test; 95 % intervals.\n")
    print(f"| seed | way | {' | '.join(METRICS.values())} | {' | '.join(f'{m} - plain' for m in METRICS.values())} |")
    print("|---" * (2 + 2 * len(METRICS)) + "|")
    for seed in given.seeds:
        plain = None
        for way, words in WAYS.items():
            folder = given.output / f"{way.replace(' ', '-')}-{seed}"
            logits, labels, groups = train(photos, folder, seed, given.epochs, words, extra)
            found = bootstrap_intervals(logits, labels, groups, n_boot=2000)
            cells = [f"{i['value']:.3f} ({i['low']:.3f} to {i['high']:.3f})" for i in (found[m] for m in METRICS)]
            if plain is None:
                plain, cells = logits, [*cells, *[""] * len(METRICS)]
            else:
                changes = paired_differences(logits, plain, labels, groups, n_boot=2000)
                for metric in METRICS:
                    change = changes[metric]
                    cells.append(f"{change['difference']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})")
            print(f"| {seed} | {way} | {' | '.join(cells)} |", flush=True)
    print(f"\n{len(labels)} test photos in {group_count(groups, len(labels))} groups.")


if __name__ == "__main__":
    main()
