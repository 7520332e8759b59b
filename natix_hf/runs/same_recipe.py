"""Whether two trainings go by one recipe: a resumed run by its own, a refit by that of the run that it repeats.

What may differ stands here and nowhere else; every other key decides the weights or how they are chosen. Works on the
texts of `recipe.yaml`; what a recipe may hold, and its defaults, are handed in.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import yaml

from natix_hf.documents.run_record import RunRecord
from natix_hf.errors import UserError, few
from natix_hf.options import RecipeValue

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
# What else a resumed run may say: when checkpoints are scored and written, and where its photos lie now (that they are
# the same ones is found out by their fingerprints).
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
    """Keys whose values differ, each with ours and theirs; a key that is not written down has its default."""
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


def told(odd: Mapping[str, tuple[RecipeValue, RecipeValue]]) -> str:
    """The first differences for a message, each with both values."""
    return few(f"{key} ({one} here, {other} there)" for key, (one, other) in odd.items())


def check_resumed(
    point: Path, text: str, known: Mapping[str, RecipeValue], processes: int, command: str = "natix_hf.train"
) -> str | None:
    """Refuse to go on from a checkpoint with other settings than it was trained with.

    Args:
        point: the checkpoint, in `checkpoints/` of its run.
        text: the recipe that is to go on.
        known: every key of a recipe with its default.
        processes: that train now.
        command: the module that is told to go on.

    Returns:
        A line on what is longer now; None where nothing is.

    Raises:
        UserError: names what differs, with both values.
    """
    run = point.absolute().parent.parent
    if not (run / "recipe.yaml").is_file():
        raise UserError(
            f"resume_from_checkpoint: {run} has no recipe.yaml, so how {point.name} was trained is unknown: bring the "
            "file back, or start anew: --overwrite_output_dir true in place of --resume_from_checkpoint"
        )
    ours, theirs = (yaml.safe_load(one) for one in (text, (run / "recipe.yaml").read_text(encoding="utf-8")))
    odd = differing(ours, theirs, known, RESUMED)
    longer = {key: odd.pop(key) for key in LONGER if key in odd and 0 < odd[key][1] < odd[key][0]}
    was = RunRecord.read(run).processes
    if was != processes:
        odd["processes"] = (processes, was)
    if odd:
        raise UserError(
            f"resume_from_checkpoint: {point} was trained with other settings: {told(odd)}: leave them as they were "
            f"(python -m {command} {run / 'recipe.yaml'} --output_dir {run} --resume_from_checkpoint true), or "
            "start anew: --overwrite_output_dir true in place of --resume_from_checkpoint"
        )
    changes = [f"{key} {other:g} -> {one:g}" for key, (one, other) in longer.items()]
    if not changes:
        return None
    return f"resumed: {', '.join(changes)}; the learning rate follows the longer schedule from here"


def attention_line(point: Path, attention: str) -> str | None:
    """A line where a resumed run goes on with another attention than it had; None where it is the same or unknown."""
    before = RunRecord.read(point.absolute().parent.parent).attention
    if before in (None, attention):
        return None
    return f"resumed: attention is {attention} here and was {before}: losses differ by rounding from here"
