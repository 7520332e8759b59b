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


def is_complete(folder: str | Path) -> bool:
    """Whether every file that `mark_complete` recorded is there with its size."""
    folder = Path(folder)
    try:
        sizes = read_json(folder / COMPLETE)
    except (OSError, ValueError):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())


def step_of(folder: Path) -> int:
    """The optimizer step in the name `checkpoint-STEP`."""
    return int(folder.name.rsplit("-", 1)[1])


def checkpoints(run: str | Path) -> list[Path]:
    """The whole checkpoints of a run folder, earliest first."""
    folders = [p for p in Path(run, "checkpoints").glob("checkpoint-*") if p.name.rsplit("-", 1)[1].isdigit()]
    return sorted((p for p in folders if is_complete(p)), key=step_of)


def resume_point(run: str | Path, asked: str | bool | None) -> Path | None:
    """The checkpoint to go on from.

    Args:
        run: the run folder.
        asked: `resume_from_checkpoint` as a recipe says it: true, false, none, or a checkpoint folder.

    Returns:
        None where nothing is to be resumed, or where an interrupted run has no whole checkpoint yet.

    Raises:
        UserError: a named folder is not a whole checkpoint.
    """
    word = str(asked).lower()
    if word in ("none", "false", "no", "0", ""):
        return None
    if word in ("true", "yes", "1", "last"):
        whole = checkpoints(run)
        return whole[-1] if whole else None
    if not is_complete(asked):
        whole = checkpoints(run)
        hint = f"the last whole one is {whole[-1]}" if whole else f"{run} holds no whole checkpoint"
        raise UserError(f"resume_from_checkpoint {asked}: not a whole checkpoint; {hint}")
    return Path(asked)


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
    broken = [p for p in Path(run, "checkpoints").glob("checkpoint-*") if not is_complete(p)]
    for folder in broken:
        shutil.rmtree(folder)
    return [p.name for p in broken]
