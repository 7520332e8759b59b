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
    """The configuration that a checkpoint was published with; `load_backbone` switches its random positions off.

    Args:
        name: of the checkpoint.
        backbone: from `load_backbone`; its configuration serves where the checkpoint is of another layout.
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
    """Write a checkpoint that loads wherever DINOv3 does; all of it or nothing.

    Args:
        folder: is made; files of these names are replaced.
        config: of the backbone.
        weights: from `merged_weights`, by the names of a plain backbone in memory.
        processor: of the checkpoint that pretraining started from.
        lineage: what `config.json` tells of the photos that were seen; None leaves it as it is.
    """
    config = DINOv3ViTConfig.from_dict(config.to_dict() | ({KEY: lineage} if lineage else {}))
    with torch.device("meta"):
        model = DINOv3ViTModel(config)
    model.load_state_dict(weights, assign=True)
    config.name_or_path = ""  # else the path on this machine is saved along
    with staging(folder) as stage:
        model.save_pretrained(stage)
        processor.save_pretrained(stage)
