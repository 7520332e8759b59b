"""The recipe of pretraining, put together from the rooms that read it, and what is refused of it before a photo is
read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from natix_hf.data.data_options import DataOptions
from natix_hf.data.load_photos import PLAN_KEYS, SOURCE_KEYS
from natix_hf.errors import UserError
from natix_hf.inference.load_model import check_size
from natix_hf.modeling.attention import check_attention
from natix_hf.modeling.checkpoints import read_config
from natix_hf.modeling.model_options import ModelOptions
from natix_hf.options import defaults, some_of
from natix_hf.photos.geometry import geometry_of
from natix_hf.runs import folder as run_folder
from natix_hf.runs.same_recipe import check_resumed
from natix_hf.training.checkpoints import asked_to_resume, check_continuable, resume_point
from natix_hf.training.pretrain.memory import check_memory, memory_line
from natix_hf.training.pretrain.pretrain_options import PretrainOptions
from natix_hf.training.pretrain.pretrain_trainer import check_pretraining
from natix_hf.training.pretrain.pretraining_arguments import PretrainingArguments
from natix_hf.training.pretrain.student import free
from natix_hf.training.progress import check_trackers
from natix_hf.training.speed_options import SpeedOptions

_DATA = [key for key in (*SOURCE_KEYS, *PLAN_KEYS) if key != "trust_remote_code"]
Backbone = some_of(ModelOptions, "model_name_or_path", "model_revision", "trust_remote_code", "attn_implementation")
Photos = some_of(
    DataOptions, "dataset_name", *_DATA, "positive_label", "image_size", "resize", "preprocessing_num_workers"
)
Cache = some_of(SpeedOptions, "cache_dir", "cache_gb")


@dataclass
class PretrainRecipe:
    """All options of pretraining, by topic.

    Attributes:
        command, does, example: as in `Recipe`.
    """

    command: ClassVar[str] = "natix_hf.pretrain"
    does: ClassVar[str] = (
        "Pretrain a DINOv3 backbone on one's own photos, and keep what a probe on held-out ones prefers."
    )
    example: ClassVar[str] = "recipes/explora.yaml"

    model: Backbone
    data: Photos
    pretraining: PretrainOptions
    speed: Cache
    training: PretrainingArguments


def check(recipe: PretrainRecipe, text: str) -> None:
    """Raise `UserError` for what folders, the machine and the checkpoint's configuration tell; changes nothing.

    Args:
        recipe: as parsed.
        text: its `recipe.yaml`.
    """
    args, model, options = recipe.training, recipe.model, recipe.pretraining
    known = defaults(*vars(recipe).values())
    if args.should_save:
        resuming = asked_to_resume(args.resume_from_checkpoint)
        run_folder.check(args.output_dir, resume=resuming, overwrite=args.overwrite_output_dir)
    if point := resume_point(args.output_dir, args.resume_from_checkpoint):
        if check_resumed(point, text, known, args.world_size, recipe.command):
            raise UserError(
                "max_steps, num_train_epochs: the schedules of pretraining are laid out for all of its steps, so it "
                "cannot be made longer: leave them as they were, or start anew with a milestone as "
                "--model_name_or_path"
            )
        check_continuable(point)
    check_trackers(args.report_to)
    place = {"training": True, "bf16": args.bf16, "device": args.device}
    check_attention(model.attn_implementation, trust_remote_code=model.trust_remote_code, **place)
    with args.main_process_first(desc="configuration"):
        name, revision = model.model_name_or_path, model.model_revision
        check_size(name, geometry_of(recipe.data.resize, recipe.data.image_size), revision)
        config = read_config(name, revision)
    config = config.get("backbone_config", config)
    check_pretraining(options, args, patch=config.get("patch_size", 16))
    if "model_type" in config:  # timm's layout says its shape in its weights only
        with torch.device("meta"):
            sketch = DINOv3ViTModel(DINOv3ViTConfig.from_dict(config))
        free(sketch, options)
        check_memory(sketch, options, args.device)
        if args.should_log:
            print(
                memory_line(
                    sketch,
                    options,
                    args.device,
                    photos=args.per_device_train_batch_size,
                    side=recipe.data.image_size[-1],
                    checkpointing=args.activation_checkpointing,
                )
            )
    if options.pretrain_train == "full" and options.pretrain_last_blocks != 1:
        raise UserError("pretrain_last_blocks: all blocks are trained with pretrain_train: full: leave it out")
