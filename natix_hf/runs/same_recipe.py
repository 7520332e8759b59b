"""Checks that two trainings have the same recipe: a resumed run and its start, or a refit and its honest run.

This module lists the keys that may differ; every other key affects the weights or how they are chosen. Works on the
texts of `recipe.yaml`. The caller passes in the known keys and their defaults.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from natix_hf.documents.run_record import RunRecord
from natix_hf.errors import UserError, few
from natix_hf.options import RecipeValue

if TYPE_CHECKING:
    from transformers import TrainingArguments

# Places, and how the machine is used.
PLACES = (
    *("output_dir", "until", "cache_dir", "cache_gb", "preprocessing_num_workers"),
    *("push_to_hub", "hub_model_id", "hub_format", "hub_private_repo", "model_version", "hotkey"),
    *("report_to", "run_name", "project", "disable_tqdm", "log_level"),
    *("logging_strategy", "logging_steps", "logging_first_step", "save_steps", "save_total_limit", "save_only_model"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
    *("dataloader_prefetch_factor", "per_device_eval_batch_size", "ddp_backend", "ddp_timeout"),
    "attn_implementation",
)
# A resumed run may also change when checkpoints are scored and written, and where its photos are. (Fingerprints check
# that they are the same photos.)
RESUMED = (
    *PLACES,
    "dataset_name",
    "unlabelled_name",
    "eval_strategy",
    "eval_steps",
    "eval_delay",
    "eval_on_start",
    "save_strategy",
)
LONGER = ("num_train_epochs", "max_steps")  # a resumed run may have more of them
REFITTED = (*PLACES, "refit", "refit_from")


def differing(
    ours: Mapping[str, RecipeValue],
    theirs: Mapping[str, RecipeValue],
    known: Mapping[str, RecipeValue],
    free: Collection[str],
) -> dict[str, tuple[RecipeValue, RecipeValue]]:
    """Keys with different values, each with ours and theirs. A key that is absent has its default."""
    pairs = {
        key: (ours.get(key, known.get(key)), theirs.get(key, known.get(key)))
        for key in (*theirs, *(key for key in ours if key not in theirs))
        if key not in free
    }
    return {key: (one, other) for key, (one, other) in pairs.items() if not _same(key, one, other)}


def _same(key: str, one: RecipeValue, other: RecipeValue) -> bool:
    if key != "model_name_or_path" or one == other:
        return one == other
    here, there = (Path(os.path.abspath(os.path.expanduser(name))) for name in (one, other))
    return here == there or (here.is_dir() and here.name == there.name and not there.exists())  # it was moved


def differences(odd: Mapping[str, tuple[RecipeValue, RecipeValue]]) -> str:
    """The first differences as text for a message, each with both values."""
    return few(f"{key} ({one} here, {other} there)" for key, (one, other) in odd.items())


def check_resumed(
    point: Path, text: str, known: Mapping[str, RecipeValue], processes: int, command: str
) -> str | None:
    """Check that a run resumes from a checkpoint with the settings that the checkpoint was trained with.

    Args:
        point: the checkpoint, in `checkpoints/` of its run.
        text: the recipe now, as the text of its `recipe.yaml`.
        known: every key of a recipe with its default.
        processes: number of training processes now.
        command: the module to run, for the error message.

    Returns:
        A line that says what is longer now, or None.

    Raises:
        UserError: a setting differs; the message gives both values.
    """
    run = point.absolute().parent.parent
    if not (run / "recipe.yaml").is_file():
        raise UserError(
            f"resume_from_checkpoint: {run} has no recipe.yaml, so the settings of {point.name} are unknown: restore "
            "the file, or start again with --overwrite_output_dir true instead of --resume_from_checkpoint"
        )
    ours, theirs = (yaml.safe_load(one) for one in (text, (run / "recipe.yaml").read_text(encoding="utf-8")))
    odd = differing(ours, theirs, known, RESUMED)
    longer = {key: odd.pop(key) for key in LONGER if key in odd and 0 < odd[key][1] < odd[key][0]}
    was = RunRecord.read(run).processes
    if was != processes:
        odd["processes"] = (processes, was)
    if odd:
        raise UserError(
            f"resume_from_checkpoint: {point} was trained with other settings: {differences(odd)}: use those of "
            f"the run (python -m {command} {run / 'recipe.yaml'} --output_dir {run} --resume_from_checkpoint true), "
            "or start again with --overwrite_output_dir true instead of --resume_from_checkpoint"
        )
    changes = [f"{key} {other:g} -> {one:g}" for key, (one, other) in longer.items()]
    if not changes:
        return None
    return f"resumed: {', '.join(changes)}; the learning rate follows the longer schedule from here"


def check_start(
    args: TrainingArguments, text: str, known: Mapping[str, RecipeValue], command: str
) -> tuple[Path | None, str | None]:
    """Check that a run can start or resume in its folder.

    Args:
        args: name the folder, and what to resume.
        text, known, command: as in `check_resumed`.

    Returns:
        The checkpoint to resume from, and the line of `check_resumed`; None for a new run.

    Raises:
        UserError: the folder holds something else, or the run cannot resume.
    """
    # Imported here, because a pipeline whose steps are all up to date compares recipes without numpy.
    from natix_hf.runs import folder as run_folder
    from natix_hf.training.checkpoints import asked_to_resume, check_continuable, resume_point

    if args.should_save:
        resuming = asked_to_resume(args.resume_from_checkpoint)
        run_folder.check(args.output_dir, resume=resuming, overwrite=args.overwrite_output_dir)
    point = resume_point(args.output_dir, args.resume_from_checkpoint)
    if point is None:
        return None, None
    longer = check_resumed(point, text, known, args.world_size, command)
    check_continuable(point)
    return point, longer


def attention_line(point: Path, attention: str) -> str | None:
    """A line if a resumed run uses another attention implementation than before; None if it is the same or unknown."""
    before = RunRecord.read(point.absolute().parent.parent).attention
    if before in (None, attention):
        return None
    return f"resumed: attention is {attention} here and was {before}: losses differ by rounding from here"
