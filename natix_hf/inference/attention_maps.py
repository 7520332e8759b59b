"""Where the model looks: attention of the last block from the class token to the patches, as a picture.

A map says which patches fed the class token, not why the decision fell as it did.
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

    Only the last block computes its weights in full (eager attention); the others run as the model was loaded. The
    class token's attention to itself and to the registers is left out, so a map sums to less than 1.

    Args:
        model: a `NatixDinov3ForImageClassification` in eval mode, with or without LoRA.
        pixel_values: `(batch, 3, H, W)`; of `(batch, views, 3, H, W)` the whole photos are looked at.

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
    """The attention weights of the last block in every forward pass within the block, as a list that fills up."""
    blocks = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "attention"]
    attention, weights = blocks[-1], []
    before = attention.config
    # The configuration is shared by all blocks: the last one gets its own for as long as this takes.
    attention.config = copy.copy(before)
    attention.config._attn_implementation = "eager"
    hook = attention.register_forward_hook(lambda module, inputs, outputs: weights.append(outputs[1]))
    try:
        yield weights
    finally:
        hook.remove()
        attention.config = before


def heat_picture(attention: np.ndarray) -> Image.Image:
    """One map `(rows, columns)` as a small transparent picture, a pixel a patch, to be laid over the photo.

    The colour rises with the share of the strongest patch; what gets little attention stays clear.
    """
    from matplotlib import colormaps

    strength = attention / max(float(attention.max()), 1e-12)
    rgba = colormaps["inferno"](0.25 + 0.75 * strength)
    rgba[..., 3] = np.clip(1.2 * strength - 0.2, 0.0, 0.85)
    return Image.fromarray((rgba * 255).round().astype(np.uint8), "RGBA")
