"""Training with a sharded model (FSDP2): what goes with it, and whole tensors out of pieces.

`accelerate launch --config_file recipes/accelerate/fsdp2.yaml` cuts every weight, its gradient and its optimizer state
into as many pieces as there are processes. That saves memory while training and is of no use afterwards: then each
process gets the whole model back, so that prediction, calibration and saving know nothing of pieces. How checkpoints
are written stands in `saving.py`, what the launcher may ask for in `training_arguments.py`.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from natix_hf.errors import UserError

INSTEAD = "use recipes/accelerate/multi_gpu.yaml"


def check_sharding(args: Any, method: str, *, prefix_cache_gb: float | None = None, use_doran: bool = False) -> None:
    """Refuse what a sharded model cannot do, or what nobody has tried with one, before anything is read or loaded.

    Args:
        args: `NatixTrainingArguments`; what is in them alone, they check themselves.
        prefix_cache_gb, use_doran: as a recipe says them.
    """
    if not args.sharded:
        return
    if method == "probe":
        raise UserError(f"method probe trains a head alone, where there is nothing to shard (FSDP): {INSTEAD}")
    if prefix_cache_gb is not None:
        raise UserError(
            f"prefix_cache_gb runs the last blocks alone, and a sharded model (FSDP) only runs whole: {INSTEAD}"
        )
    if use_doran:
        raise UserError(f"use_doran takes norms of whole weights, and a sharded model (FSDP) has pieces: {INSTEAD}")


def check_sharded(args: Any, sharded: bool) -> None:
    """Raise `UserError` where the launcher asked for a sharded model and accelerate silently makes none of it.

    Args:
        args: `NatixTrainingArguments`.
        sharded: whether the accelerator shards.
    """
    if args.sharded and not sharded:
        raise UserError(
            f"accelerate shards a model (FSDP) over two or more processes with a GPU each, and here are "
            f"{args.world_size} on {args.device.type}: use recipes/accelerate/gpu.yaml, multi_gpu.yaml or cpu.yaml"
        )


def keep_precision(plugin: Any) -> None:
    """With bf16, sum gradients in fp32 and leave outputs as they come, as DDP does; accelerate would round both.

    Args:
        plugin: accelerate's of FSDP, before it shards.
    """
    if plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = dataclasses.replace(
            plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None
        )


def reshard(model: nn.Module) -> None:
    """Let go of whole weights that a forward pass has left in place.

    The outermost unit keeps them for the backward pass. After an evaluation no such pass comes, and the next forward
    pass would use them, whatever was written into the pieces meanwhile.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def own(tensor: Tensor) -> Tensor:
    """The piece of this process, sharing memory with `tensor`; of a tensor that is not sharded, all of it."""
    return tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor.detach()


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor, the same on all processes, which have to call this together."""
    return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def piece(tensor: Tensor, like: Tensor) -> Tensor:
    """What `own(like)` would be if `like` held the whole `tensor`, which all processes have; nothing is sent."""
    if not isinstance(like, DTensor):
        return tensor
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None).to_local()


def sketch(model: nn.Module) -> nn.Module:
    """A copy of a model whose parameters are on the meta device, made before the model is sharded."""
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, empty)


@torch.no_grad()
def fill(empty: nn.Module, model: nn.Module) -> nn.Module:
    """Put the whole weights of a sharded model into its sketch; all processes have to call this together.

    Args:
        empty: from `sketch`; changed in place.
        model: with the same names of parameters and buffers.

    Returns:
        `empty`, an ordinary model.
    """
    reshard(model)
    for name, parameter in list(model.named_parameters()):
        place, _, leaf = name.rpartition(".")
        filled = nn.Parameter(whole(parameter), requires_grad=parameter.requires_grad)
        setattr(empty.get_submodule(place), leaf, filled)
    for name, buffer in list(model.named_buffers()):
        place, _, leaf = name.rpartition(".")
        setattr(empty.get_submodule(place), leaf, buffer)
    return empty.train(model.training)
