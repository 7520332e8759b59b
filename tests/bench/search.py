"""A search against a grid of as many runs, on the same generated street photos.

    python tests/bench/search.py --photos 800 --epochs 3

Both look in the same box of ranks, learning rates and weight decays for LoRA on the last two blocks of the demo's
backbone, whose frozen part is computed once for all runs: the grid comes first, and its seconds hold that. Prints
Markdown: the best on `val_select`, how much it flatters itself, steps and seconds; and, when all else is done, both
winners on `val_test`. Goes on where it was stopped, with the seconds of the last start alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from natix_hf.documents.several_runs import Sweep
from natix_hf.report.intervals import paired_differences
from natix_hf.runs.saved_logits import read_predictions

GRID = ("lora_r=4,16,64", "learning_rate=1e-4,4.6e-4,2.2e-3,1e-2", "weight_decay=0.001,0.1")  # 24 runs
SPACE = ("lora_r=4..64:log", "learning_rate=1e-4..1e-2:log", "weight_decay=0.001..0.1:log")


def run(verb: str, *words: object) -> float:
    """Run a command; returns its seconds. Exits where it fails."""
    begin = time.perf_counter()
    if subprocess.run([sys.executable, "-m", f"natix_hf.{verb}", *map(str, words)], stdout=sys.stderr).returncode:
        sys.exit(f"natix_hf.{verb} failed, see above")
    return time.perf_counter() - begin


def recipe(arguments: argparse.Namespace) -> Path:
    """The recipe that both start from."""
    path = arguments.output / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""\
model_name_or_path: builtin:demo-backbone
dataset_name: builtin:scenes
dataset_config: {arguments.photos}
split_ratios: [0.5, 0.15, 0.1, 0.25]
method: lora
lora_last_blocks: 2
prefix_cache_gb: 8
image_size: 224
num_train_epochs: {arguments.epochs}
per_device_train_batch_size: 16
use_cpu: {str(arguments.cpu).lower()}
output_dir: {arguments.output / "run"}
""",
        encoding="utf-8",
    )
    return path


def found(output: Path, seconds: float) -> list[str]:
    """What a sweep found, as the cells of a row."""
    sweep = Sweep.read(output)
    best, luck = sweep.runs[0], sweep.flattery
    steps = sum(one.steps for one in sweep.runs if one.steps)
    pruned = sum(one.status == "pruned" for one in sweep.runs)
    values = ", ".join(f"{key} {value:.3g}" for key, value in best.values.items())
    return [
        f"{best.score.value:.3f} ({best.score.low:.3f} to {best.score.high:.3f})",
        f"{luck.by:.3f}" if luck else "-",
        f"{best.log_loss.value:.4f}",
        values,
        f"{len(sweep.runs)} ({pruned} pruned)",
        str(steps),
        f"{seconds:.0f}",
    ]


def tested(run_folder: Path) -> dict[str, Any]:
    """The figures of a winner on `val_test`, and its logits in the order of their ids."""
    rows = read_predictions(run_folder, "val_test")
    order = rows.ids.argsort()
    metrics = json.loads((run_folder / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    return {"metrics": metrics, **{key: getattr(rows, key)[order] for key in ("ids", "label", "group", "logits")}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=800, help="streets that are drawn")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24, help="of the search; the grid has 24 runs")
    parser.add_argument("--grid", nargs="+", default=list(GRID), help="of the grid, where fewer runs will do")
    parser.add_argument("--cpu", action="store_true", help="even where there is a GPU")
    parser.add_argument("--output", type=Path, default=Path("runs/bench-search"))
    arguments = parser.parse_args()
    words = (recipe(arguments), "--disable_tqdm", "true")
    searching = ("--search", "tpe", "--trials", arguments.trials, "--space", *SPACE)
    ways = {"grid": ("--grid", *arguments.grid), "search": searching}
    head = ["", "MCC on val_select", "flatters by", "log loss", "the best one's values", "runs", "steps", "seconds"]
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for name, own in ways.items():
        seconds = run("sweep", *words, "--output_dir", arguments.output / name, *own)
        print(f"| {name} | {' | '.join(found(arguments.output / name, seconds))} |", flush=True)
    results = {}
    for name in ways:
        output, winner = arguments.output / name, arguments.output / f"{name}-winner"
        best = output / Sweep.read(output).runs[0].name / "recipe.yaml"
        run("train", best, "--output_dir", winner, "--overwrite_output_dir", "true")
        results[name] = tested(winner)
    print("\n| winner on val_test | MCC | log loss |\n|---|---|---|")
    for name, one in results.items():
        cells = [
            f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
            for figure in (one["metrics"]["mcc"], one["metrics"]["log_loss"])
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    a, b = results["search"], results["grid"]
    assert (a["ids"] == b["ids"]).all()
    gap = paired_differences(a["logits"], b["logits"], a["label"], a["group"])["mcc"]
    ends = f"{gap['low']:+.3f} to {gap['high']:+.3f}"
    print(f"\nsearch less grid, before calibration: MCC {gap['difference']:+.3f} ({ends}), {len(a['label'])} photos")


if __name__ == "__main__":
    main()
