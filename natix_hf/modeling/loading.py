"""From the name of a checkpoint to a model that is ready to train, with its image processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import DINOv3ViTImageProcessor

from natix_hf.errors import UserError
from natix_hf.modeling.adapters import add_lora, freeze_for_probe
from natix_hf.modeling.checkpoints import build_model, load_processor, read_config
from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification


def check_size(model_name_or_path: str, image_size: int, revision: str | None = None) -> None:
    """Find out, without its weights, whether a checkpoint is there, is a DINOv3 and takes photos of that many pixels.

    Raises:
        UserError: if it does not.
    """
    config = read_config(model_name_or_path, revision)
    patch = config.get("backbone_config", config).get("patch_size", 16)  # timm says it in the architecture's name only
    if image_size < patch or image_size % patch:
        raise UserError(f"image_size {image_size}: a multiple of the checkpoint's patch size {patch} expected")


def load_model(
    model_name_or_path: str,
    label_names: Sequence[str],
    *,
    method: str = "lora",
    image_size: int = 224,
    resize: str = "squash",
    lora: dict[str, Any] | None = None,
    attn_implementation: str = "sdpa",
    revision: str | None = None,
    **model_options: Any,
) -> tuple[NatixDinov3ForImageClassification | PeftModel, DINOv3ViTImageProcessor]:
    """A classifier on a DINOv3 checkpoint and its image processor.

    Args:
        model_name_or_path: Hub id or folder (transformers or timm layout, or a finished run), or `builtin:demo-
            backbone`.
        label_names: the classes in the order of their ids.
        method: `lora`, `probe` (only the head is trained) or `full`.
        image_size: height and width in pixels, a multiple of the patch size.
        resize: how a photo becomes that square, `squash` or `crop`, see `checkpoints.load_processor`.
        lora: options of `adapters.add_lora`, for method `lora`.
        attn_implementation: handed to transformers unchanged; `attention.check_attention` tells beforehand what it
            refuses.
        revision: branch, tag or commit on the Hub.
        model_options: `pooling`, `feature_layers`, `head`, `head_dropout`, `trust_remote_code`, `seed`, ... of
            `build_model`.

    Raises:
        UserError: the checkpoint cannot be had or does not fit, in one line.
    """
    check_size(model_name_or_path, image_size, revision)
    model = build_model(
        model_name_or_path, label_names, attn_implementation=attn_implementation, revision=revision, **model_options
    )
    processor = load_processor(model_name_or_path, image_size, revision, resize=resize)
    if method == "probe":
        freeze_for_probe(model)
    if method != "lora":
        return model, processor
    # peft draws from the global generator; the same seed must give the same adapters, and nobody else's draws may
    # change.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model_options.get("seed", 0))
        return add_lora(model, **(lora or {})), processor
