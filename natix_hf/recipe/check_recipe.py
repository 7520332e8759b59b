"""Checks a recipe beyond parsing: first its folders and checkpoint, then its photos."""

from __future__ import annotations

from typing import TYPE_CHECKING

from natix_hf.data.sources.columns import positive_class
from natix_hf.inference.load_model import check_size, sketch_model
from natix_hf.modeling.attention import Attention, choose_attention
from natix_hf.modeling.checkpoints import read_config
from natix_hf.options import defaults
from natix_hf.recipe.options import Recipe
from natix_hf.runs import folder as run_folder
from natix_hf.runs.same_recipe import attention_line, check_resumed
from natix_hf.training.checkpoints import asked_to_resume, check_continuable, resume_point
from natix_hf.training.optimizers.build_optimizer import check_trained
from natix_hf.training.progress import check_trackers

if TYPE_CHECKING:
    import numpy as np

    from natix_hf.data.splits.contracts import LockedSplits


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
        resuming = asked_to_resume(args.resume_from_checkpoint)
        if args.should_save:
            run_folder.check(args.output_dir, resume=resuming, overwrite=args.overwrite_output_dir)
        if point := resume_point(args.output_dir, args.resume_from_checkpoint):
            longer = check_resumed(point, text, known, args.world_size)
            check_continuable(point)
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
    attention = choose_attention(
        model.attn_implementation,
        config.get("backbone_config", config),
        training=trains,
        bf16=args.bf16 and trains,
        device=args.device,
        trust_remote_code=model.trust_remote_code,
    )
    for line in filter(None, (attention.note, point and attention_line(point, attention.name))):
        say(line)
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
