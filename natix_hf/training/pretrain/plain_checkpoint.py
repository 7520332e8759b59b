"""A pretrained backbone as an ordinary `dinov3_vit` folder: config, safetensors, image processor, and its lineage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from natix_hf.data.splits.lineage import KEY
from natix_hf.files import staging
from natix_hf.modeling.checkpoints import read_config


def published_config(name: str, backbone: DINOv3ViTModel, revision: str | None = None) -> DINOv3ViTConfig:
    """The published configuration of a checkpoint; `load_backbone` switches off its random positions.

    Args:
        name: of the checkpoint.
        backbone: from `load_backbone`; its configuration is used if the checkpoint has another layout.
    """
    config = read_config(name, revision)
    plain = config.get("model_type") == DINOv3ViTConfig.model_type
    return DINOv3ViTConfig.from_dict(config) if plain else backbone.config


def write_plain(
    folder: Path,
    config: DINOv3ViTConfig,
    weights: dict[str, Tensor],
    processor: Any,
    lineage: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint that loads like any DINOv3 checkpoint; writes all of it or nothing.

    Args:
        folder: created if needed; existing files of the same names are replaced.
        config: of the backbone.
        weights: from `merged_weights`, with the names of a plain backbone.
        processor: of the checkpoint that pretraining started from.
        lineage: the entry of `config.json` on the photos that were seen; None keeps that of `config`.
    """
    config = DINOv3ViTConfig.from_dict(config.to_dict() | ({KEY: lineage} if lineage else {}))
    with torch.device("meta"):
        model = DINOv3ViTModel(config)
    model.load_state_dict(weights, assign=True)
    config.name_or_path = ""  # else the local path is saved too
    with staging(folder) as stage:
        model.save_pretrained(stage)
        processor.save_pretrained(stage)
