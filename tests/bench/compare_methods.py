"""Probe, LoRA and full fine-tuning of one checkpoint on the same photos, with intervals and paired differences.

    python tests/bench/compare_methods.py --backbone ../shared/backbones/dinov3-vits16-like --photos FOLDER --
    --num_train_epochs 2

Runs the main job once a method, each as the recipe of that name says; what follows `--` goes to all of them. Without
`--photos`, street photos are generated. Prints Markdown. Knows only what the runs leave behind:
`predictions/val_test.parquet` and `calibration.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from natix_hf.report.intervals import bootstrap_intervals, group_count, paired_differences

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("probe", "lora", "full")
DIFFERENCES = (("lora", "probe"), ("full", "probe"), ("full", "lora"))
METRICS = {"accuracy": "accuracy", "mcc": "MCC", "log_loss": "NLL"}


class Result(NamedTuple):
    """One run on `val_test`: ids, groups, labels `(n,)`, calibrated logits `(n, classes)`, and the seconds it took."""

    ids: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    seconds: float


def run_method(method: str, arguments: argparse.Namespace, photos: Path, extra: list[str]) -> Result:
    """Run the main job with the recipe of `method` and read its final predictions; exits where the job fails."""
    folder = arguments.output / method
    command = [sys.executable, "-m", "natix_hf.train", str(ROOT / "recipes" / f"{method}.yaml")]
    command += ["--dataset_name", str(photos), "--model_name_or_path", str(arguments.backbone)]
    command += ["--output_dir", str(folder), "--overwrite_output_dir", "true", *extra]
    print(f"== {method}", file=sys.stderr)
    begin = time.perf_counter()
    if subprocess.run(command, stdout=sys.stderr).returncode:
        sys.exit(f"{method}: the main job failed, see above")
    return read_result(folder, time.perf_counter() - begin)


def read_result(folder: Path, seconds: float) -> Result:
    """The predictions on `val_test`, sorted by id and calibrated as the run calibrates."""
    table = pq.read_table(folder / "predictions" / "val_test.parquet").sort_by("id")
    calibration = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
    logits = np.array(table["logits"].to_pylist(), dtype=np.float64)
    return Result(
        ids=np.array(table["id"].to_pylist()),
        groups=np.array(table["group"].to_pylist()),
        labels=table["label"].to_numpy(),
        logits=logits / np.array(calibration["temperature"]) + np.array(calibration["logit_bias"]),
        seconds=seconds,
    )


def tables(results: dict[str, Result], n_boot: int = 2000) -> list[str]:
    """The two Markdown tables: each method with its intervals, and the paired differences that its runs allow."""
    first = next(iter(results.values()))
    for method, result in results.items():
        if not np.array_equal(result.ids, first.ids):
            sys.exit(f"{method}: its val_test holds other photos; give all runs the same photos, seed and ratios")
    n = len(first.labels)
    lines = [
        f"`val_test`: {n} photos, {group_count(first.groups, n)} groups; 95 % intervals from {n_boot} resamples.",
        "",
        f"| method | {' | '.join(METRICS.values())} | minutes |",
        "|---" * (len(METRICS) + 2) + "|",
    ]
    for method, result in results.items():
        intervals = bootstrap_intervals(result.logits, result.labels, result.groups, n_boot=n_boot)
        cells = [
            f"{i['value']:.3f} ({i['low']:.3f} to {i['high']:.3f})" for i in (intervals[name] for name in METRICS)
        ]
        lines.append(f"| {method} | {' | '.join(cells)} | {result.seconds / 60:.1f} |")
    lines += ["", f"| difference | {' | '.join(METRICS.values())} |", "|---" * (len(METRICS) + 1) + "|"]
    for a, b in DIFFERENCES:
        if a in results and b in results:
            cells = []
            changes = paired_differences(
                results[a].logits, results[b].logits, first.labels, first.groups, n_boot=n_boot
            )
            for name in METRICS:
                found = changes[name]
                cells.append(f"{found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})")
            lines.append(f"| {a} - {b} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    own = sys.argv[1:]
    own, extra = (own[: own.index("--")], own[own.index("--") + 1 :]) if "--" in own else (own, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", type=Path, default=ROOT.parent / "shared" / "backbones" / "dinov3-vits16-like")
    parser.add_argument("--photos", type=Path, help="folder of photos; generated scenes by default")
    parser.add_argument("--count", type=int, default=800, help="number of generated scenes (default %(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "compare_methods")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args(own)
    if not arguments.backbone.exists():
        print(f"{arguments.backbone.name}: no such checkpoint here, nothing compared; name one with --backbone")
        return
    photos = arguments.photos
    if photos is None:
        from natix_hf.scenes.photos import generate

        photos = generate(arguments.output / f"scenes-{arguments.count}", arguments.count, seed=7)
        extra = ["--group_column", "group", *extra]
    results = {method: run_method(method, arguments, photos, extra) for method in arguments.methods}
    print(f"Checkpoint `{arguments.backbone.name}`, photos `{photos.name}`; lower NLL is better.\n")
    print("\n".join(tables(results)))


if __name__ == "__main__":
    main()
