"""Checkpoints that count only when they are whole.

The Trainer writes a checkpoint file by file; a run that is killed meanwhile leaves a folder that looks like one. The
last file written is therefore a list of all others with their sizes, and a folder without it, or that disagrees with
it, does not exist for us. What stands in the files is the trainer's business.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from natix_hf.errors import UserError, one_line
from natix_hf.files import read_json, write_json

COMPLETE = "complete.json"


def mark_complete(folder: str | Path) -> None:
    """Record names and sizes of all files in `folder`, after they have reached the disk."""
    folder = Path(folder)
    sizes = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != COMPLETE):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    write_json(folder / COMPLETE, sizes)


def fault(folder: str | Path) -> str | None:
    """What a checkpoint lacks, None where every file that `mark_complete` recorded is there with its size."""
    folder = Path(folder)
    if not (folder / COMPLETE).is_file():
        return "it was not written to its end"
    try:
        sizes = read_json(folder / COMPLETE)
    except UserError:
        return f"{COMPLETE} cannot be read"
    for name, size in sizes.items():
        there = (folder / name).stat().st_size if (folder / name).is_file() else None
        if there != size:
            return f"{name} is missing" if there is None else f"{name} has {there} bytes, {size} were written"
    return None


def is_complete(folder: str | Path) -> bool:
    """Whether nothing of a checkpoint is missing."""
    return fault(folder) is None


def step_of(folder: Path) -> int:
    """The optimizer step in the name `checkpoint-STEP`."""
    return int(folder.name.rsplit("-", 1)[1])


def _folders(run: str | Path) -> list[Path]:
    """All checkpoints of a run folder, whole or not, earliest first."""
    folders = [p for p in Path(run, "checkpoints").glob("checkpoint-*") if p.name.rsplit("-", 1)[1].isdigit()]
    return sorted(folders, key=step_of)


def checkpoints(run: str | Path) -> list[Path]:
    """The whole checkpoints of a run folder, earliest first."""
    return [folder for folder in _folders(run) if is_complete(folder)]


def asked_to_resume(asked: str | bool | None) -> bool:
    """Whether `resume_from_checkpoint`, as a recipe says it, asks for anything."""
    return str(asked).lower() not in ("none", "false", "no", "0", "")


def resume_point(run: str | Path, asked: str | bool | None) -> Path | None:
    """The checkpoint to go on from.

    Args:
        asked: `resume_from_checkpoint` as a recipe says it: true, false, none, or a checkpoint folder.

    Returns:
        None where nothing is to be resumed, or where an interrupted run has no whole checkpoint yet.

    Raises:
        UserError: a named folder is not a whole checkpoint, or the only ones of the run were damaged after they had
            been written.
    """
    if not asked_to_resume(asked):
        return None
    whole = checkpoints(run)
    if str(asked).lower() in ("true", "yes", "1", "last"):
        damaged = [folder for folder in _folders(run) if (folder / COMPLETE).exists()]
        if damaged and not whole:
            raise UserError(
                f"resume_from_checkpoint: {damaged[-1]} is damaged ({fault(damaged[-1])}), and {run} holds no whole "
                "checkpoint: bring the file back, or start anew: --overwrite_output_dir true in place of "
                "--resume_from_checkpoint"
            )
        return whole[-1] if whole else None
    if reason := fault(asked):
        hint = f"the last whole one is {whole[-1]}" if whole else f"{run} holds no whole checkpoint"
        there = f"not a whole checkpoint ({reason})" if Path(asked).is_dir() else "no such folder"
        raise UserError(f"resume_from_checkpoint {asked}: {there}; {hint}")
    return Path(asked)


def resumed_line(run: str | Path, point: Path | None) -> str:
    """Where a resumed run goes on, and which checkpoints it could not use."""
    later = [folder for folder in _folders(run) if not is_complete(folder)]
    later = [folder for folder in later if point is None or step_of(folder) > step_of(point)]
    passed = "".join(f"; {folder.name} is not whole: {fault(folder)}" for folder in later)
    if point is None:
        return f"resumed: {run} holds no whole checkpoint, training starts at step 1{passed}"
    return f"resumed: training goes on from {point}, after step {step_of(point)}{passed}"


def check_continuable(point: Path) -> None:
    """Raise `UserError` for a checkpoint that holds weights and nothing of the optimizer."""
    if not any(point.glob("optimizer*")):
        raise UserError(
            f"resume_from_checkpoint: {point} holds the model alone (save_only_model: true), and training cannot go "
            "on without the state of its optimizer: start anew: --overwrite_output_dir true in place of "
            "--resume_from_checkpoint"
        )


def not_finite(run: str | Path, step: int, loss: float) -> str:
    """What to say where a loss is NaN or infinite."""
    whole = checkpoints(run)
    last = f"the last good checkpoint is {whole[-1]}" if whole else "there is no checkpoint yet"
    return f"the loss is {loss} at step {step}; {last}. A lower learning_rate or a longer warm-up usually helps"


def not_saved(run: str | Path, step: int, error: Exception, free: int) -> str:
    """What to say where a checkpoint could not be written; `free` bytes are left on the disk."""
    return (
        f"the checkpoint of step {step} could not be written ({one_line(error)}; {free / 2**20:.1f} MiB are free in "
        f"{run}): make room, then go on with --resume_from_checkpoint true"
    )


def remove_incomplete(run: str | Path) -> list[str]:
    """Delete what an interrupted write left in `checkpoints/`; returns the names."""
    broken = [folder for folder in _folders(run) if not is_complete(folder)]
    for folder in broken:
        shutil.rmtree(folder)
    return [p.name for p in broken]
