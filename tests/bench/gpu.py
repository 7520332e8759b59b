"""Figures of one GPU in at most eight minutes: ratios to bare loops, and whether results are those of the CPU.

    python tests/bench/gpu.py --output runs/gpu
    python tests/bench/gpu.py --output runs/gpu-2 --compare runs/gpu/gpu.json --only lora_steps attention
    python tests/bench/gpu.py --output runs/try --tiny --cpu    # tiny models: whether the script works, no figures

Models have the shapes of DINOv3 and random weights; photos are generated, 1280x720 as JPEG. Each part is a process of
its own: one that fails is a row of the table and ends nothing. A part begins only while the budget has room for it.
Prints Markdown for docs/speed.md row by row, and writes OUTPUT/gpu.md and OUTPUT/gpu.json; what the parts themselves
said stands in OUTPUT/PART.log. Not a test, but tests/test_gpu_bench.py runs every part on a CPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from gpu_parts.place import Line, Place
from gpu_parts.table import HEADER, rows_of_part

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = {"full": 512, "tiny": 48}


class Part(NamedTuple):
    """A function of a module of `gpu_parts`, and about how many seconds it takes on an H100."""

    module: str
    function: str
    seconds: int


# The most telling first: the budget may end before the last.
PARTS = {
    "lora_steps": Part("training", "lora_steps", 70),
    "photos_per_second": Part("photos_per_second", "features_and_predictions", 60),
    "attention": Part("training", "attention", 30),
    "same_figures": Part("whole_jobs", "same_figures", 80),
    "killed_and_resumed": Part("whole_jobs", "killed_and_resumed", 45),
    "launchers": Part("whole_jobs", "launchers", 50),
    "wide_and_tiles": Part("training", "wide_and_tiles", 30),
    "prefix_cache": Part("training", "prefix_cache", 30),
    "heads": Part("training", "heads", 20),
    "compiled": Part("training", "compiled", 45),
}


class Refused(Exception):
    """Why the script does not begin, in one line."""


def setting(cpu: bool, tiny: bool) -> dict[str, Any]:
    """What figures depend on: card, cores, versions."""
    import torch

    card = "CPU alone"
    if not cpu:
        if not torch.cuda.is_available():
            raise Refused(
                "no GPU that torch can use is here: run it on a machine with one, or try the script with --tiny --cpu"
            )
        card = f"{torch.cuda.get_device_name()}, {torch.cuda.get_device_properties(0).total_memory / 1e9:.0f} GB"
    versions = {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")}
    versions |= {"python": platform.python_version(), "cuda": torch.version.cuda or "none"}
    return {"card": card, "cores": os.cpu_count(), "versions": versions, "models": "tiny" if tiny else "full size"}


def told(here: dict[str, Any]) -> str:
    """A setting in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in here["versions"].items())
    return f"{here['card']}, {here['cores']} cores; {versions}; {here['models']} models"


def earlier(path: Path | None) -> dict[str, Any] | None:
    """The JSON of an earlier run."""
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"setting": found["setting"], "parts": found["parts"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise Refused(f"--compare {path}: not a gpu.json that this script wrote") from None


def measure(command: list[str], found: Path, log: Path, seconds: float) -> dict[str, Any]:
    """Run a part: its status, its seconds, the lines that it wrote, and its fault where it has one.

    Args:
        command: writes a line of JSON to `found` for each figure as soon as it is there.
        log: for all that it prints.
        seconds: after which it is stopped, with all of its processes.
    """
    begin, fault = time.monotonic(), None
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {
        "PYTHONPATH": paths,
        "NATIX_HF_HOME": str(found.parent / "home"),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
    }
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, start_new_session=True
        )
        try:
            if status := process.wait(seconds):
                said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                fault = " ".join((said or [f"exit status {status}"])[-1].split())[:300]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            fault = f"stopped after {seconds:.0f} s, when the budget was spent"
    lines = [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()] if found.exists() else []
    took = {"seconds": round(time.monotonic() - begin, 1), "lines": lines}
    return {"status": "failed", "fault": fault, **took} if fault else {"status": "measured", **took}


def bench(given: argparse.Namespace, folder: Path) -> None:
    """All parts that were asked for, one after the other, photos and scratch in `folder`."""
    from speed_parts.photos import draw

    begin, before = time.monotonic(), earlier(given.compare)
    here = setting(given.cpu, given.tiny)
    given.output.mkdir(parents=True, exist_ok=True)
    table = [told(here), *([f"before: {told(before['setting'])}"] if before else []), "", *HEADER]
    print("\n".join(table), flush=True)
    place = Place("cpu" if given.cpu else "cuda", given.tiny, folder, min(16, os.cpu_count() or 1))
    if given.budget > 0:
        draw(place.photos, PHOTOS[("full", "tiny")[given.tiny]])
    parts: dict[str, dict[str, Any]] = {}
    for name in given.only:
        left = given.budget - (time.monotonic() - begin)
        if left < PARTS[name].seconds:
            parts[name] = {"status": "not run", "fault": f"{max(0.0, left):.0f} s were left of {given.budget}"}
        else:
            found = folder / f"{name}.jsonl"
            words = [sys.executable, __file__, "--part", name, "--found", str(found), "--folder", str(folder)]
            words += ["--workers", str(place.workers), *["--tiny"] * given.tiny, *["--cpu"] * given.cpu]
            parts[name] = measure(words, found, given.output / f"{name}.log", left)
        rows = rows_of_part(name, parts[name], before and before["parts"].get(name))
        print("\n".join(rows), flush=True)
        table += rows
        (given.output / "gpu.md").write_text("\n".join([*table, ""]), encoding="utf-8")
        document = json.dumps({"setting": here, "parts": parts}, indent=2) + "\n"
        (given.output / "gpu.json").write_text(document, encoding="utf-8")


def one_part(given: argparse.Namespace) -> None:
    """One part, in this process."""
    part = PARTS[given.part]
    measured = getattr(importlib.import_module(f"gpu_parts.{part.module}"), part.function)
    place = Place("cpu" if given.cpu else "cuda", given.tiny, given.folder, given.workers)
    with given.found.open("w", encoding="utf-8") as file:
        line: Line
        for line in measured(place):
            file.write(json.dumps(line.plain()) + "\n")
            file.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), help="for gpu.md, gpu.json and logs")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--budget", type=int, default=480, help="seconds for all parts (default %(default)s)")
    parser.add_argument("--compare", type=Path, help="the gpu.json of an earlier run, whose figures stand beside")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU")
    parser.add_argument("--tiny", action="store_true", help="tiny models and few steps")
    for hidden, kind in (("--part", str), ("--found", Path), ("--folder", Path), ("--workers", int)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        one_part(given)
        return
    folder = Path(tempfile.mkdtemp(prefix="natix-gpu-"))
    try:
        bench(given, folder)
    except Refused as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
