"""Declares the steps of a run: the files that each one reads and writes. Checks whether these are up to date.

Each file is written by one step. A step fails if it changes a file of another step, reads a file that it does not
declare, or does not write a file that it declares. Its record is then not written, so the step counts as not done. Any
step that reads rows appends to the ledger, which belongs to no step.

Other modules carry out the steps.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from natix_hf.documents.ledger import note_reads
from natix_hf.documents.step_record import FilePrint, StepRecord, prints
from natix_hf.options import RecipeValue
from natix_hf.runs.provenance import now, versions

if TYPE_CHECKING:
    from natix_hf.data.splits.contracts import LockedSplits


class ContractError(RuntimeError):
    """A step read or wrote an undeclared file. This is a bug in the code, not an error of the user."""


@dataclass(frozen=True)
class Step:
    """One step on the way from photos to a report.

    Attributes:
        name: name of its record, `steps/<name>.json`.
        does: short description for the user.
        reads: files of the run, as patterns of `Path.glob`.
        writes: files that this step alone writes. Each pattern has to match one, unless it ends in `?`.
        photos: whether it reads the photos themselves.
    """

    name: str
    does: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    photos: bool = False

    def inputs(self, run: Path) -> list[str]:
        """The existing files of a run that the step reads, without those that it writes."""
        own = set(self.outputs(run))
        return [name for name in _found(run, self.reads) if name not in own]

    def outputs(self, run: Path) -> list[str]:
        """The files of a run that the step has written."""
        return _found(run, self.writes)

    def missing(self, run: Path) -> list[str]:
        """The patterns of required files that are missing."""
        return [pattern for pattern in self.writes if not pattern.endswith("?") and not _found(run, (pattern,))]


MODEL = (
    "*.safetensors",
    "config.json",
    "preprocessor_config.json",
    "*.py?",
    "*.safetensors.index.json?",
    "adapter/*?",
)
DECISIONS = ("reliability", "confusion", "threshold", "risk_coverage", "cost", "ranking")
PAGE = ("training", *DECISIONS, "robustness", "reward")

SPLIT = Step(
    "split", "cut the photos into four splits of whole groups", reads=(), writes=("splits.json",), photos=True
)
TRAIN = Step(
    "train",
    "train on train, choose the checkpoint on val_select",
    reads=("splits.json",),
    writes=("run.json", "probe.json?", "figures/curriculum.png?", "figures/probe.png?"),
    photos=True,
)
PREDICT = Step(
    "predict",
    "write the logits of val_select, val_calib and val_test",
    reads=("run.json", "splits.json"),
    writes=("predictions/val_*.parquet", "predictions/probe/*.parquet?", "predictions/robustness/*.parquet?"),
    photos=True,
)
CALIBRATE = Step(
    "calibrate",
    "fit calibrator, class shares and threshold on val_calib/fit, the guarantee on val_calib/control",
    reads=("run.json", "splits.json", "cascade.json", "predictions/val_calib*.parquet"),
    writes=("calibration.json",),
)
ASSEMBLE = Step(
    "assemble",
    "save weights and calibration as one model, and count its operations per photo",
    reads=("run.json", "splits.json", "calibration.json"),
    writes=(*MODEL, "photo_cost.json?"),
)
TIME = Step(
    "time",
    "time the model photo by photo, if challenge profiles are measured",
    reads=("run.json", *MODEL),
    writes=("predictions/robustness/latency.json?",),
    photos=True,
)
SHOW = Step(
    "show",
    "keep the photos that the page shows",
    reads=("run.json", "splits.json", "calibration.json", "predictions/val_*.parquet", *MODEL),
    writes=("gallery.json", "gallery/*?"),
    photos=True,
)
EVALUATE = Step(
    "evaluate",
    "compute the final figures from the logits of val_test",
    reads=("run.json", "splits.json", "calibration.json", "predictions/*", "predictions/*/*"),
    writes=("metrics.json", "selective.json", "slices.json?", "robustness.json?", "reward.json?", "over_probe.json?"),
)
REPORT = Step(
    "report",
    "draw the figures, write the card and the page",
    reads=("*.json", "recipe.yaml", "predictions/val_*.parquet", "gallery/*", "figures/*", "*.safetensors"),
    writes=("README.md", "report.html", *(f"figures/{name}.png?" for name in PAGE)),
)
EXPORT = Step(
    "export",
    "write the model in the form that clients load",
    reads=("run.json", "calibration.json", *(name for name in MODEL if name != "adapter/*?"), "adapter/*"),
    writes=("exports/*/export.json", "exports/*/*?"),
)
PROVE = Step(
    "prove",
    "check that the export gives the same answers as the run",
    reads=("exports/*/*", "run.json", "splits.json", "calibration.json", *MODEL),
    writes=("exports/*/proof.json",),
    photos=True,
)
CARRY_OVER = Step(
    "carry over",
    "take calibration and figures from the honest run",
    reads=("run.json",),
    writes=("calibration.json", "metrics.json"),
)
CARD = Step("card", "write the card", reads=("*.json", "recipe.yaml", "*.safetensors"), writes=("README.md",))
PRETRAIN = Step(
    "pretrain",
    "learn from train and the pool without labels",
    reads=("splits.json",),
    writes=("run.json", "pool.json?", "guard.json", "figures/guard.png", "milestones/*/*"),
    photos=True,
)
CHOOSE = Step(
    "choose",
    "choose among the milestones and the original by probes on val_select",
    reads=("run.json", "splits.json", "pool.json", "milestones/*/*"),
    writes=("choice.json", "README.md", *MODEL),
    photos=True,
)
COMBINE = Step(
    "combine",
    "copy two models, and put their logits side by side",
    reads=(),
    writes=("run.json", "splits.json", "cascade.json", "predictions/val_*.parquet", "first/*", "second/*"),
)

# The recipe and what is appended to (the ledger, speed.json at the end of a job) belong to no step.
# What a run is for -> its steps, in the order in which data flows.
CHAINS: dict[str, tuple[Step, ...]] = {
    "run": (SPLIT, TRAIN, PREDICT, CALIBRATE, ASSEMBLE, TIME, SHOW, EVALUATE, REPORT),
    "sweep": (SPLIT, TRAIN, PREDICT),
    "refit": (SPLIT, TRAIN, CARRY_OVER, ASSEMBLE, CARD),
    "pretrain": (SPLIT, PRETRAIN, CHOOSE),
    "cascade": (COMBINE, CALIBRATE),  # finished without figures, so that val_test is not read while promises are tried
}


@contextmanager
def carried_out(
    run: Path,
    step: Step,
    options: Mapping[str, RecipeValue] | None = None,
    *,
    purpose: str = "run",
    splits: LockedSplits | None = None,
    noted: bool = True,
) -> Iterator[None]:
    """Context manager around the work of a step. Writes the record of the step if the block succeeds.

    Args:
        run: the run folder.
        step: a step of the chain of `purpose`.
        options: options of the step, as JSON types, which `stale` compares.
        purpose: purpose of the run, a key of `CHAINS`.
        splits: splits whose reads are noted in the ledger of the run, even if the block fails.
        noted: False on helper processes, where nothing is checked or written.

    Raises:
        ContractError: the block read or wrote what the step does not declare, or left out what it should write.
    """
    if not noted:
        yield
        return
    run, started, begin = Path(run), now(), time.perf_counter()
    others = _of_others(run, step, purpose)
    before = {name: _state(run / name) for name in others}
    read = set(step.inputs(run))
    with _opened(run) as opened:
        try:
            yield
        finally:
            if splits is not None:
                note_reads(run, splits.new_reads())
    if strange := sorted((opened & set(others)) - read - set(step.inputs(run))):
        raise ContractError(f"step {step.name!r} read {strange[0]} of step {others[strange[0]].name!r}, undeclared")
    if changed := [name for name, state in before.items() if _state(run / name) != state]:
        raise ContractError(f"step {step.name!r} changed {changed[0]}, which step {others[changed[0]].name!r} writes")
    if strange := [(name, other) for name, other in _of_others(run, step, purpose).items() if name not in before]:
        raise ContractError(f"step {step.name!r} wrote {strange[0][0]}, which step {strange[0][1].name!r} writes")
    if missing := step.missing(run):
        raise ContractError(f"step {step.name!r} did not write {missing[0]}")
    StepRecord(
        name=step.name,
        reads=prints(run, step.inputs(run)),
        writes=prints(run, step.outputs(run)),
        options=dict(options or {}),
        versions=versions(),
        started=started,
        seconds=round(time.perf_counter() - begin, 3),
    ).note(run)


def _of_others(run: Path, step: Step, purpose: str) -> dict[str, Step]:
    """The files of a run that other steps of its chain write, each with its step."""
    own = set(step.outputs(run))
    return {name: one for one in CHAINS[purpose] if one != step for name in one.outputs(run) if name not in own}


def stale(run: Path, step: Step, options: Mapping[str, RecipeValue] | None = None) -> str | None:
    """Why a step has to be done, in a few words; None if it is up to date.

    Args:
        run: the run folder.
        step: the step.
        options: its options now; None: the same as before.

    Package versions are not compared: an upgrade does not make files out of date.
    """
    run = Path(run)
    record = StepRecord.of(run, step.name)
    if record is None:
        return "not done yet"
    if options is not None and (odd := _differing(record.options, options)):
        return odd
    for what, was, names in (
        ("output", record.writes, step.outputs(run)),
        ("input", record.reads, step.inputs(run)),
    ):
        if gone := sorted(set(was) - set(names)):
            return f"{what} {gone[0]} is gone"
        if what == "input" and (new := sorted(set(names) - set(was))):
            return f"{what} {new[0]} is new"
        if odd := _changed(run, was):
            return f"{what} {odd} was changed"
    return None


def outputs_intact(run: Path, step: Step) -> bool:
    """Whether a step was done and its files are unchanged. Its inputs are not checked."""
    record = StepRecord.of(run, step.name)
    return record is not None and set(record.writes) <= set(step.outputs(run)) and not _changed(run, record.writes)


def _changed(run: Path, was: Mapping[str, FilePrint]) -> str | None:
    """The first file whose content has changed."""
    return next(
        (name for name, one in was.items() if FilePrint.of(run / name, one).fingerprint != one.fingerprint), None
    )


def _differing(was: Mapping[str, RecipeValue], now: Mapping[str, RecipeValue]) -> str | None:
    odd = [name for name in now if was.get(name) != now[name]]
    return f"{odd[0]}: {was.get(odd[0])} before, {now[odd[0]]} now" if odd else None


def _found(run: Path, patterns: tuple[str, ...]) -> list[str]:
    files = {path for pattern in patterns for path in Path(run).glob(pattern.rstrip("?")) if path.is_file()}
    return sorted(path.relative_to(run).as_posix() for path in files if not path.name.startswith("."))


def _state(path: Path) -> tuple[int, int] | None:
    if not path.is_file():
        return None
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


_watching: list[tuple[str, set[str]]] = []


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _watching:
        return
    path, mode, flags = arguments
    if not isinstance(path, str | os.PathLike) or (mode is None and flags & os.O_ACCMODE != os.O_RDONLY):
        return
    if mode is not None and not set(mode) & set("r+"):
        return
    folder, opened = _watching[-1]
    path = os.path.abspath(path)
    if path.startswith(folder):
        opened.add(path[len(folder) :].replace(os.sep, "/"))


@contextmanager
def _opened(run: Path) -> Iterator[set[str]]:
    """The files of a run that Python opens for reading in the block. Files opened by C++ code are not seen."""
    if not _note_opened.__dict__.get("added"):
        sys.addaudithook(_note_opened)
        _note_opened.added = True  # type: ignore[attr-defined]  # an audit hook cannot be removed
    opened: set[str] = set()
    _watching.append((os.path.join(os.path.abspath(run), ""), opened))
    try:
        yield opened
    finally:
        _watching.pop()
