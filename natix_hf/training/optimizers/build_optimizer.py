"""The optimizer of a run, ours or transformers', and what is refused of it before anything is read.

Knows models by the names of their parameters, and nothing of photos or losses.
"""

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
from natix_hf.training.training_arguments import NatixTrainingArguments


def inner_name(args: NatixTrainingArguments) -> str:
    """The optimizer that makes the steps: `sam_base` under sam."""
    name = args.sam_base if args.optim == "sam" else args.optim
    return str(getattr(name, "value", name))


def check_optimizer(args: NatixTrainingArguments, *, method: str, attn_implementation: str) -> None:
    """Refuse what cannot work, before anything is read or loaded.

    Args:
        attn_implementation: as the recipe says it; Sophia needs its second derivative.
    """
    name = inner_name(args)
    if args.loraplus_lr_ratio is not None and method != "lora":
        raise UserError(
            f"loraplus_lr_ratio is about adapters, and method {method} has none: leave it out with "
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
        if "install" in str(error):  # others are about the model, which is not there yet
            raise UserError(f"optim {name}: {one_line(error)}") from None


def _check_schedule(args: NatixTrainingArguments) -> None:
    """Build the schedule of the learning rate once, for a single weight."""
    scheduler = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    kwargs = args.lr_scheduler_kwargs or {}
    try:
        get_scheduler(scheduler, optimizer, 1, 2, scheduler_specific_kwargs=kwargs)
    except (TypeError, ValueError) as error:
        way = off(args, "lr_scheduler_kwargs" if kwargs else "lr_scheduler_type")
        raise UserError(f"lr_scheduler_type {scheduler}: {one_line(error)}: leave it out with {way}") from None


def _for_transformers(args: NatixTrainingArguments, name: str) -> NatixTrainingArguments:
    """The arguments with transformers' own name of an optimizer in place of ours."""
    theirs = copy.copy(args)
    theirs.optim = OptimizerNames(name)
    return theirs


def check_trained(model: nn.Module | None, args: NatixTrainingArguments) -> None:
    """Refuse an optimizer that would find nothing to do in a model, which may be without weights (or None: unknown).

    Raises:
        UserError: Muon, and no matrix but the last layer's is trained.
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
        args: `optim` and what belongs to it.
        decayed: names of the parameters that `weight_decay` is for.
        steps: of the optimizer in the whole run, for warm-ups of its own.

    Returns:
        The optimizer; None where transformers alone can build it, because it wants the model.

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
        raise UserError(f"optim {name} groups the parameters itself: no sam, layerwise_lr_decay, loraplus_lr_ratio")
    return None


def extra_passes(args: NatixTrainingArguments) -> Any:
    """What goes through a batch more than once: None, or a callable that the trainer's step hands its pass to."""
    if args.optim == "sam":  # whose optim_args are those of sam_base
        return OPTIMIZERS["sam"]().passes(args)
    return OPTIMIZERS[args.optim].of(args, args.optim).passes(args) if args.optim in OPTIMIZERS else None
