"""Converts timm's DINOv3 checkpoints for transformers' `DINOv3ViTModel`: configuration and names of the weights.

Covers timm's `vit_*_patch16_dinov3*`: plain and gated MLP, with biases on queries and values (`_qkvb`) or without,
fused or separate query/key/value. Works on names and shapes, without timm. The caller reads the files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

ARCHITECTURE = re.compile(r"vit_\w+_patch16_dinov3(_qkvb)?(\.\w+)?")

# timm's names and transformers' names. `backbone_weights` handles the fused matrix of query, key and value.
RENAMES = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^reg_token$", "embeddings.register_tokens"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
    (r"^blocks\.(\d+)\.gamma_(\d)$", r"layer.\1.layer_scale\2.lambda1"),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"layer.\1.attention.o_proj."),
    (r"^blocks\.(\d+)\.attn\.([qkv])_proj\.", r"layer.\1.attention.\2_proj."),
    (r"^blocks\.(\d+)\.attn\.([qv])_bias$", r"layer.\1.attention.\2_proj.bias"),
    (r"^blocks\.(\d+)\.mlp\.fc1_g\.", r"layer.\1.mlp.gate_proj."),
    (r"^blocks\.(\d+)\.mlp\.fc1(?:_x)?\.", r"layer.\1.mlp.up_proj."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"layer.\1.mlp.down_proj."),
    (r"^blocks\.", "layer."),
)


def is_timm_dinov3(config: dict[str, Any]) -> bool:
    """Whether a `config.json` describes a DINOv3 ViT of timm or of transformers' timm wrapper."""
    return ARCHITECTURE.fullmatch(config.get("architecture", "")) is not None


def head_size(config: Mapping[str, Any]) -> int:
    """Channels of one attention head, from a configuration in either layout; 64 for an empty one."""
    if "num_attention_heads" in config:
        return config["hidden_size"] // config["num_attention_heads"]
    # The head size of every published DINOv3 is 64, except for the 7B model.
    return 128 if "_7b_" in config.get("architecture", "") else 64


def backbone_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under transformers' names, without the classification head; unknown names are kept.

    Args:
        weights: tensors by name, as in timm's `model.safetensors`.
    """
    renamed = {}
    for name, tensor in weights.items():
        name = name.removeprefix("timm_model.")
        if name.startswith("head."):
            continue
        if fused := re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.weight", name):
            for part, matrix in zip("qkv", tensor.chunk(3), strict=True):  # (3 * hidden, hidden) into three
                renamed[f"layer.{fused[1]}.attention.{part}_proj.weight"] = matrix
            continue
        for pattern, replacement in RENAMES:
            name, count = re.subn(pattern, replacement, name)
            if count:
                break
        renamed[name] = tensor
    # timm does not keep the mask token, which only masked pre-training uses.
    renamed["embeddings.mask_token"] = torch.zeros_like(renamed["embeddings.cls_token"])
    return renamed


def backbone_config(config: dict[str, Any], weights: dict[str, Tensor]) -> dict[str, Any]:
    """Fields of `DINOv3ViTConfig` for a timm checkpoint: shapes from the weights, other fields from its config.

    Args:
        config: timm's `config.json`.
        weights: result of `backbone_weights`.

    Raises:
        KeyError: a tensor of the embeddings or the first block is missing.
    """
    patches = weights["embeddings.patch_embeddings.weight"]  # (hidden, channels, patch, patch)
    hidden_size = patches.shape[0]
    gated = "layer.0.mlp.gate_proj.weight" in weights
    biased = "layer.0.attention.q_proj.bias" in weights
    model_args = config.get("model_args") or {}
    input_size = config.get("pretrained_cfg", {}).get("input_size", (3, 256, 256))
    return {
        "hidden_size": hidden_size,
        "num_channels": patches.shape[1],
        "patch_size": patches.shape[2],
        "image_size": input_size[-1],
        "num_hidden_layers": 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layer.")),
        "num_attention_heads": model_args.get("num_heads", hidden_size // head_size(config)),
        "intermediate_size": weights["layer.0.mlp.up_proj.weight"].shape[0],
        "num_register_tokens": weights["embeddings.register_tokens"].shape[1],
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
        "query_bias": biased,
        "key_bias": False,
        "value_bias": biased,
        "layer_norm_eps": 1e-5,
        "rope_theta": float(model_args.get("rope_temperature", 100.0)),
    }
