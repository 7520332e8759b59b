"""Whether pretraining fits the memory of a device, from shapes alone: what it takes at least, without activations."""

from __future__ import annotations

import os

import torch
from torch import nn

from natix_hf.errors import UserError
from natix_hf.training.pretrain.pretrain_options import PretrainOptions

WORD = 4  # bytes of a float32


def least_memory(backbone: nn.Module, options: PretrainOptions) -> int:
    """Bytes for the weights, and for what is trained the gradient, Adam's two moments and the average."""
    everything = sum(p.numel() for p in backbone.parameters())
    trained = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    kept = 1 if options.pretrain_objective == "distill" else 0  # the original's
    return WORD * (everything + (4 + kept) * trained)


def device_memory(device: torch.device) -> int:
    """Bytes of a device in all."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(backbone: nn.Module, options: PretrainOptions, device: torch.device) -> None:
    """Raise `UserError` where the backbone alone does not fit.

    Args:
        backbone: with what is trained marked; may be without weights.
    """
    needed, there = least_memory(backbone, options), device_memory(device)
    if needed <= there:
        return
    count = sum(p.numel() for p in backbone.parameters()) / 1e6
    other = "a smaller checkpoint" if options.pretrain_train == "explora" else "--pretrain_train explora"
    raise UserError(
        f"pretrain_train: {options.pretrain_train} of {count:.0f} M parameters needs at least "
        f"{needed / 2**30:.1f} GiB (weights, gradients, Adam, averages; activations come on top), {device.type} has "
        f"{there / 2**30:.1f}: use {other}"
    )
