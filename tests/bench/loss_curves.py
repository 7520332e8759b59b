"""Loss curves of the optimizers beside AdamW, on one task, drawn into one picture.

    python tests/bench/loss_curves.py --count 1200 --epochs 3 --seeds 0 1
    python tests/bench/loss_curves.py --count 300 --epochs 1 --seeds 0        # quickly

LoRA on the demo backbone and generated scenes, by the recipes of `recipes/ablations/` as they stand; the same photos,
splits and order of batches for all. The runs are such as a sweep makes, so nothing reads `val_test`. Left: loss of
`train`, a running mean; right: loss of `val_select` with the weights that would be scored (EMA where the recipe has
it). A line is the mean of the seeds, a band reaches from the lowest to the highest. What follows `--` goes to every
run. Prints Markdown: the last losses of each seed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
NAMES = {
    "adamw-ce": "AdamW",
    "sam": "SAM",
    "sophia": "Sophia",
    "muon": "Muon",
    "ademamix": "AdEMAMix",
    "schedule-free": "Schedule-Free",
}
EVERY = 5  # steps between two logged losses
SMOOTHED = 5  # logged losses in a running mean


def train(name: str, folder: Path, seed: int, given: argparse.Namespace, extra: list[str]) -> list[dict]:
    """Run one recipe; what its Trainer logged."""
    command = [sys.executable, "-m", "natix_hf.train", str(ROOT / "recipes" / "ablations" / f"{name}.yaml")]
    command += ["--dataset_config", str(given.count), "--output_dir", str(folder), "--overwrite_output_dir", "true"]
    command += ["--num_train_epochs", str(given.epochs), "--seed", str(seed), "--sweep", "true"]
    command += ["--logging_strategy", "steps", "--logging_steps", str(EVERY)]
    command += ["--eval_strategy", "steps", "--eval_steps", str(given.eval_steps)]
    command += ["--save_strategy", "no", "--load_best_model_at_end", "false", *extra]
    print(f"== {folder.name}", file=sys.stderr, flush=True)
    if subprocess.run(command, stdout=sys.stderr, cwd=ROOT).returncode:
        sys.exit(f"{folder.name}: the main job failed, see above")
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))["log_history"]


def curve(history: list[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of what was logged under `key`."""
    points = [(entry["step"], entry[key]) for entry in history if entry.get(key) is not None]
    return np.array([step for step, _ in points]), np.array([value for _, value in points])


def draw(curves: dict[str, list[list[dict]]], path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, histories in curves.items():
        line = {"label": NAMES[name], "linewidth": 2.0 if name == "adamw-ce" else 1.3}
        line |= {"color": "black"} if name == "adamw-ce" else {}
        for axes, key in ((left, "loss"), (right, "eval_loss")):
            steps, values = curve(histories[0], key)[0], np.stack([curve(h, key)[1] for h in histories])
            if key == "loss":
                kernel = np.ones(SMOOTHED) / SMOOTHED
                values = np.stack([np.convolve(v, kernel, mode="valid") for v in values])
                steps = steps[SMOOTHED - 1 :]
            drawn = axes.plot(steps, values.mean(axis=0), **line)[0]
            if len(values) > 1:
                axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=drawn.get_color(), alpha=0.12)
    left.set(xlabel="step", ylabel=f"loss of train (nats), mean of {SMOOTHED * EVERY} steps", ylim=(0, None))
    right.set(xlabel="step", ylabel="loss of val_select (nats)", ylim=(0, None))
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    own = sys.argv[1:]
    own, extra = (own[: own.index("--")], own[own.index("--") + 1 :]) if "--" in own else (own, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--eval_steps", type=int, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--names", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "loss_curves")
    given = parser.parse_args(own)
    curves = {}
    print("| optimizer | seed | last losses of train | last loss of val_select | lowest loss of val_select |")
    print("|---|---|---|---|---|")
    for name in given.names:
        curves[name] = [train(name, given.output / f"{name}-{seed}", seed, given, extra) for seed in given.seeds]
        for seed, history in zip(given.seeds, curves[name]):
            (_, trained), (_, chosen) = curve(history, "loss"), curve(history, "eval_loss")
            last = trained[-SMOOTHED:].mean()
            print(f"| {NAMES[name]} | {seed} | {last:.4f} | {chosen[-1]:.4f} | {chosen.min():.4f} |", flush=True)
    draw(curves, given.output / "optimizers.png")
    print(f"\n{given.output / 'optimizers.png'}")


if __name__ == "__main__":
    main()
