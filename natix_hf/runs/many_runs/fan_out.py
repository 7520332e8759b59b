"""Divides the runs of one command among all processes that were started with this command on a shared disk.

A process trains a run only while it holds the lease of this run (`leases/<name>` in the common folder). It skips
finished runs, and resumes a run from its last checkpoint if the previous process died. The state of the runs is kept
only on the disk, so every process writes the same tables.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from natix_hf.files import write_text
from natix_hf.runs.lease import Holder, Lease, LeaseLost, holder, take, time_of
from natix_hf.runs.many_runs.processes import Outcome, train

PROGRESS_TEXT = {"new": "starts", "interrupted": "resumes", "finished": "already finished"}


@dataclass(frozen=True)
class Planned:
    """A run: its folder name, the arguments of `natix_hf.train`, and the text of its recipe.yaml."""

    name: str
    words: list[str]
    text: str


def lease_of(output: Path, name: str) -> Path:
    """Path of the lease of a run. It is outside the run folder, which holds only the run."""
    return output / "leases" / name


def _failure(output: Path, name: str) -> Path:
    return output / "leases" / f".{name}.failed"  # names of runs do not start with a dot


def outcomes(output: Path, runs: Sequence[Planned], whose: str) -> dict[str, Outcome]:
    """The state of each run, read from the disk.

    Args:
        output: folder of all runs.
        runs: all runs.
        whose: what error messages call their origin: `sweep` or `command`.

    Raises:
        UserError: a folder holds something other than its run.
    """
    from natix_hf.runs.many_runs.sweep_runs import state

    states: dict[str, Outcome] = {}
    for run in runs:
        failure = _failure(output, run.name)
        if state(output / run.name, run.text, whose) == "finished":
            states[run.name] = Outcome("finished")
        elif failure.is_file():
            states[run.name] = Outcome("failed", failure.read_text(encoding="utf-8"))
        else:
            states[run.name] = Outcome("waiting")
    return states


def work(
    output: Path,
    runs: Sequence[Planned],
    *,
    noun: str,
    whose: str,
    after: Callable[[], None],
) -> None:
    """Train each unfinished run that no other process is training. Failed runs are tried once more.

    Args:
        output: folder of all runs.
        runs: the runs that this process may train.
        noun: what the printed lines call a run.
        whose: as in `outcomes`.
        after: called after each run that this process trained.
    """
    began = time_of(output / "leases")
    for place, run in enumerate(runs, start=1):
        label = f"{noun} {place}/{len(runs)} {run.name}"
        lease = take(lease_of(output, run.name))
        if isinstance(lease, Holder):
            print(f"{label}: in use by {lease}", flush=True)
            continue
        try:
            worked = train_one(output, run, label, whose, began, lease)
        except LeaseLost:
            print(f"{label}: taken over by {holder(lease.path) or 'another process'}", file=sys.stderr, flush=True)
            continue
        finally:
            lease.release()
        if worked:
            after()


def train_one(output: Path, run: Planned, label: str, whose: str, began: int, lease: Lease) -> bool:
    """Train one run under its lease, unless it is finished.

    Args:
        output, whose: as in `work`.
        run: the run.
        label: start of each printed line about the run.
        began: start time of this process by the clock of the disk. A run that failed later is not tried again.
        lease: of the run.

    Returns:
        Whether the run was trained.

    Raises:
        LeaseLost: another process has taken over the run.
    """
    from natix_hf.runs.many_runs.sweep_runs import state

    progress = state(output / run.name, run.text, whose)
    failure = _failure(output, run.name)
    if progress != "finished" and failure.is_file() and failure.stat().st_mtime_ns > began:
        print(f"{label}: just failed in another process", flush=True)
        return False
    print(f"{label}: {PROGRESS_TEXT[progress]}", flush=True)
    if progress == "finished":
        return False
    failure.unlink(missing_ok=True)
    if failed := train(output, run.name, run.words, resume=progress == "interrupted", lease=lease):
        note_failure(output, run, label, failed)
    return True


def note_failure(output: Path, run: Planned, label: str, why: str) -> None:
    """Record on the disk why a run failed, and print it to stderr."""
    write_text(_failure(output, run.name), why)
    print(f"{label}: failed: {why}", file=sys.stderr, flush=True)
