"""Training with a sharded model (FSDP2): options that it rules out, and conversion between pieces and whole tensors.

`accelerate launch --config_file recipes/accelerate/fsdp2.yaml` splits every weight, its gradient and its optimizer
state over the processes. This saves memory in training. Afterwards every process gets the whole model back, so that
prediction, calibration and saving work on an ordinary model. `saving.py` writes checkpoints; `training_arguments.py`
checks the settings of the launcher.
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
    """Reject options that are impossible or untested with a sharded model, before any data or weight is read.

    Args:
        args: `NatixTrainingArguments`, which check their own options.
        method, prefix_cache_gb, use_doran: as in the recipe.

    Raises:
        UserError: names the first such option.
    """
    if not args.sharded:
        return
    if method == "probe":
        raise UserError(f"method probe trains only a head, so there is nothing to shard (FSDP): {INSTEAD}")
    if prefix_cache_gb is not None:
        raise UserError(
            f"prefix_cache_gb runs only the last blocks, but a sharded model (FSDP) always runs as a whole: {INSTEAD}"
        )
    if use_doran:
        raise UserError(
            f"use_doran needs norms of whole weights, but a sharded model (FSDP) has only pieces: {INSTEAD}"
        )


def check_sharded(args: Any, sharded: bool) -> None:
    """Raise `UserError` if the launcher asked for a sharded model and accelerate silently did not shard it.

    Args:
        args: `NatixTrainingArguments`.
        sharded: whether the accelerator shards.
    """
    if args.sharded and not sharded:
        raise UserError(
            f"accelerate shards a model (FSDP) over two or more processes with a GPU each, but this run has "
            f"{args.world_size} on {args.device.type}: use recipes/accelerate/gpu.yaml, multi_gpu.yaml or cpu.yaml"
        )


def keep_precision(plugin: Any) -> None:
    """With bf16, sum gradients in fp32 and keep the type of outputs, as DDP does; accelerate would round both.

    Args:
        plugin: accelerate's FSDP plugin, before the model is sharded.
    """
    if plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = dataclasses.replace(
            plugin.mixed_precision_policy, reduce_dtype=torch.float32, output_dtype=None
        )


def reshard(model: nn.Module) -> None:
    """Release the whole weights that a forward pass has gathered.

    The outermost unit keeps them for the backward pass. After an evaluation there is no backward pass, and the next
    forward pass would use them even if the pieces have changed since.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def own(tensor: Tensor) -> Tensor:
    """The piece of `tensor` on this process, as a view; the whole tensor if it is not sharded."""
    return tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor.detach()


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, on every process; all processes must call this together."""
    return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def piece(tensor: Tensor, like: Tensor) -> Tensor:
    """The piece of `tensor` that corresponds to `own(like)`; every process has the whole tensor, nothing is sent."""
    if not isinstance(like, DTensor):
        return tensor
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None).to_local()


def sketch(model: nn.Module) -> nn.Module:
    """A copy of a model with its parameters on the meta device, made before the model is sharded."""
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, empty)


@torch.no_grad()
def fill(empty: nn.Module, model: nn.Module) -> nn.Module:
    """Copy the whole weights of a sharded model into its sketch; all processes must call this together.

    Args:
        empty: from `sketch`; changed in place.
        model: the sharded model, with the same names of parameters and buffers.

    Returns:
        `empty`, an ordinary model.
    """
    reshard(model)
    tensors = {
        name: nn.Parameter(whole(parameter), requires_grad=parameter.requires_grad)
        for name, parameter in model.named_parameters()
    }
    for name, tensor in (tensors | dict(model.named_buffers())).items():
        place, _, leaf = name.rpartition(".")
        setattr(empty.get_submodule(place), leaf, tensor)
    return empty.train(model.training)
