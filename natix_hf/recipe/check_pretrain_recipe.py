"""Checks a pretraining recipe beyond parsing, before any photo is read."""

from __future__ import annotations

import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from natix_hf.errors import UserError
from natix_hf.inference.load_model import check_size
from natix_hf.modeling.attention import Attention, choose_attention
from natix_hf.modeling.checkpoints import read_config
from natix_hf.options import defaults
from natix_hf.photos.geometry import geometry_of
from natix_hf.recipe.pretrain_recipe import PretrainRecipe
from natix_hf.runs import folder as run_folder
from natix_hf.runs.same_recipe import attention_line, check_resumed
from natix_hf.training.checkpoints import asked_to_resume, check_continuable, resume_point
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
    if args.should_save:
        resuming = asked_to_resume(args.resume_from_checkpoint)
        run_folder.check(args.output_dir, resume=resuming, overwrite=args.overwrite_output_dir)
    if point := resume_point(args.output_dir, args.resume_from_checkpoint):
        if check_resumed(point, text, known, args.world_size, recipe.command):
            raise UserError(
                "max_steps, num_train_epochs: the schedules of pretraining depend on its number of steps, so it "
                "cannot be made longer: keep the old values, or start a new run from a milestone as "
                "--model_name_or_path"
            )
        check_continuable(point)
    check_trackers(args.report_to)
    with args.main_process_first(desc="configuration"):
        name, revision = model.model_name_or_path, model.model_revision
        check_size(name, geometry_of(recipe.data.resize, recipe.data.image_size), revision)
        config = read_config(name, revision)
    config = config.get("backbone_config", config)
    attention = choose_attention(
        model.attn_implementation,
        config,
        bf16=args.bf16,
        device=args.device,
        trust_remote_code=model.trust_remote_code,
    )
    for line in filter(None, (attention.note, point and attention_line(point, attention.name))):
        if args.should_log:
            print(line)
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
