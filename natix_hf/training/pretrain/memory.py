"""The memory that pretraining needs on a device, computed from shapes: the minimum, and the memory of a step."""

from __future__ import annotations

import os

import torch
from torch import nn

from natix_hf.errors import UserError
from natix_hf.training.accounting import kept_for_backward
from natix_hf.training.pretrain.objectives import OBJECTIVES
from natix_hf.training.pretrain.pretrain_options import PretrainOptions

WORD = 4  # bytes of a float32


def least_memory(backbone: nn.Module, options: PretrainOptions) -> int:
    """Minimum in bytes: all weights, and for trained ones the gradient, two moments of Adam and the average."""
    everything = sum(p.numel() for p in backbone.parameters())
    trained = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    kept = 1 if options.pretrain_objective == "distill" else 0  # the original weights
    return WORD * (everything + (4 + kept) * trained)


def step_memory(
    backbone: nn.Module, options: PretrainOptions, *, photos: int, side: int, checkpointing: bool
) -> tuple[int, int]:
    """Bytes of a step in fp32, and the part of them for activations.

    Includes the heads with their gradients, moments and average. Activations are those that blocks keep for their
    backward pass; with checkpointing, the inputs of all blocks and one block that is recomputed.

    Args:
        backbone: on the meta device; `requires_grad` marks the trained weights.
        options: of pretraining.
        photos: per step and device.
        side: of a large crop in pixels.
        checkpointing: whether activations are recomputed instead of kept.
    """
    config, inputs, blocks = backbone.config, 0, []
    with torch.device("meta"):
        objective = OBJECTIVES[options.pretrain_objective](config.hidden_size, options)
        large, small = (side, objective.views), (options.pretrain_local_size, objective.local_crops(options))
        for length, crops in (large, small):
            pixels = torch.empty(1, 3, length, length)
            states = backbone.embeddings(pixels).detach().requires_grad_()
            with kept_for_backward(backbone) as kept:
                backbone.model.layer[0](states, position_embeddings=backbone.rope_embeddings(pixels))
            inputs += photos * crops * states.nbytes
            blocks.append(photos * crops * sum(kept.values()))
    layers = config.num_hidden_layers
    activations = layers * inputs + max(blocks) if checkpointing else layers * sum(blocks)
    heads = 5 * WORD * sum(p.numel() for p in objective.parameters())
    return least_memory(backbone, options) + heads + activations, activations


def device_memory(device: torch.device) -> int:
    """Total memory of a device in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(backbone: nn.Module, options: PretrainOptions, device: torch.device) -> None:
    """Raise `UserError` if the minimum does not fit the device.

    Args:
        backbone: `requires_grad` marks the trained weights; may be without weights.
    """
    needed, available = least_memory(backbone, options), device_memory(device)
    if needed <= available:
        return
    count = sum(p.numel() for p in backbone.parameters()) / 1e6
    other = "a smaller checkpoint" if options.pretrain_train == "explora" else "--pretrain_train explora"
    raise UserError(
        f"pretrain_train: {options.pretrain_train} of {count:.0f} M parameters needs at least "
        f"{needed / 2**30:.1f} GiB (weights, gradients, Adam, averages; plus activations), but {device.type} has "
        f"{available / 2**30:.1f}: use {other}"
    )


def memory_line(
    backbone: nn.Module,
    options: PretrainOptions,
    device: torch.device,
    *,
    photos: int,
    side: int,
    checkpointing: bool,
) -> str:
    """One line on the memory of a step, printed before data is read, and how to reduce it if it does not fit."""
    needed, activations = step_memory(backbone, options, photos=photos, side=side, checkpointing=checkpointing)
    available = device_memory(device)
    kept = f"{activations / 2**30:.1f} of it activations{' with checkpointing' * checkpointing}"
    line = (
        f"memory: a step of {photos} photos per device needs about {needed / 2**30:.1f} GiB in fp32, {kept}; "
        f"{device.type} has {available / 2**30:.1f}"
    )
    less = "fewer photos" + " or --activation_checkpointing true" * (not checkpointing)
    return line if needed <= available else f"{line}: use {less}"
