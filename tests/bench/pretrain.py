"""Pretraining on generated photos in a style that the backbone has not seen: what probes say of it, and the guard.

    python tests/bench/pretrain.py --unlabelled 3000 --labelled 900 --steps 600 --seeds 0 1

Streets are drawn and restyled (channels turned, light and dark exchanged, scan lines), some with labels and many
without; streets of the usual style are the data set on which forgetting is measured. For each objective and seed
natix-hf pretrain runs, and a line of Markdown says how probes on held-out groups judge the original and the best
milestone: the scores, the paired difference with its interval, nearest neighbours, forgetting, ranks. At the end comes
a run at 100 times the learning rate, which the guard has to end. Report it as found.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from natix_hf.documents.pretraining import GuardRecord, MilestoneChoice
from natix_hf.scenes.photos import generate

RECIPE = """\
model_name_or_path: {model}
dataset_name: {folder}/labelled
group_column: [group]
unlabelled_name: [{folder}/unlabelled]
forgetting_name: {folder}/usual
near_duplicates: {near}
image_size: {size}
pretrain_local_size: {local}
pretrain_local_crops: {crops}
pretrain_prototypes: 1024
pretrain_momentum: {momentum}
pretrain_drop_path: 0.0
pretrain_heads_share: 0.3
pretrain_guard_steps: {every}
per_device_train_batch_size: {batch}
max_steps: {steps}
learning_rate: {rate}
metric_for_best_model: auroc
dataloader_num_workers: {workers}
use_cpu: {cpu}
report_to: none
"""


def restyle(path: Path) -> None:
    """Give a photo the style that the backbone has not seen, in its place."""
    with Image.open(path) as photo:
        exif, pixels = photo.getexif(), np.asarray(photo.convert("RGB")).astype(np.float32)
    pixels = 255 - pixels[..., [1, 2, 0]]
    pixels[::4] *= 0.6  # scan lines
    pixels = np.clip(255 * (pixels / 255) ** 1.6, 0, 255)
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=85, exif=exif)


def drawn(folder: Path, count: int, seed: int, *, restyled: bool) -> None:
    """Draw streets into a folder, once."""
    if folder.is_dir():
        return
    stage = folder.with_name(f".{folder.name}")
    generate(stage, count, seed)
    if restyled:
        for path in sorted(stage.rglob("*.jpg")):
            restyle(path)
    stage.rename(folder)


def pretrained(args: argparse.Namespace, name: str, *words: object) -> tuple[Path, int, str, float]:
    """Run natix-hf pretrain into a folder of that name, where it did not run yet; status, last line, seconds."""
    output = args.folder / name
    if (output / "choice.json").is_file():
        return output, 0, "", 0.0
    begin = time.perf_counter()
    words = ["--output_dir", output, "--overwrite_output_dir", "true", *words]
    done = subprocess.run(
        [sys.executable, "-m", "natix_hf.pretrain", str(args.folder / "recipe.yaml"), *map(str, words)],
        stderr=subprocess.PIPE,
        stdout=sys.stderr,
        text=True,
        env=os.environ | {"NATIX_HF_HOME": str(args.folder / "home")},
    )
    return output, done.returncode, (done.stderr.splitlines() or [""])[-1], time.perf_counter() - begin


def row(name: str, run: Path, seconds: float) -> str:
    """A line of the table: the best milestone beside the original."""
    choice, looks = MilestoneChoice.read(run), GuardRecord.read(run).looks
    original = choice.candidates[0]
    best = max(choice.candidates[1:], key=lambda one: one.probes["100%"])
    cells = [name, str(best.step)]
    for share, score in best.probes.items():
        gap = best.beside_original.get(share)
        shown = "-" if score is None else f"{original.probes[share]:.3f} -> {score:.3f}"
        cells.append(shown if gap is None else f"{shown} ({gap.difference:+.3f}, {gap.low:+.3f} to {gap.high:+.3f})")
    cells += [f"{original.knn:.3f} -> {best.knn:.3f}", f"{original.forgetting:.3f} -> {best.forgetting:.3f}"]
    cells += [" ".join(f"{look.rank:.0f}" for look in looks), f"{looks[-1].cosine:.3f}"]
    cells += ["original" if choice.chosen == 0 else f"step {choice.chosen}", f"{seconds:.0f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/bench-pretrain"), help="photos and runs")
    parser.add_argument("--model", default="builtin:demo-backbone", help="the backbone that is pretrained")
    parser.add_argument("--unlabelled", type=int, default=3000, help="photos without labels")
    parser.add_argument("--labelled", type=int, default=900, help="photos with labels, and as many of the usual style")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=112, help="side of the large crops")
    parser.add_argument("--local", type=int, default=48, help="side of the small crops")
    parser.add_argument("--crops", type=int, default=4, help="small crops of a photo")
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--momentum", type=float, default=0.98, help="of the average, at the start")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--objectives", nargs="+", default=["distill", "dino"])
    parser.add_argument("--near_duplicates", action="store_true", help="look for copies too, which takes a while")
    parser.add_argument("--gpu", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    drawn(args.folder / "labelled", args.labelled, 501, restyled=True)
    drawn(args.folder / "unlabelled", args.unlabelled, 502, restyled=True)
    drawn(args.folder / "usual", args.labelled, 503, restyled=False)
    settings = {
        key: getattr(args, key) for key in ("model", "folder", "size", "local", "crops", "batch", "steps", "momentum")
    }
    settings |= {"rate": args.rate, "workers": args.workers, "every": max(1, args.steps // 12)}
    settings |= {"near": str(args.near_duplicates).lower(), "cpu": str(not args.gpu).lower()}
    (args.folder / "recipe.yaml").write_text(RECIPE.format(**settings), encoding="utf-8")
    heads = [
        "run",
        "best step",
        "1 % of labels",
        "10 %",
        "100 %",
        "k-NN",
        "forgetting",
        "ranks",
        "cosine",
        "kept",
        "s",
    ]
    print(
        f"{args.unlabelled} photos without labels, {args.labelled} with, {args.steps} steps of {args.batch}; AUROC\n"
    )
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads), flush=True)
    for objective in args.objectives:
        for seed in args.seeds:
            name = f"{objective}-{seed}"
            run, status, line, seconds = pretrained(args, name, "--pretrain_objective", objective, "--seed", seed)
            print(row(name, run, seconds) if status == 0 else f"| {name} | failed: {line} |", flush=True)
    words = (
        "--pretrain_objective",
        args.objectives[-1],
        "--learning_rate",
        100 * args.rate,
        "--pretrain_train",
        "full",
    )
    words += ("--pretrain_heads_share", 0, "--pretrain_momentum", 0.5, "--pretrain_guard_steps", 1)
    _, status, line, seconds = pretrained(args, "collapse", *words)
    print(f"\nat 100 times the rate: exit status {status} after {seconds:.0f} s: {line}")


if __name__ == "__main__":
    main()
