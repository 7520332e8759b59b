"""The optimizer of a run: parameter groups, and the classes that transformers does not build.

| `optim` | from | what it is |
|---|---|---|
| `sam` | `sam.py` | Foret et al., 2021 (`sam_adaptive`: Kwon et al., 2021), around `sam_base` |
| `sophia` | `sophia.py` | Sophia-H, Liu et al., 2024: clipped Newton steps with Hutchinson's diagonal |
| `muon` | torch | Jordan et al., 2024, with the step size of Liu et al., 2025, so that AdamW's learning rate holds |
| `ademamix` | pytorch_optimizer | Pagliardini et al., 2025: Adam with a second, slow average of the gradients |
| `schedule_free_adamw` | pytorch_optimizer | Defazio et al., 2024: averaged weights instead of a schedule |
| `lion` | pytorch_optimizer | Chen et al., 2023: the sign of an average; wants a tenth of AdamW's learning rate |

Every other name is transformers'. Learning rates may differ by layer (`layerwise_lr_decay`, Bao et al., 2022) and
between the two matrices of an adapter (`loraplus_lr_ratio`, Hayou et al., 2024). Knows models by the names of their
parameters, and nothing of photos or losses.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from transformers import Trainer, get_scheduler
from transformers.training_args import OptimizerNames

from natix_hf.errors import UserError, one_line
from natix_hf.options import off
from natix_hf.training.training_arguments import OPTIMIZERS, NatixTrainingArguments

# What `optim_args` may set ("beta1=0.9,beta2=0.95"), with the values of the papers. adam_beta1, adam_beta2 and
# adam_epsilon hold for AdamW wherever it stands: the vectors of muon, ademamix, schedule_free_adamw.
OPTIONS: dict[str, dict[str, float]] = {
    "sophia": {"beta1": 0.96, "beta2": 0.99, "gamma": 0.01, "update_period": 10, "eps": 1e-12},
    "muon": {"momentum": 0.95, "ns_steps": 5},
    "ademamix": {"beta3": 0.9999, "alpha": 5.0, "warmup": 0},  # warmup 0: over the whole run, as in the paper
    "schedule_free_adamw": {"r": 0.0, "weight_lr_power": 2.0},
    "lion": {"beta1": 0.9, "beta2": 0.99},
}

BLOCK = r"\bbackbone\.model\.layer\.(\d+)\."


def inner_name(args: NatixTrainingArguments) -> str:
    """The optimizer that makes the steps: `sam_base` under sam."""
    name = args.sam_base if args.optim == "sam" else args.optim
    return str(getattr(name, "value", name))


def options(args: NatixTrainingArguments) -> dict[str, float]:
    """The options of one of our optimizers, `optim_args` over the defaults.

    Raises:
        UserError: an option that the optimizer has not, or no number.
    """
    name = inner_name(args)
    values = dict(OPTIONS[name])
    for pair in (args.optim_args or "").replace(" ", "").split(","):
        key, _, value = pair.partition("=")
        if pair and key not in values:
            raise UserError(
                f"optim_args: {name} has no option {key!r}; it has {', '.join(values)}: leave it out with "
                f"{off(args, 'optim_args')}"
            )
        try:
            if pair:
                values[key] = type(values[key])(value)
        except ValueError:
            raise UserError(f"optim_args: {key}={value}: a number expected, such as {key}={values[key]}") from None
        if not 0 <= values.get(key, 0) < (1 if key.startswith(("beta", "momentum")) else float("inf")):
            raise UserError(f"optim_args: {key}={value}: out of range, the usual value is {OPTIONS[name][key]}")
    return values


def check_optimizer(args: NatixTrainingArguments, *, method: str, attn_implementation: str) -> None:
    """Refuse what cannot work, before anything is read or loaded.

    Args:
        method: `lora`, `probe` or `full`.
        attn_implementation: as the recipe says it; Sophia needs its second derivative.

    Raises:
        UserError: in one line.
    """
    name = inner_name(args)
    if args.loraplus_lr_ratio is not None and method != "lora":
        raise UserError(
            f"loraplus_lr_ratio is about adapters, and method {method} has none: leave it out with "
            f"{off(args, 'loraplus_lr_ratio')}"
        )
    _check_schedule(args)
    if name in OPTIMIZERS:
        options(args)
    else:
        try:
            Trainer.get_optimizer_cls_and_kwargs(_for_transformers(args, name))
        except ImportError as error:
            raise UserError(f"optim {name}: {one_line(error)}") from None
        except ValueError as error:
            if "install" in str(error):  # others are about the model, which is not there yet
                raise UserError(f"optim {name}: {one_line(error)}") from None
    if name == "sophia":
        if attn_implementation != "eager" and method != "probe":
            raise UserError(
                f"optim sophia needs second derivatives, and attn_implementation {attn_implementation!r} has none: "
                "set attn_implementation: eager (--attn_implementation eager)"
            )
        if args.torch_compile:
            raise UserError(
                "optim sophia needs second derivatives, and compiled models have none: torch_compile: false "
                "(--torch_compile false)"
            )
        if (args.activation_checkpointing_kwargs or {}).get("use_reentrant"):
            raise UserError(
                "optim sophia needs second derivatives, and activation checkpointing with use_reentrant has none: "
                f"leave activation_checkpointing_kwargs out with {off(args, 'activation_checkpointing_kwargs')}"
            )


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


def lr_factor(
    name: str, blocks: int, layerwise_lr_decay: float = 1.0, loraplus_lr_ratio: float | None = None
) -> float:
    """The share of `learning_rate` that a parameter gets.

    Args:
        name: of the parameter, in a plain or a LoRA-wrapped model.
        blocks: of the backbone. The head and the norm before it have 1, the last block `d`, the first one
            `d ** blocks` and the embeddings `d ** (blocks + 1)`.
        layerwise_lr_decay: `d`.
        loraplus_lr_ratio: the matrices B of adapters learn this many times as fast.
    """
    below = 0
    if block := re.search(BLOCK, name):
        below = blocks - int(block[1])
    elif re.search(r"\bbackbone\.embeddings\.", name):
        below = blocks + 1
    return layerwise_lr_decay**below * (loraplus_lr_ratio or 1.0 if ".lora_B." in name else 1.0)


def parameter_groups(
    model: nn.Module, args: NatixTrainingArguments, decayed: Collection[str], *, matrices_apart: bool = False
) -> list[dict[str, Any]]:
    """The trainable parameters by learning rate and weight decay; groups with the full learning rate come first.

    Args:
        decayed: names of the parameters that decay.
        matrices_apart: also divide by `matrix`: two-dimensional and not of the last layer.

    Returns:
        Groups with `params`, `lr`, `weight_decay`, and `matrix` where asked for; none is empty.
    """
    names = [name for name, _ in model.named_parameters()]
    blocks = 1 + max((int(n) for n in re.findall(BLOCK, " ".join(names))), default=-1)
    groups: dict[tuple, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = lr_factor(name, blocks, args.layerwise_lr_decay, args.loraplus_lr_ratio)
            matrix = matrices_apart and parameter.ndim == 2 and not re.search(r"\bhead\.(.*\.)?linear\.", name)
            groups.setdefault((factor != 1, -factor, not matrix, name not in decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": -factor * args.learning_rate,
            "weight_decay": 0.0 if free else args.weight_decay,
            **({"matrix": not vector} if matrices_apart else {}),
        }
        for (_, factor, vector, free), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


class MuonWithAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` for the groups with `matrix`, `torch.optim.AdamW` for the others, as one optimizer.

    Groups and state are the same objects in all three, so schedules and checkpoints see one optimizer.

    Args:
        groups: as of `parameter_groups`.
        muon, adamw: options of the two.
    """

    def __init__(self, groups: list[dict[str, Any]], muon: dict[str, Any], adamw: dict[str, Any]) -> None:
        matrices = [group for group in groups if group["matrix"]]
        self.muon = torch.optim.Muon(matrices, **muon)
        self.rest = [group for group in groups if not group["matrix"]]
        self.adamw = torch.optim.AdamW(self.rest, **adamw) if self.rest else None
        super().__init__([*self.muon.param_groups, *(self.adamw.param_groups if self.rest else ())], {})
        self._share()

    def _share(self) -> None:
        for optimizer, matrix in ((self.muon, True), (self.adamw, False)):
            if optimizer is not None:
                optimizer.state = self.state
                optimizer.param_groups = [group for group in self.param_groups if group["matrix"] is matrix]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Any = None) -> Any:
        loss = self.muon.step(closure)
        if self.adamw is not None:
            self.adamw.step()
        return loss


