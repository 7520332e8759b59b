"""Parts of `gpu.py` that are whole commands: the CPU's figures on the GPU, a run that is killed, DDP and FSDP2."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from golden.golden_runs import METHODS, RECIPE, environment, type_verb, write_new_photos, write_photos

from .place import Line, Place

ROOT = Path(__file__).resolve().parents[3]
# How far fp32 on a GPU may be from fp32 on a CPU after 30 steps: sums are made in another order. With bf16 on top,
# each weight and activation has 8 bits.
TOLERANCE = {"fp32": 0.02, "bf16": 0.1}
SMOOTH = ("log_loss", "auroc")  # which one photo at the threshold does not move by a step
SAME = 1e-3  # fp32 on one device, by two launchers or after a kill


def same_figures(place: Place) -> Iterator[Line]:
    """One LoRA run of the demo backbone without dropout on the CPU and on the device: losses, figures, answers."""
    folder = place.folder / "same"
    photos, new = write_photos(folder / "photos"), write_new_photos(folder / "new")

    def run(name: str, *words: str) -> dict[str, dict[str, float]]:
        output, recipe = folder / name, folder / f"{name}.yaml"
        recipe.write_text(RECIPE.format(photos=photos, run=output) + METHODS["lora"])
        epochs = ("--num_train_epochs", "1") if place.tiny else ()
        type_verb(folder / "home", "train", recipe, "--lora_dropout", "0", *epochs, *words)
        type_verb(folder / "home", "predict", output, new, "--output", folder / f"{name}.csv")
        return figures_of(output, folder / f"{name}.csv")

    expected = run("cpu", "--use_cpu", "true")
    cpu = str(place.device == "cpu").lower()
    for precision in ("fp32",) if place.device == "cpu" else ("fp32", "bf16"):
        found = run(precision, "--use_cpu", cpu, "--bf16", str(precision == "bf16").lower())
        for what, values in expected.items():
            name, difference = furthest(found[what], values)
            how = f"{name}, of {len(values)}; {found[what][name]:.4f}, CPU {values[name]:.4f}"
            target = f"<= {TOLERANCE[precision]:g}"
            yield Line(f"LoRA in {precision}, {what}: furthest from the CPU's", difference, "", target, how)


def figures_of(run: Path, answers: Path) -> dict[str, dict[str, float]]:
    """The losses of a run, its figures on `val_test`, and its probabilities of new photos, each by name."""
    log = json.loads((run / "run.json").read_text())["log_history"]
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    with answers.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        "loss": {f"step {one['step']}": one["loss"] for one in log if "loss" in one},
        "val_test": {name: metrics[name]["value"] for name in SMOOTH},
        "probabilities": {Path(row["file"]).name: float(row["p_Roadwork"]) for row in rows},
    }


def furthest(found: Mapping[str, float], expected: Mapping[str, float]) -> tuple[str, float]:
    """The name whose two values differ most, and by how much."""
    gaps = {name: abs(found[name] - value) for name, value in expected.items()}
    name = max(gaps, key=gaps.__getitem__)
    return name, gaps[name]


def killed_and_resumed(place: Place) -> Iterator[Line]:
    """LoRA killed by SIGKILL between two checkpoints and gone on with, beside the run that nobody disturbed."""
    folder, script = place.folder / "killed", ROOT / "tests" / "training" / "killed_job.py"
    photos = write_photos(folder / "photos")

    def job(name: str, **more: Any) -> tuple[int, list[float]]:
        arguments = {"use_cpu": place.device == "cpu", "bf16": False, "max_steps": 8, "save_steps": 4}
        arguments |= {"save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 4}
        arguments |= more.pop("arguments", {})
        told = {"photos": str(photos), "backbone": "builtin:demo-backbone", "run": str(folder / name)}
        told |= {"method": "lora", "dropout": 0.0, "arguments": arguments, **more}
        words = [sys.executable, str(script), json.dumps(told)]
        done = subprocess.run(words, env=environment(folder / "home"), cwd=ROOT, capture_output=True, text=True)
        if done.returncode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"{name}: {done.stderr.strip()[-300:]}")
        return done.returncode, losses_of(folder / name) if done.returncode == 0 else []

    _, expected = job("whole")
    status, _ = job("cut", kill_at=6)
    if status != -signal.SIGKILL:
        raise RuntimeError(f"the run that was to be killed ended with {status}")
    _, found = job("cut", arguments={"resume_from_checkpoint": "true"})
    gap = max(abs(one - other) for one, other in zip(found, expected, strict=True))
    yield Line(
        "LoRA killed at step 6 and resumed: loss furthest from the undisturbed run's",
        gap,
        "",
        f"<= {SAME:g}",
        f"{len(found)} steps in fp32, gone on from step 4",
    )


def losses_of(run: Path) -> list[float]:
    """The losses of all logged steps of a run."""
    log = json.loads((run / "run.json").read_text())["log_history"]
    return [one["loss"] for one in log if "loss" in one]


def launched(recipe: str) -> dict[str, str]:
    """The environment in which `accelerate launch` with one of our configurations starts its processes."""
    from accelerate.commands.launch import launch_command, launch_command_parser

    found: dict[str, str] = {}
    config = ROOT / "recipes" / "accelerate" / f"{recipe}.yaml"
    # It starts no fewer than two; what it tells them does not say how many they are.
    words = ["--config_file", str(config), "--num_processes", "2", "script.py"]
    with patch.dict(os.environ), patch("torch.distributed.run.run", lambda _: found.update(os.environ)):
        launch_command(launch_command_parser().parse_args(words))
    return found


def launchers(place: Place) -> Iterator[Line]:
    """DDP and FSDP2 at one process beside a process that nobody launched: the losses of LoRA."""
    folder, script = place.folder / "launched", ROOT / "tests" / "training" / "sharded_launch.py"
    photos = write_photos(folder / "photos")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    common = {"--model_name_or_path": "builtin:demo-backbone", "--dataset_name": str(photos), "--image_size": "96"}
    common |= {"--group_column": "video", "--max_steps": "8", "--logging_steps": "1", "--bf16": "false"}
    common |= {"--use_cpu": str(place.device == "cpu").lower(), "--dataloader_num_workers": "0"}
    common |= {"--lora_dropout": "0", "--per_device_train_batch_size": "8", "--disable_tqdm": "true"}
    common |= {"--gradient_accumulation_steps": "1", "--eval_strategy": "no", "--save_strategy": "no"}
    common |= {"--early_stopping_patience": "null"}

    def losses(name: str, start: list[str], more: dict[str, str]) -> list[float]:
        run, jobs = folder / name, folder / f"{name}.json"
        words = [str(ROOT / "recipes" / "lora.yaml"), "--output_dir", str(run)]
        words += [word for pair in common.items() for word in pair]
        jobs.write_text(json.dumps([[words, None]]))
        variables = more | environment(folder / "home")
        command = [sys.executable, *start, str(script), str(jobs)]
        done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr.strip()[-300:]}")
        return losses_of(run)

    alone = losses("alone", [], {})
    for name, recipe in (("DDP", "multi_gpu"), ("FSDP2", "fsdp2")):
        what = f"LoRA by {name} at one process: loss furthest from that of a process alone"
        found = losses(name, torchrun, launched(recipe))
        gap = max(abs(one - other) for one, other in zip(found, alone, strict=True))
        yield Line(what, gap, "", f"<= {SAME:g}", f"{len(found)} steps in fp32")
