"""What each recipe of `recipes/ablations/` costs: time per step relative to AdamW + cross-entropy, and peak memory.

    python tests/bench/method_costs.py --rounds 3 --steps 30 --photos 1000
    python tests/bench/method_costs.py --rounds 3 --steps 30 --photos 1000 -- --model_name_or_path CHECKPOINT
    python tests/bench/method_costs.py --names adamw-ce sam     # two of them, quickly

Every round trains each recipe for some steps in a process of its own, the base first; a recipe's ratio is the median
over the rounds of its mean step over that of the base in the same round. What follows `--` goes to all recipes.
On a GPU a step is timed by the clock, on a CPU by the processor time that it used, photos read in the same process: so
other work on the machine counts little. Memory is the peak that torch allocated on a GPU, on a CPU the peak of the
process. Prints Markdown. A step is from the end of one to the end of the next, photos included; what a method does
before its first step (features of a probe or a curriculum) is in the column before it.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "recipes" / "ablations"
BASE = "adamw-ce"
SKIPPED = 2  # the first steps warm up


def one(name: str, steps: int, extra: list[str]) -> dict[str, float]:
    """Train a recipe for some steps in this process: seconds before them, of the mean step, and peak MiB."""
    import torch
    from transformers import TrainerCallback

    from natix_hf.recipe.yaml_and_command_line import parse
    from natix_hf.train import load_data, load_network
    from natix_hf.training.trainer import NatixTrainer

    times: list[float] = []
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(clock())
            control.should_training_stop = len(times) >= steps + SKIPPED

    with tempfile.TemporaryDirectory() as folder:
        words = [
            "--eval_strategy",
            "no",
            "--save_strategy",
            "no",
            "--logging_strategy",
            "no",
            "--disable_tqdm",
            "true",
        ]
        if not torch.cuda.is_available():
            words += ["--dataloader_num_workers", "0"]
        recipe = parse([str(FOLDER / f"{name}.yaml"), *words, "--output_dir", f"{folder}/run", *extra])
        splits = load_data(recipe, print)
        model, processor = load_network(recipe, splits.label_names, "sdpa")
        begin = clock()
        trainer = NatixTrainer(
            model,
            recipe.training,
            splits=splits,
            processing_class=processor,
            augment=recipe.data.augment,
            cache_dir=f"{folder}/cache",
            callbacks=[Clock()],
        )
        before = clock() - begin
        trainer.train()
    gaps = [after - earlier for earlier, after in zip(times[SKIPPED - 1 :], times[SKIPPED:])]
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    # The mean, since some methods take a costly step now and then (Sophia every tenth).
    return {"before": before, "step": statistics.fmean(gaps), "peak": peak}


def measure(name: str, steps: int, extra: list[str]) -> dict[str, Any]:
    """`one` in a process of its own; `{"fault": line}` where it fails."""
    command = [sys.executable, __file__, "--one", name, "--steps", str(steps), "--", *extra]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        return {"fault": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def table(rounds: list[dict[str, dict[str, Any]]]) -> list[str]:
    """Markdown: a line for each recipe, in the order of the first round."""
    lines = ["| recipe | time per step | seconds before | peak memory (MiB) | relative |", "|---|---|---|---|---|"]
    for name in rounds[0]:
        if fault := next((r[name]["fault"] for r in rounds if "fault" in r[name]), None):
            lines.append(f"| {name} | {fault} | - | - | - |")
            continue

        def ratio(what: str, name: str = name) -> float:
            return statistics.median(r[name][what] / r[BASE][what] for r in rounds)

        before, peak = (statistics.median(r[name][what] for r in rounds) for what in ("before", "peak"))
        lines.append(f"| {name} | {ratio('step'):.2f} | {before:.1f} | {peak:.0f} | {ratio('peak'):.2f} |")
    return lines


def main() -> None:
    own = sys.argv[1:]
    own, extra = (own[: own.index("--")], own[own.index("--") + 1 :]) if "--" in own else (own, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [BASE, *(path.stem for path in sorted(FOLDER.glob("*.yaml")) if path.stem != BASE)]
    parser.add_argument("--names", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed (default %(default)s)")
    parser.add_argument("--photos", type=int, default=160, help="generated scenes (default %(default)s)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(own)
    if given.one:
        print(json.dumps(one(given.one, given.steps, extra)))
        return
    if not any(word.startswith(("--dataset_name", "--dataset_config")) for word in extra):
        extra = ["--dataset_config", str(given.photos), *extra]
    chosen = [BASE, *(name for name in given.names if name != BASE)]
    rounds = []
    for number in range(1, given.rounds + 1):
        found = {}
        for name in chosen:
            print(f"round {number}/{given.rounds}: {name}", file=sys.stderr, flush=True)
            found[name] = measure(name, given.steps, extra)
        if "fault" in found[BASE]:
            sys.exit(f"{BASE}: {found[BASE]['fault']}")
        rounds.append(found)
    seconds = statistics.median(r[BASE]["step"] for r in rounds)
    print(f"Time and memory relative to {BASE} ({seconds * 1000:.0f} ms a step here); rounds: {given.rounds}, each of")
    print(f"{given.steps} steps of every recipe.\n")
    print("\n".join(table(rounds)))


if __name__ == "__main__":
    main()
