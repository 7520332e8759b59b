"""Attention maps: how much the class token of the last block attends to each patch.

A map shows which patches contribute to the class token. It does not explain the decision.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn


@torch.inference_mode()
def attention_maps(model: nn.Module, pixel_values: Tensor) -> np.ndarray:
    """Attention of the class token to each patch in the last block, mean over the heads.

    Only the last block uses eager attention, which returns the attention weights. The other blocks run as loaded. The
    class token's attention to itself and to the registers is left out, so a map sums to less than 1.

    Args:
        model: a `NatixDinov3ForImageClassification` in eval mode, with or without LoRA.
        pixel_values: `(batch, 3, H, W)`; of `(batch, views, 3, H, W)` only the whole photos are used.

    Returns:
        `(batch, H / patch_size, W / patch_size)` float32.
    """
    config = model.config.backbone_config
    rows, columns = (side // config.patch_size for side in pixel_values.shape[-2:])
    if pixel_values.ndim == 5:
        pixel_values = pixel_values[:, :1]
    with _last_weights(model) as weights:
        model.extract_features(pixel_values.to(next(model.parameters()).device))
    (last,) = weights  # (batch, heads, tokens, tokens)
    first_patch = 1 + config.num_register_tokens
    return last[:, :, 0, first_patch:].mean(dim=1).reshape(-1, rows, columns).float().cpu().numpy()


@contextmanager
def _last_weights(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the attention weights of the last block, one tensor per forward pass inside the `with` block."""
    blocks = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "attention"]
    attention, weights = blocks[-1], []
    before = attention.config
    # All blocks share one configuration, so the last block gets a copy for the moment.
    attention.config = copy.copy(before)
    attention.config._attn_implementation = "eager"
    hook = attention.register_forward_hook(lambda module, inputs, outputs: weights.append(outputs[1]))
    try:
        yield weights
    finally:
        hook.remove()
        attention.config = before


def heat_picture(attention: np.ndarray) -> Image.Image:
    """One map `(rows, columns)` as a small RGBA picture to overlay on the photo, one pixel per patch.

    Colours are relative to the strongest patch. Patches with little attention are transparent.
    """
    from matplotlib import colormaps

    strength = attention / max(float(attention.max()), 1e-12)
    rgba = colormaps["inferno"](0.25 + 0.75 * strength)
    rgba[..., 3] = np.clip(1.2 * strength - 0.2, 0.0, 0.85)
    return Image.fromarray((rgba * 255).round().astype(np.uint8), "RGBA")
