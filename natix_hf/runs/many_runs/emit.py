"""Prints one command per run of a sweep, for a shell, Slurm or Hugging Face Jobs.

This module schedules nothing. Each command may be run several times: it skips a run that is finished or that another
process is training. The last command ranks the finished runs.
"""

from __future__ import annotations

import math
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import yaml

from natix_hf import __version__
from natix_hf.documents.ledger import read_ledger
from natix_hf.documents.run_speed import RunSpeed
from natix_hf.errors import UserError
from natix_hf.files import write_text
from natix_hf.options import without_keys
from natix_hf.runs.many_runs.search import TpeSearch
from natix_hf.runs.many_runs.sweep_plan import Grid, Member, Request

# US dollars per hour (huggingface.co/docs/hub/jobs-pricing, November 2026). `hf jobs hardware` shows current prices.
PRICES = {
    **{"cpu-basic": 0.01, "cpu-upgrade": 0.03, "cpu-xl": 1.0, "cpu-performance": 1.9, "t4-small": 0.4},
    **{"t4-medium": 0.6, "l4x1": 0.8, "l4x4": 3.8, "l40sx1": 1.8, "l40sx4": 8.3, "l40sx8": 23.5, "a10g-small": 1.0},
    **{"a10g-large": 1.5, "a10g-largex2": 3.0, "a10g-largex4": 5.0, "a100-large": 2.5, "a100x4": 10.0},
    **{"a100x8": 20.0, "h200": 5.0, "h200x2": 10.0, "h200x4": 20.0, "h200x8": 40.0},
}
FORMS = ("commands", "slurm", "hf-jobs")
OF_JOBS = ("flavor", "timeout", "bucket", "package")
MOUNTED = ("dataset_name", "model_name_or_path")
UNKNOWN_TIMEOUT, START = "6h", 600  # timeout without a measured speed; seconds a job takes to install its packages
REPEATED = ("grid", "seeds", "search", "trials", "space")


class Pace(NamedTuple):
    """Training speed of the finished runs of a sweep."""

    photos_per_second: float
    beside: float  # seconds per run outside training
    photos: int  # in train
    runs: int

    def seconds(self, recipe: Mapping[str, object]) -> float:
        """Estimated seconds of a run of this recipe."""
        steps = recipe.get("max_steps") or -1
        seen = float(recipe["num_train_epochs"]) * self.photos
        if steps > 0:
            seen = steps * recipe["per_device_train_batch_size"] * recipe.get("gradient_accumulation_steps", 1)
        return seen / self.photos_per_second + self.beside


def check(request: Request) -> None:
    """Raise `UserError` for options of `--emit` that conflict or are missing."""
    form = " ".join(request.own.get("emit", []))
    if "emit" in request.own and form not in FORMS:
        raise UserError(f"--emit: expected one of {', '.join(FORMS)}; found {form or 'nothing'}")
    if "emit" in request.own and "only" in request.own:
        raise UserError("--only: cannot be combined with --emit, which sets it for each run: remove --only")
    if form != "hf-jobs":
        if odd := next((key for key in OF_JOBS if key in request.own), None):
            raise UserError(f"--{odd}: only for --emit hf-jobs: add --emit hf-jobs, or remove --{odd}")
        return
    own = {key: " ".join(words) for key, words in request.own.items()}
    if "search" in own:
        raise UserError(
            "--emit hf-jobs: the trials of a search need a disk that they all share, and a bucket is not one: use "
            "--grid, or --emit slurm"
        )
    if own.get("flavor") not in PRICES:
        flavor = own.get("flavor") or "nothing"
        raise UserError(f"--flavor: expected hardware of Hugging Face Jobs, found {flavor}: {', '.join(PRICES)}")
    if own.get("bucket", "").count("/") != 1:
        raise UserError(
            "--bucket: expected OWNER/NAME, the bucket where the jobs save their runs; found "
            f"{own.get('bucket') or 'nothing'}: create one with hf buckets create"
        )


def emit(sweep: Grid | TpeSearch, request: Request, recipe: Path) -> list[str]:
    """The commands of a sweep, as lines in the form that `--emit` names.

    Args:
        sweep: the sweep to run.
        request: the command line of the sweep, already checked.
        recipe: recipe file.
    """
    form = request.own["emit"][0]
    if form == "hf-jobs":
        return _jobs(sweep, request, recipe)
    words = _words(request, recipe.resolve(), sweep.output.resolve())
    command = [sys.executable, "-m", "natix_hf.sweep", *words]
    place, names = shlex.quote(str(Path.cwd())), sweep.left()
    last = f"cd {place} && {shlex.join([*command, '--only'])}"
    if form == "commands":
        each = [f"cd {place} && {shlex.join([*command, '--only', name])}" for name in names]
        return [*each, "# after these have ended, write the table:", last]
    if not names:
        return ["# all runs are finished; write the table:", last]
    script = sweep.output.resolve() / "sweep.sbatch"
    write_text(script, _array(names, command, place, sweep.output.resolve() / "logs"))
    (sweep.output / "logs").mkdir(exist_ok=True)
    absent = [] if shutil.which("sbatch") else ["# sbatch was not found here: run these lines on a machine with Slurm"]
    return [
        *absent,
        "# add what the cluster requires to the sbatch command: --partition, --time, --gres=gpu:1, --mem",
        f"job=$(sbatch --parsable {shlex.quote(str(script))})",
        f"sbatch --dependency=afterany:$job --job-name=natix_hf-table --wrap {shlex.quote(last)}",
    ]


