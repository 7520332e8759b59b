"""Checks a pretraining recipe beyond parsing, before any photo is read."""

from __future__ import annotations

import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from natix_hf.errors import UserError
from natix_hf.inference.load_model import check_size
from natix_hf.modeling.attention import Attention
from natix_hf.modeling.checkpoints import read_config
from natix_hf.options import defaults
from natix_hf.photos.geometry import geometry_of
from natix_hf.recipe.check_recipe import attention_for
from natix_hf.recipe.pretrain_recipe import PretrainRecipe
from natix_hf.runs.same_recipe import check_start
from natix_hf.training.pretrain.memory import check_memory, memory_line
from natix_hf.training.pretrain.pretrain_trainer import check_pretraining
from natix_hf.training.pretrain.student import free
from natix_hf.training.progress import check_trackers


def check(recipe: PretrainRecipe, text: str) -> Attention:
    """Check a recipe against its folders, the machine and the checkpoint's configuration; writes nothing.

    Args:
        recipe: as parsed.
        text: its `recipe.yaml`.

    Returns:
        The attention implementation to use.
    """
    args, model, options = recipe.training, recipe.model, recipe.pretraining
    known = defaults(*vars(recipe).values())
    point, longer = check_start(args, text, known, recipe.command)
    if longer:
        raise UserError(
            "max_steps, num_train_epochs: the schedules of pretraining depend on its number of steps, so it cannot be "
            "made longer: keep the old values, or start a new run from a milestone as --model_name_or_path"
        )
    check_trackers(args.report_to)
    with args.main_process_first(desc="configuration"):
        name, revision = model.model_name_or_path, model.model_revision
        check_size(name, geometry_of(recipe.data.resize, recipe.data.image_size), revision)
        config = read_config(name, revision)
    config = config.get("backbone_config", config)
    attention = attention_for(model, args, config, point)
    check_pretraining(options, args, patch=config.get("patch_size", 16))
    if "model_type" in config:  # in timm's layout only the weights give the shape
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
        raise UserError("pretrain_last_blocks: pretrain_train: full trains all blocks: remove this key")
    return attention