def check_trained(model: nn.Module | None, args: NatixTrainingArguments) -> None:
    """Refuse an optimizer that would find nothing to do in a model, which may be without weights (or None: unknown).

    Raises:
        UserError: Muon, and no matrix but the last layer's is trained.
    """
    if inner_name(args) != "muon" or model is None:
        return
    if not any(group["matrix"] for group in parameter_groups(model, args, (), matrices_apart=True)):
        raise UserError(
            "optim muon moves weight matrices of hidden layers, and this recipe trains only vectors and the last "
            "layer: use adamw_torch (--optim adamw_torch), or train adapters or the backbone (--method lora or full)"
        )


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
    groups = parameter_groups(model, args, decayed, matrices_apart=name == "muon")
    if name not in OPTIMIZERS:
        kind, kwargs = Trainer.get_optimizer_cls_and_kwargs(_for_transformers(args, name), model)
        if isinstance(kind, type) and not {"params", "model", "optimizer_dict"} & kwargs.keys():
            return kind(groups, **kwargs)
        if args.layerwise_lr_decay != 1 or args.loraplus_lr_ratio is not None or args.optim == "sam":
            raise UserError(
                f"optim {name} groups the parameters itself: no sam, layerwise_lr_decay, loraplus_lr_ratio"
            )
        return None
    chosen, lr = options(args), args.learning_rate
    adam = (args.adam_beta1, args.adam_beta2)
    if name == "muon":
        check_trained(model, args)
        muon = {"momentum": chosen["momentum"], "ns_steps": chosen["ns_steps"], "adjust_lr_fn": "match_rms_adamw"}
        return MuonWithAdamW(groups, {"lr": lr, **muon}, {"lr": lr, "betas": adam, "eps": args.adam_epsilon})
    if name == "sophia":
        from natix_hf.training.sophia import Sophia

        return Sophia(groups, lr=lr, betas=(chosen["beta1"], chosen["beta2"]), p=1.0, eps=chosen["eps"])
    import pytorch_optimizer

    if name == "lion":
        return pytorch_optimizer.Lion(groups, lr=lr, betas=(chosen["beta1"], chosen["beta2"]))
    if name == "ademamix":
        return pytorch_optimizer.AdEMAMix(
            groups,
            lr=lr,
            betas=(*adam, chosen["beta3"]),
            alpha=chosen["alpha"],
            t_alpha_beta3=chosen["warmup"] or steps,
            eps=args.adam_epsilon,
            weight_decouple=True,  # as in the paper; the library's default is decay through the gradient
        )
    return pytorch_optimizer.ScheduleFreeAdamW(
        groups, lr=lr, betas=adam, eps=args.adam_epsilon, warmup_steps=args.get_warmup_steps(steps), **chosen
    )


def extra_passes(args: NatixTrainingArguments) -> Any:
    """What goes through a batch more than once: None, or a callable that the trainer's step hands its pass to."""
    if args.optim == "sam":
        from natix_hf.training.sam import SharpnessAware

        return SharpnessAware(args.sam_rho, adaptive=args.sam_adaptive)
    if args.optim == "sophia":
        from natix_hf.training.sophia import Curvature

        chosen = options(args)
        return Curvature(int(chosen["update_period"]), gamma=chosen["gamma"], seed=args.seed)
    return None