def _words(request: Request, recipe: Path, output: Path | str, drop: Sequence[str] = ()) -> list[str]:
    """The command line of the sweep with another output folder, without the options in `drop`."""
    kept = without_keys(request.rest[1:], ("output_dir", *drop))
    own = [word for key in REPEATED if key in request.own for word in (f"--{key}", *request.own[key])]
    return [str(recipe), *kept, "--output_dir", str(output), *own]


def _array(names: Sequence[str], command: Sequence[str], place: str, logs: Path) -> str:
    """A Slurm job array with one task per run."""
    listed = " ".join(map(shlex.quote, names))
    return f"""#!/bin/bash
#SBATCH --job-name=natix_hf-sweep
#SBATCH --array=0-{len(names) - 1}
#SBATCH --output={shlex.quote(f"{logs}/slurm-%A-%a.txt")}
set -eu
cd {place}
runs=({listed})
exec {shlex.join(command)} --only "${{runs[$SLURM_ARRAY_TASK_ID]}}"
"""


def _jobs(sweep: Grid, request: Request, recipe: Path) -> list[str]:
    """Commands for Hugging Face Jobs. Each job mounts the bucket of the sweep and writes its run there."""
    own = {key: " ".join(request.own[key]) for key in OF_JOBS if key in request.own}
    flavor, bucket = own["flavor"], own["bucket"]
    mounts: list[str] = []
    moved: dict[str, str] = {}
    for key in MOUNTED:
        path = Path(str(sweep.recipe[key]))
        if path.exists():
            folder, inside = (path, "") if path.is_dir() else (path.parent, f"/{path.name}")
            mounts += ["-v", f"{folder}:/inputs/{key}"]
            moved[key] = f"/inputs/{key}{inside}"
    words = _words(request, recipe.resolve(), f"/runs/{sweep.output.name}", drop=list(moved))
    words += [word for key, place in moved.items() for word in (f"--{key}", place)]
    package = own.get("package", f"natix_hf=={__version__}")
    common = ["-s", "HF_TOKEN", "--with", package, *mounts, "-v", f"hf://buckets/{bucket}:/runs"]
    tail = ["--", "python", "-m", "natix_hf.sweep", *words, "--only"]
    pace, left = measured_pace(sweep.output, sweep.runs()), sweep.left()
    waiting = [run for run in sweep.runs() if run.name in left]
    seconds = [pace.seconds(yaml.safe_load(run.text)) for run in waiting] if pace else []
    timeout = own.get("timeout") or (_minutes(3 * max(seconds) + START) if seconds else UNKNOWN_TIMEOUT)
    start = ["hf", "jobs", "uv", "run", "--detach"]
    each = [
        shlex.join([*start, "--flavor", flavor, "--timeout", timeout, *common, *tail, run.name]) for run in waiting
    ]
    return [
        _estimate(pace, seconds, flavor) if waiting else "# all runs are finished",
        *each,
        "# after these have ended, write the table and copy everything to this machine:",
        shlex.join([*start, "--flavor", "cpu-upgrade", "--timeout", "1h", *common, *tail]),
        shlex.join(["hf", "buckets", "sync", f"hf://buckets/{bucket}/{sweep.output.name}", str(sweep.output)]),
    ]


def _minutes(seconds: float) -> str:
    return f"{math.ceil(seconds / 60)}m"


def measured_pace(output: Path, runs: Sequence[Member]) -> Pace | None:
    """The median pace of the finished runs; None if no finished run took a step."""
    measured = []
    for run in runs:
        folder = output / run.name
        done = RunSpeed.read(folder) if RunSpeed.there(folder) else None
        if done and done.speed and done.speed.photos_per_second:
            whole = sum(done.time.values())
            rows = next(entry.rows for entry in read_ledger(folder) if entry.split == "train")
            rate = done.speed.photos_per_second
            measured.append((rate, max(0.0, whole - done.speed.photos / rate), rows))
    if not measured:
        return None
    rates, beside, rows = zip(*measured)
    return Pace(median(rates), median(beside), rows[0], len(measured))


def _estimate(pace: Pace | None, seconds: Sequence[float], flavor: str) -> str:
    """A comment line with the estimated cost of the remaining runs."""
    price = f"{flavor} costs ${PRICES[flavor]:.2f} per hour"
    if pace is None:
        return (
            f"# no cost estimate: no run of this sweep is finished, so no speed was measured; {price}; train one run "
            "there first (the first line below), then run this command again"
        )
    cost = (sum(seconds) + START * len(seconds)) / 3600 * PRICES[flavor]
    return (
        f"# longest run about {_minutes(max(seconds))}; ${cost:.2f} for {len(seconds)} runs, including {START // 60} "
        f"minutes each to start; based on {pace.photos_per_second:.1f} photos/s, measured in {pace.runs} finished "
        f"runs of this sweep, possibly on other hardware than {flavor}; {price}"
    )
