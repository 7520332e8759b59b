"""Tells complete checkpoints from incomplete ones, and chooses the one to resume from.

The Trainer writes a checkpoint file by file, and a run that is killed leaves a folder that looks complete. So the last
file written lists all others with their sizes. A folder without this list, or with files that differ from it, is
ignored. `saving.py` writes and reads the contents.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from natix_hf.errors import UserError, one_line
from natix_hf.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import TrainingArguments

COMPLETE = "complete.json"


def mark_complete(folder: str | Path) -> None:
    """Flush all files in `folder` to disk, then record their names and sizes."""
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
    """Why a checkpoint is incomplete; None if every file recorded by `mark_complete` is there with its size."""
    folder = Path(folder)
    if not (folder / COMPLETE).is_file():
        return "it was not written completely"
    try:
        sizes = read_json(folder / COMPLETE)
    except UserError:
        return f"{COMPLETE} cannot be read"
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (found := path.stat().st_size) != size:
            return f"{name}: expected {size} bytes, found {found}"
    return None


def is_complete(folder: str | Path) -> bool:
    """Whether a checkpoint has all its files."""
    return fault(folder) is None


def step_of(folder: Path) -> int:
    """The optimizer step in the name `checkpoint-STEP`."""
    return int(folder.name.rsplit("-", 1)[1])


def _folders(run: str | Path) -> list[Path]:
    """All checkpoints of a run folder, complete or not, earliest first."""
    folders = [p for p in Path(run, "checkpoints").glob("checkpoint-*") if p.name.rsplit("-", 1)[1].isdigit()]
    return sorted(folders, key=step_of)


def checkpoints(run: str | Path) -> list[Path]:
    """The complete checkpoints of a run folder, earliest first."""
    return [folder for folder in _folders(run) if is_complete(folder)]


def asked_to_resume(asked: str | bool | None) -> bool:
    """Whether the value of `resume_from_checkpoint` in a recipe asks to resume."""
    return str(asked).lower() not in ("none", "false", "no", "0", "")


def resume_point(run: str | Path, asked: str | bool | None) -> Path | None:
    """The checkpoint to resume from.

    Args:
        run: folder of the run.
        asked: `resume_from_checkpoint` as in a recipe: true, false, none, or a checkpoint folder.

    Returns:
        None if the run is not to be resumed, or has no complete checkpoint yet.

    Raises:
        UserError: the given folder is not a complete checkpoint, or all checkpoints of the run were damaged after
            they had been written.
    """
    if not asked_to_resume(asked):
        return None
    whole = checkpoints(run)
    if str(asked).lower() in ("true", "yes", "1", "last"):
        damaged = [folder for folder in _folders(run) if (folder / COMPLETE).exists()]
        if damaged and not whole:
            raise UserError(
                f"resume_from_checkpoint: {damaged[-1]} is damaged ({fault(damaged[-1])}), and {run} has no complete "
                "checkpoint: restore the file, or start again with --overwrite_output_dir true instead of "
                "--resume_from_checkpoint"
            )
        return whole[-1] if whole else None
    if reason := fault(asked):
        hint = f"the last complete one is {whole[-1]}" if whole else f"{run} has no complete checkpoint"
        problem = f"not a complete checkpoint ({reason})" if Path(asked).is_dir() else "no such folder"
        raise UserError(f"resume_from_checkpoint {asked}: {problem}; {hint}")
    return Path(asked)


def resumed_line(run: str | Path, point: Path | None) -> str:
    """One line: where a resumed run continues, and which checkpoints it could not use."""
    later = [folder for folder in _folders(run) if point is None or step_of(folder) > step_of(point)]
    faults = {folder.name: fault(folder) for folder in later}
    skipped = "".join(f"; {name} is incomplete: {reason}" for name, reason in faults.items() if reason)
    if point is None:
        return f"resumed: {run} has no complete checkpoint, so training starts at step 1{skipped}"
    return f"resumed: training continues from {point}, after step {step_of(point)}{skipped}"


def check_continuable(point: Path) -> None:
    """Raise `UserError` for a checkpoint without the state of the optimizer."""
    if not any(point.glob("optimizer*")):
        raise UserError(
            f"resume_from_checkpoint: {point} has only the model (save_only_model: true), and training cannot "
            "continue without the state of its optimizer: start again with --overwrite_output_dir true instead of "
            "--resume_from_checkpoint"
        )


def not_finite(run: str | Path, step: int, loss: float) -> str:
    """The error message for a NaN or infinite loss."""
    whole = checkpoints(run)
    last = f"the last good checkpoint is {whole[-1]}" if whole else "there is no checkpoint yet"
    return f"the loss is {loss} at step {step}; {last}. A lower learning_rate or a longer warm-up usually helps"


def not_saved(run: str | Path, step: int, error: Exception, free: int) -> str:
    """The error message for a checkpoint that could not be written; the disk has `free` bytes left."""
    return (
        f"the checkpoint of step {step} could not be written ({one_line(error)}; {free / 2**20:.1f} MiB are free in "
        f"{run}): free some space, then continue with --resume_from_checkpoint true"
    )


def begin_at(args: TrainingArguments, asked: str | bool | None) -> Path | None:
    """The checkpoint that training goes on from, as `resume_point`; removes incomplete checkpoints of the run.

    Args:
        args: name the run folder, and the checkpoint if `asked` is None.
    """
    with args.main_process_first(desc="checkpoints"):
        point = resume_point(args.output_dir, args.resume_from_checkpoint if asked is None else asked)
        if args.should_save:
            remove_incomplete(args.output_dir)
    return point


def remove_incomplete(run: str | Path) -> list[str]:
    """Delete incomplete checkpoints; returns their names."""
    broken = [folder for folder in _folders(run) if not is_complete(folder)]
    for folder in broken:
        shutil.rmtree(folder)
    return [p.name for p in broken]
