"""Builds the optimizer of a run, ours or one of transformers', and checks its options before any data is read."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from transformers import Trainer, get_scheduler
from transformers.training_args import OptimizerNames

from natix_hf.errors import UserError, one_line
from natix_hf.options import off
from natix_hf.training.optimizers import OPTIMIZERS
from natix_hf.training.optimizers.parameter_groups import parameter_groups
from natix_hf.training.training_arguments import NatixTrainingArguments, word


def inner_name(args: NatixTrainingArguments) -> str:
    """The name of the optimizer that makes the steps: `sam_base` with sam."""
    return word(args.sam_base if args.optim == "sam" else args.optim)


def check_optimizer(args: NatixTrainingArguments, *, method: str, attn_implementation: str) -> None:
    """Raise `UserError` for options of the optimizer that cannot work, before any data or weight is read.

    Args:
        args: `NatixTrainingArguments`.
        method: `lora`, `probe` or `full`.
        attn_implementation: as in the recipe; Sophia needs second derivatives of it.
    """
    name = inner_name(args)
    if args.loraplus_lr_ratio is not None and method != "lora":
        raise UserError(
            f"loraplus_lr_ratio is for adapters, but method {method} has none: leave it out with "
            f"{off(args, 'loraplus_lr_ratio')}"
        )
    _check_schedule(args)
    if name in OPTIMIZERS:
        OPTIMIZERS[name].of(args, name).check(args, method=method, attn_implementation=attn_implementation)
        return
    try:
        Trainer.get_optimizer_cls_and_kwargs(_for_transformers(args, name))
    except ImportError as error:
        raise UserError(f"optim {name}: {one_line(error)}") from None
    except ValueError as error:
        if "install" in str(error):  # other errors are about the model, which is not loaded yet
            raise UserError(f"optim {name}: {one_line(error)}") from None


def _check_schedule(args: NatixTrainingArguments) -> None:
    """Raise `UserError` if the learning-rate schedule cannot be built."""
    scheduler = word(args.lr_scheduler_type)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    kwargs = args.lr_scheduler_kwargs or {}
    try:
        get_scheduler(scheduler, optimizer, 1, 2, scheduler_specific_kwargs=kwargs)
    except (TypeError, ValueError) as error:
        way = off(args, "lr_scheduler_kwargs" if kwargs else "lr_scheduler_type")
        raise UserError(f"lr_scheduler_type {scheduler}: {one_line(error)}: leave it out with {way}") from None


def _for_transformers(args: NatixTrainingArguments, name: str) -> NatixTrainingArguments:
    """A copy of the arguments with the name of an optimizer of transformers."""
    theirs = copy.copy(args)
    theirs.optim = OptimizerNames(name)
    return theirs


def check_trained(model: nn.Module | None, args: NatixTrainingArguments) -> None:
    """Check that the optimizer has something to train in a model, which may be without weights (or None: unknown).

    Raises:
        UserError: Muon, if no matrix except that of the last layer is trained.
    """
    name = inner_name(args)
    if model is not None and name in OPTIMIZERS:
        OPTIMIZERS[name].of(args, name).check_trained(model, args)


def build_optimizer(
    model: nn.Module, args: NatixTrainingArguments, decayed: Collection[str], steps: int
) -> torch.optim.Optimizer | None:
    """The optimizer of a run.

    Args:
        model: its trainable parameters are optimized.
        args: `optim` and its options.
        decayed: names of the parameters with weight decay.
        steps: number of optimizer steps in the whole run.

    Returns:
        The optimizer; None if transformers has to build it, because it needs the model.

    Raises:
        UserError: Muon without matrices, or learning rates by layer with an optimizer that transformers builds.
    """
    name = inner_name(args)
    if name in OPTIMIZERS:
        check_trained(model, args)
        kind = OPTIMIZERS[name].of(args, name)
        return kind.build(parameter_groups(model, args, decayed, matrices_apart=kind.matrices_apart), args, steps)
    groups = parameter_groups(model, args, decayed)
    kind, kwargs = Trainer.get_optimizer_cls_and_kwargs(_for_transformers(args, name), model)
    if isinstance(kind, type) and not {"params", "model", "optimizer_dict"} & kwargs.keys():
        return kind(groups, **kwargs)
    if args.layerwise_lr_decay != 1 or args.loraplus_lr_ratio is not None or args.optim == "sam":
        raise UserError(
            f"optim {name} groups the parameters itself: it does not support sam, layerwise_lr_decay, "
            "loraplus_lr_ratio"
        )
    return None


def extra_passes(args: NatixTrainingArguments) -> Any:
    """The wrapper for optimizers that need several passes per batch, called with the pass of a step; else None."""
    if args.optim == "sam":  # optim_args belong to sam_base
        return OPTIMIZERS["sam"]().passes(args)
    return OPTIMIZERS[args.optim].of(args, args.optim).passes(args) if args.optim in OPTIMIZERS else None
