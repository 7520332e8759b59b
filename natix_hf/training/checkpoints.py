"""Checkpoints that count only when they are whole.

The Trainer writes a checkpoint file by file; a run that is killed meanwhile leaves a folder that looks like one. The
last file written is therefore a list of all others with their sizes, and a folder without it, or that disagrees with
it, does not exist for us. What stands in the files is the trainer's business.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from natix_hf.errors import UserError
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


def remove_incomplete(run: str | Path) -> list[str]:
    """Delete what an interrupted write left in `checkpoints/`; returns the names."""
    broken = [p for p in Path(run, "checkpoints").glob("checkpoint-*") if not is_complete(p)]
    for folder in broken:
        shutil.rmtree(folder)
    return [p.name for p in broken]
