"""Checks a recipe beyond parsing: first its folders and checkpoint, then its photos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from natix_hf.data.sources.columns import positive_class
from natix_hf.inference.load_model import check_size, sketch_model
from natix_hf.modeling.attention import Attention, choose_attention
from natix_hf.modeling.checkpoints import read_config
from natix_hf.options import defaults
from natix_hf.recipe.options import Recipe
from natix_hf.runs.same_recipe import attention_line, check_start
from natix_hf.training.optimizers.build_optimizer import check_trained
from natix_hf.training.progress import check_trackers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from transformers import TrainingArguments

    from natix_hf.data.splits.contracts import LockedSplits
    from natix_hf.modeling.model_options import ModelOptions


def check(recipe: Recipe, text: str) -> Attention:
    """Check a recipe against its folders, the machine and the checkpoint's configuration; writes nothing.

    Args:
        recipe: as parsed.
        text: its `recipe.yaml`.

    Returns:
        The attention implementation to use.
    """
    args, model = recipe.training, recipe.model
    say = print if args.should_log else (lambda *_: None)
    point = None
    known = defaults(*vars(recipe).values())
    if recipe.purpose.kind == "range test":
        from natix_hf.runs.range_test import check_range_test

        check_range_test(args)
    else:
        if recipe.purpose.refits:
            from natix_hf.runs.refit import check_refit

            check_refit(recipe.purpose.refit_from, text, known)
        point, longer = check_start(args, text, known, recipe.command)
        if longer:
            say(longer)
    check_trackers(args.report_to)
    with args.main_process_first(desc="configuration"):
        name, revision = model.model_name_or_path, model.model_revision
        check_size(name, recipe.data.geometry, revision)
        config = read_config(name, revision)
        lora = vars(recipe.lora)
        check_trained(sketch_model(name, method=model.method, lora=lora, head=model.head, revision=revision), args)
    trains = model.method != "probe"  # features of a probe are computed in float32
    return attention_for(model, args, config.get("backbone_config", config), point, trains=trains)


def attention_for(
    model: ModelOptions,
    args: TrainingArguments,
    backbone: Mapping[str, Any],
    point: Path | None,
    *,
    trains: bool = True,
) -> Attention:
    """Choose the attention implementation, and print what is notable about it.

    Args:
        model, args: options of the recipe.
        backbone: configuration of the backbone.
        point: the checkpoint to resume from, or None.
        trains: whether the backbone is trained.
    """
    attention = choose_attention(
        model.attn_implementation,
        backbone,
        training=trains,
        bf16=args.bf16 and trains,
        device=args.device,
        trust_remote_code=model.trust_remote_code,
    )
    for line in filter(None, (attention.note, point and attention_line(point, attention.name))):
        if args.should_log:
            print(line)
    return attention


def check_on_photos(recipe: Recipe, splits: LockedSplits) -> np.ndarray | None:
    """Check a recipe against its photos: raise `UserError` if they lack what it needs.

    Returns:
        The class shares `(classes,)` of its `target_prior`, or None.
    """
    from natix_hf.runs.calibrate_run import check_decision
    from natix_hf.runs.measure_robustness import check_photos

    names, decision = splits.label_names, recipe.decision
    prior = check_decision(decision, names, positive_class(names, recipe.data.positive_label))
    check_photos(splits, [recipe.data.augment, decision.calibrate_on, *decision.robustness])
    splits.check_slices(decision.slices)
    return prior
