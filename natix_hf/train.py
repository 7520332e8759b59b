"""Train a calibrated classifier from photos and a DINOv3 checkpoint, and test it once.

accelerate launch -m natix_hf.train recipes/lora.yaml --dataset_name photos/ --learning_rate 1e-4
"""

from __future__ import annotations

import warnings
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from natix_hf.errors import UserError, command, one_line
from natix_hf.startup import keep_freed_memory, quick_imports

if TYPE_CHECKING:
    from collections.abc import Callable

    from natix_hf.data.splits.contracts import LockedSplits
    from natix_hf.documents.document import Part
    from natix_hf.modeling.model_options import ModelOptions
    from natix_hf.recipe.options import Recipe
    from natix_hf.training.trainer import NatixTrainer


def load_data(recipe: Recipe, say: Callable[[str], None]) -> Any:
    """Load the locked splits of the recipe; `say` gets the classes and the source of the labels."""
    from natix_hf.data.load_photos import recipe_photos

    return recipe_photos(vars(recipe.data) | {"trust_remote_code": recipe.model.trust_remote_code}, say=say)


def load_network(recipe: Recipe, label_names: list[str], attn_implementation: str) -> tuple[Any, Any]:
    """Load the model of the recipe, ready to train, and its image processor."""
    from natix_hf.inference.load_model import load_model

    options = asdict(recipe.model) | {"attn_implementation": attn_implementation}
    keys = ("views", "views_grid", "views_overlap", "views_top_k", "views_aggregate")
    tiles = {key: getattr(recipe.data, key) for key in keys}
    return load_model(
        options.pop("model_name_or_path"),
        label_names,
        image_size=recipe.data.image_size,
        resize=recipe.data.resize,
        **tiles,
        lora=asdict(recipe.lora),
        revision=options.pop("model_revision"),
        seed=recipe.training.seed,
        **options,
    )


def photo_lines(name: str, splits: LockedSplits) -> list[str]:
    """The printed lines about the photos of a run; `name` is their data set."""
    sizes = ", ".join(f"{split} {size}" for split, size in splits.sizes.items() if "/" not in split)
    lines = [f"photos: {name}: {len(splits.label_names)} classes; {sizes}"]
    if broken := splits.description.broken:
        lines.append(f"photos: {len(broken)} cannot be read and are left out; splits.json lists them")
    return lines + [f"photos: {note}" for note in splits.notes]


def model_line(model: ModelOptions, trainer: NatixTrainer) -> str:
    """The printed line about a model and how much of it is trained."""
    trained, total = trainer.trainable_parameters / 1e6, trainer.all_parameters / 1e6
    return (
        f"model: {model.model_name_or_path}, {total:.1f} M parameters; {model.method} trains {trained:.3f} M of them "
        f"({trained / total:.1%})"
    )


def train(recipe: Recipe) -> Part | None:
    """Run the whole job; returns the document of its purpose (None on helper processes)."""
    with quick_imports():
        from natix_hf.modeling.packed_linear import packing_line
        from natix_hf.recipe.check_recipe import check, check_on_photos
        from natix_hf.recipe.yaml_and_command_line import resolved
        from natix_hf.runs.kinds_of_run import kind_of_run
        from natix_hf.runs.publish_after_training import check_classes, planned, publish_finished
        from natix_hf.training.accounting import PhaseTimes

    args, text = recipe.training, resolved(recipe)
    say = partial(print, flush=True) if args.should_log else (lambda *_: None)
    attention = check(recipe, text)
    if recipe.purpose.kind != "range test" and (idle := recipe.data.without_effect(recipe.model.method)):
        say(f"warning: {idle}")
    asked = planned(recipe.hub, recipe.data.label_names, saves=args.should_save)
    times = PhaseTimes()
    with times.timed("photos"), args.main_process_first(desc="photos"):
        splits = load_data(recipe, say).dedicate(recipe.purpose.kind)
    check_classes(asked, splits.label_names)
    say("\n".join(photo_lines(recipe.data.dataset_name, splits)))
    target_prior = check_on_photos(recipe, splits)
    with times.timed("model"), args.main_process_first(desc="checkpoint"):
        model, processor = load_network(recipe, splits.label_names, attention.loaded)

    kind = kind_of_run(recipe.purpose)
    try:
        trainer = kind.trainer(
            model=model,
            args=args,
            splits=splits,
            processing_class=processor,
            augment=recipe.data.augment,
            challenge_levels=recipe.data.challenge_levels,
            sampled_tiles=recipe.data.sampled_tiles,
            positive_label=recipe.data.positive_label,
            target_prior=target_prior,
            checked=True,
            **asdict(recipe.speed),
        )
    except ImportError as error:  # a missing accelerator or tracker
        raise UserError(one_line(error)) from None
    trainer.times |= times
    say(model_line(recipe.model, trainer))
    if line := packing_line(trainer.model, whole=not (args.torch_compile or trainer.is_fsdp_enabled)):
        say(line)
    try:
        kind.train(trainer, recipe_text=text)
    except KeyboardInterrupt:
        if not recipe.purpose.find_lr:
            say(f"\nstopped; to continue from the last checkpoint in {args.output_dir}: --resume_from_checkpoint true")
        raise
    metrics = kind.finish(trainer, recipe.decision)
    if args.should_log:
        print("", f"{args.output_dir}: finished", *kind.lines(trainer, metrics), sep="\n")
    publish_finished(args.output_dir, asked)
    if recipe.data.hold_out_each and recipe.purpose.kind == "run":
        say(f"hold_out_each: python -m natix_hf.folds trains one run for each value of {recipe.data.hold_out_each}")
    return metrics


def main(argv: list[str]) -> None:
    from natix_hf.recipe.yaml_and_command_line import parse

    keep_freed_memory()
    with quick_imports():
        recipe = parse(argv)

        from huggingface_hub.utils.logging import set_verbosity_error
        from transformers.utils import logging

    # At every checkpoint peft looks for the vocabulary of a language model.
    warnings.filterwarnings("ignore", message="Could not find a config file in", category=UserWarning)
    set_verbosity_error()  # hides retries; an unreachable Hub is reported in one line
    logging.disable_progress_bar()  # files load in a moment, and training has its own bar
    train(recipe)


if __name__ == "__main__":
    command(main)
