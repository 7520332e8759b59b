"""Loads a checkpoint as a model that is ready to train, with its image processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor

from natix_hf.errors import UserError
from natix_hf.modeling.adapters import add_lora, freeze_for_probe
from natix_hf.modeling.checkpoints import build_model, load_processor, read_config
from natix_hf.modeling.configuration_natix_dinov3 import NatixDinov3Config
from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification
from natix_hf.photos.geometry import Geometry, Tiles, geometry_of


def check_size(model_name_or_path: str, geometry: Geometry, revision: str | None = None) -> None:
    """Check, without reading weights, that a checkpoint exists, is a DINOv3 and takes photos of this size.

    Raises:
        UserError: one of these is not true.
    """
    config = read_config(model_name_or_path, revision)
    # timm gives it only in the name of the architecture
    geometry.check_patches(config.get("backbone_config", config).get("patch_size", 16))


def sketch_model(
    model_name_or_path: str,
    *,
    method: str = "lora",
    lora: dict[str, Any] | None = None,
    head: str = "linear",
    revision: str | None = None,
) -> nn.Module | None:
    """The model of a recipe without weights, built quickly to check what will be trained.

    Args:
        model_name_or_path, method, lora, head, revision: as in `load_model`.

    Returns:
        A model on the meta device; None for timm's layout, where only the weights give the shape.

    Raises:
        UserError: the adapter options do not fit the checkpoint.
    """
    config = read_config(model_name_or_path, revision)
    if "model_type" not in config:
        return None
    backbone = DINOv3ViTConfig.from_dict(config.get("backbone_config", config))
    with torch.device("meta"):
        model = NatixDinov3ForImageClassification(NatixDinov3Config(backbone_config=backbone, head=head))
    # pissa and olora need weights to start from; the default start gives adapters of the same names and shapes.
    lora = dict(lora or {})
    if lora.get("lora_init") in ("pissa", "olora") and not lora.get("use_doran"):  # use_doran refuses both
        lora["lora_init"] = "default"
    with torch.random.fork_rng(devices=[]):
        return _made_trainable(model, method, lora)


def _made_trainable(model: NatixDinov3ForImageClassification, method: str, lora: dict[str, Any]) -> nn.Module:
    """Freeze weights and add adapters as the method requires."""
    if method == "lora":
        return add_lora(model, **lora)
    for option in ("unfreeze_last_blocks", "lora_train_norms", "use_doran"):
        if lora.get(option):
            raise UserError(
                f"{option} is for adapters, and method {method} has none: use --method lora, or remove the key with "
                f"--{option} {'0' if option == 'unfreeze_last_blocks' else 'false'}"
            )
    if method == "probe":
        freeze_for_probe(model)
    return model


def tile_views(geometry: Geometry, top_k: int, aggregate: str) -> dict[str, Any] | None:
    """`views` of the model configuration for a geometry."""
    if not isinstance(geometry, Tiles):
        return None
    return {"tiles": geometry.tiles, "aggregate": aggregate, "top_k": top_k}


def load_model(
    model_name_or_path: str,
    label_names: Sequence[str],
    *,
    method: str = "lora",
    image_size: int | Sequence[int] = 224,
    resize: str = "squash",
    views: str = "whole",
    views_grid: int | Sequence[int] = 3,
    views_overlap: float = 0.2,
    views_top_k: int = 2,
    views_aggregate: str = "top_k",
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
        method: `lora`, `probe` (trains only the head) or `full`.
        image_size: height and width in pixels, multiples of the patch size; one number for a square.
        resize: how a photo is brought to that shape, a key of `photos.geometry.GEOMETRIES`.
        views, views_grid, views_overlap: as in `photos.geometry.geometry_of`.
        views_top_k, views_aggregate: how tile logits are combined, see `NatixDinov3Config`.
        lora: options of `adapters.add_lora` for method `lora`.
        attn_implementation: passed to transformers unchanged; `attention.choose_attention` finds one that runs.
        revision: branch, tag or commit on the Hub.
        model_options: `pooling`, `feature_layers`, `head`, `head_dropout`, `trust_remote_code`, `seed`, ... of
            `build_model`.

    Raises:
        UserError: the checkpoint cannot be loaded or does not fit the options.
    """
    geometry = geometry_of(resize, image_size, views=views, views_grid=views_grid, views_overlap=views_overlap)
    check_size(model_name_or_path, geometry, revision)
    model = build_model(
        model_name_or_path,
        label_names,
        views=tile_views(geometry, views_top_k, views_aggregate),
        attn_implementation=attn_implementation,
        revision=revision,
        **model_options,
    )
    processor = load_processor(model_name_or_path, geometry, revision)
    # peft draws from the global generator: the same seed must give the same adapters, and other random draws must not
    # change.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model_options.get("seed", 0))
        return _made_trainable(model, method, lora or {}), processor
