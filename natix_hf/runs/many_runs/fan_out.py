"""Many runs of one command, shared out among all processes that were given the same command on one disk.

Each process takes runs that are not finished and that nobody has: a run belongs to whoever holds its lease
(`leases/<name>` of the common folder), is skipped once it is finished, and goes on from its last checkpoint where a
process died. What became of the runs stands on the disk alone, so that every process writes the same tables.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from natix_hf.files import write_text
from natix_hf.runs.lease import Holder, Lease, LeaseLost, holder, take, time_of
from natix_hf.runs.many_runs.processes import Outcome, train

TOLD = {"new": "begins", "interrupted": "goes on", "finished": "is there already"}


@dataclass(frozen=True)
class Planned:
    """A run: the name of its folder, what `natix_hf.train` is called with, and the recipe.yaml that it will have."""

    name: str
    words: list[str]
    text: str


def lease_of(output: Path, name: str) -> Path:
    """Where the lease of a run lies: beside the runs, since a folder holds one run and nothing else."""
    return output / "leases" / name


def _failure(output: Path, name: str) -> Path:
    return output / "leases" / f".{name}.failed"  # no run's name begins with a dot


def outcomes(output: Path, runs: Sequence[Planned], whose: str) -> dict[str, Outcome]:
    """What became of each run, as it stands on the disk.

    Args:
        output: the folder of all runs.
        runs: all of them.
        whose: they are, in messages: `sweep` or `command`.

    Raises:
        UserError: a folder holds something else.
    """
    from natix_hf.runs.many_runs.sweep_runs import state

    found: dict[str, Outcome] = {}
    for run in runs:
        failure = _failure(output, run.name)
        if state(output / run.name, run.text, whose) == "finished":
            found[run.name] = Outcome("finished")
        elif failure.is_file():
            found[run.name] = Outcome("failed", failure.read_text(encoding="utf-8"))
        else:
            found[run.name] = Outcome("waiting")
    return found


def work(
    output: Path,
    runs: Sequence[Planned],
    *,
    noun: str,
    whose: str,
    after: Callable[[], None],
) -> None:
    """Train the runs that are not finished and that no other process works on; failed ones are tried once more.

    Args:
        output: the folder of all runs.
        runs: those that this process may train.
        noun: what one is called in the lines that are printed.
        whose: as in `outcomes`.
        after: called after each run that was trained here.
    """
    began = time_of(output / "leases")
    for place, run in enumerate(runs, start=1):
        told = f"{noun} {place}/{len(runs)} {run.name}"
        lease = take(lease_of(output, run.name))
        if isinstance(lease, Holder):
            print(f"{told}: in use by {lease}", flush=True)
            continue
        try:
            worked = train_one(output, run, told, whose, began, lease)
        except LeaseLost:
            print(f"{told}: taken over by {holder(lease.path) or 'another process'}", file=sys.stderr, flush=True)
            continue
        finally:
            lease.release()
        if worked:
            after()


def train_one(output: Path, run: Planned, told: str, whose: str, began: int, lease: Lease) -> bool:
    """Train one run under its lease, unless it is finished.

    Args:
        output, whose: as in `work`.
        run: the run.
        told: how lines about it begin.
        began: when this process began, by the clock of the disk: what failed since is not tried again.
        lease: of the run.

    Returns:
        Whether there was something to do.

    Raises:
        LeaseLost: another process has taken the run over.
    """
    from natix_hf.runs.many_runs.sweep_runs import state

    found = state(output / run.name, run.text, whose)
    failure = _failure(output, run.name)
    if found != "finished" and failure.is_file() and failure.stat().st_mtime_ns > began:
        print(f"{told}: failed a moment ago in another process", flush=True)
        return False
    print(f"{told}: {TOLD[found]}", flush=True)
    if found == "finished":
        return False
    failure.unlink(missing_ok=True)
    if failed := train(output, run.name, run.words, resume=found == "interrupted", lease=lease):
        note_failure(output, run, told, failed)
    return True


def note_failure(output: Path, run: Planned, told: str, why: str) -> None:
    """Write down that a run failed, for whoever looks at the folder."""
    write_text(_failure(output, run.name), why)
    print(f"{told}: failed: {why}", file=sys.stderr, flush=True)
