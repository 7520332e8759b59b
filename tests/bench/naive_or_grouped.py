"""What a naive random split hides: the same model, trained on photos with planted copies, split either way.

    python tests/bench/naive_or_grouped.py --count 900 --copies 300

Camera sequences and altered copies (JPEG 60, half size, mirrored, cropped, brighter) are among the photos. `naive`
cuts them row by row, as a random split does; `grouped` keeps both together. Each run's `val_test` stands
beside the same model's figures on fresh photos of streets that neither has seen: the distance between the two is
what the split made up. The demo backbone is trained in full. Prints Markdown.
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
from PIL import Image, ImageEnhance, ImageOps

from natix_hf.report.intervals import bootstrap_intervals
from natix_hf.scenes.photos import generate

ROOT = Path(__file__).resolve().parents[2]
METRICS = {"accuracy": "accuracy", "mcc": "MCC", "log_loss": "NLL"}
ALTERATIONS = ("jpeg", "half", "mirrored", "cropped", "brighter")


def altered(photo: Image.Image, how: str) -> Image.Image:
    """One of the usual ways in which a photo comes back."""
    width, height = photo.size
    if how == "half":
        return photo.resize((width // 2, height // 2), Image.Resampling.LANCZOS)
    if how == "mirrored":
        return ImageOps.mirror(photo)
    if how == "cropped":
        return photo.crop((width // 40, height // 40, width - width // 40, height - height // 40))
    return ImageEnhance.Brightness(photo).enhance(1.2) if how == "brighter" else photo


def plant(folder: Path, count: int, copies: int) -> Path:
    """`count` scenes and `copies` altered ones, in one folder with one metadata.csv (`file_name,label,group`)."""
    photos = generate(folder / f"scenes-{count}", count, 31)
    mixed = folder / f"mixed-{count}-{copies}"
    if (mixed / "metadata.csv").exists():
        return mixed
    (mixed / "images").mkdir(parents=True, exist_ok=True)
    with open(photos / "metadata.csv", newline="", encoding="utf-8") as file:
        rows = [{key: row[key] for key in ("file_name", "label", "group")} for row in csv.DictReader(file)]
    for row in rows:
        (mixed / row["file_name"]).write_bytes((photos / row["file_name"]).read_bytes())
    chosen = np.random.default_rng(0).choice(len(rows), copies, replace=False)
    for number, source in enumerate(chosen):
        name = f"images/copy-{number:05d}.jpg"
        shown = ImageOps.exif_transpose(Image.open(photos / rows[source]["file_name"]))
        altered(shown, ALTERATIONS[number % len(ALTERATIONS)]).save(mixed / name, quality=60 + number % 30)
        rows.append({"file_name": name, "label": rows[source]["label"], "group": ""})
    with open(mixed / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["file_name", "label", "group"])
        table.writeheader()
        table.writerows(rows)
    return mixed


def run(verb: str, *words: object) -> None:
    command = [sys.executable, "-m", f"natix_hf.{verb}", *map(str, words)]
    if subprocess.run(command, stdout=sys.stderr, cwd=ROOT).returncode:
        sys.exit(f"{' '.join(command[2:])}: failed, see above")


def cells(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> list[str]:
    found = bootstrap_intervals(logits, labels, groups, n_boot=2000)
    return [f"{i['value']:.3f} ({i['low']:.3f} to {i['high']:.3f})" for i in (found[name] for name in METRICS)]


def on_test(folder: Path) -> tuple[int, list[str]]:
    """Rows and figures of `val_test` as the run stored them, calibrated."""
    table = pq.read_table(folder / "predictions" / "val_test.parquet")
    calibration = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
    logits = np.array(table["logits"].to_pylist(), dtype=np.float64)
    logits = logits / np.array(calibration["temperature"]) + np.array(calibration["logit_bias"])
    return len(table), cells(logits, table["label"].to_numpy(), np.array(table["group"].to_pylist()))


def on_fresh(folder: Path, fresh: Path) -> tuple[int, list[str]]:
    """Rows and figures on photos of another series."""
    run("predict", folder, fresh / "images", "--output", folder / "fresh.csv")
    with open(fresh / "metadata.csv", newline="", encoding="utf-8") as file:
        facts = {Path(row["file_name"]).name: row for row in csv.DictReader(file)}
    with open(folder / "fresh.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    probabilities = np.array([[float(row[f"p_{name}"]) for name in ("None", "Roadwork")] for row in rows])
    known = [facts[Path(row["file"]).name] for row in rows]
    labels = np.array([int(fact["label"] == "Roadwork") for fact in known])
    logits = np.log(np.clip(probabilities, 1e-12, None))
    return len(rows), cells(logits, labels, np.array([fact["group"] for fact in known]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=900, help="generated photos (default %(default)s)")
    parser.add_argument("--copies", type=int, default=300, help="altered copies among them (default %(default)s)")
    parser.add_argument("--fresh", type=int, default=480, help="photos of the other series (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=6, help="(default %(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "naive_or_grouped")
    given = parser.parse_args()
    photos = plant(given.output, given.count, given.copies)
    fresh = generate(given.output / f"fresh-{given.fresh}", given.fresh, 32)
    options = ["--dataset_name", photos, "--model_name_or_path", "builtin:demo-backbone", "--augment", "none"]
    options += ["--num_train_epochs", given.epochs, "--learning_rate", "5e-4", "--gradient_accumulation_steps", "1"]
    options += ["--label_smoothing_factor", "0", "--split_ratios", "0.55", "0.1", "0.1", "0.25"]
    ways = {"naive": ["--near_duplicates", "false"], "grouped": ["--group_column", "group"]}
    print(f"{given.count} generated photos and {given.copies} altered copies of them; 95 % intervals.\n")
    print(f"| split | photos | rows | {' | '.join(METRICS.values())} |\n" + "|---" * (len(METRICS) + 3) + "|")
    for way, words in ways.items():
        folder = given.output / way
        place = ["--output_dir", folder, "--overwrite_output_dir", "true"]
        run("train", ROOT / "recipes" / "full.yaml", *options, *words, *place)
        for title, (rows, figures) in (("its val_test", on_test(folder)), ("fresh", on_fresh(folder, fresh))):
            print(f"| {way} | {title} | {rows} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
