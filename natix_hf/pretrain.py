"""Pretrain a backbone on your own photos without labels; probes on held-out photos decide whether it helped.

python -m natix_hf.pretrain recipes/explora.yaml --dataset_name photos/ --unlabelled_name dashcam/
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from natix_hf.errors import command
from natix_hf.startup import keep_freed_memory, quick_imports

if TYPE_CHECKING:
    from natix_hf.documents.pretraining import MilestoneChoice
    from natix_hf.recipe.pretrain_recipe import PretrainRecipe


def pretrain(recipe: PretrainRecipe) -> MilestoneChoice | None:
    """Run the whole job; returns the choice of the milestone (None on helper processes)."""
    with quick_imports():
        from natix_hf.data.load_photos import forgetting_photos, pretraining_photos
        from natix_hf.data.sources.columns import positive_class
        from natix_hf.modeling.checkpoints import load_backbone, load_processor
        from natix_hf.photos.geometry import geometry_of
        from natix_hf.recipe.check_pretrain_recipe import check
        from natix_hf.recipe.yaml_and_command_line import resolved_pretraining
        from natix_hf.runs.pretrain_run import finish_pretraining, pretrain_lines, pretrain_run
        from natix_hf.training.pretrain.plain_checkpoint import published_config
        from natix_hf.training.pretrain.pretrain_trainer import PretrainTrainer
        from natix_hf.training.pretrain.student import Student

    args, model, options, data = recipe.training, recipe.model, recipe.pretraining, recipe.data
    name, revision, run = model.model_name_or_path, model.model_revision, Path(args.output_dir)
    text = resolved_pretraining(recipe)
    say = partial(print, flush=True) if args.should_log else (lambda *_: None)
    chosen = check(recipe, text)
    with args.main_process_first(desc="photos"):
        keys = vars(data) | vars(options) | {"trust_remote_code": model.trust_remote_code}
        splits, other, forgetting = pretraining_photos(keys, say), options.forgetting_name, None
        if other:
            forgetting = (other, *forgetting_photos(other, data.preprocessing_num_workers))
    with args.main_process_first(desc="checkpoint"):
        attention = {"attn_implementation": chosen.loaded, "trust_remote_code": model.trust_remote_code}
        backbone = load_backbone(name, revision=revision, **attention)
        processor = load_processor(name, geometry_of(data.resize, data.image_size), revision)
    base = {"base": name, "base_config": published_config(name, backbone, revision), "checked": True}
    student = Student(backbone, options, seed=args.seed)
    trainer = PretrainTrainer(student, args, options, splits=splits, processing_class=processor, **base)
    say(trainer.line())
    try:
        pretrain_run(trainer, splits, recipe_text=text)
    except KeyboardInterrupt:
        say(f"\nstopped; to continue from the last checkpoint in {run}: --resume_from_checkpoint true")
        raise
    if not args.should_save:
        return None
    choice = finish_pretraining(
        run,
        splits,
        base=name,
        revision=revision,
        processor=processor,
        metric=args.metric,
        positive=positive_class(splits.label_names, data.positive_label),
        forgetting=forgetting,
        **vars(recipe.speed),
        batch_size=args.per_device_eval_batch_size,
        num_workers=args.dataloader_num_workers,
        device=args.device,
        card={"objective": options.pretrain_objective, "train": options.pretrain_train, **trainer.facts()},
    )
    say("\n".join(["", f"{run}: finished", *pretrain_lines(run, choice)]))
    return choice


def main(argv: list[str]) -> None:
    from natix_hf.recipe.pretrain_recipe import PretrainRecipe
    from natix_hf.recipe.yaml_and_command_line import parse

    keep_freed_memory()
    with quick_imports():
        recipe = parse(argv, PretrainRecipe)

        from transformers.utils import logging

    # lightly's heads use an older function, and users cannot change that.
    warnings.filterwarnings("ignore", message=".*weight_norm.*", category=FutureWarning)
    logging.disable_progress_bar()  # loading is quick, and training has its own bar
    pretrain(recipe)


if __name__ == "__main__":
    command(main)
