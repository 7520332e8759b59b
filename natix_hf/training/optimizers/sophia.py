"""Sophia-H: clipped Newton steps with a diagonal Hessian, which `curvature.py` estimates (Liu et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from natix_hf.errors import UserError
from natix_hf.options import off
from natix_hf.training.optimizers.optimizer import Optimizer

if TYPE_CHECKING:
    import torch

    from natix_hf.training.optimizers.parameter_groups import ParameterGroup


@dataclass(frozen=True)
class Sophia(Optimizer):
    beta1: float = 0.96
    beta2: float = 0.99
    gamma: float = 0.01
    update_period: int = 10
    eps: float = 1e-12

    under_sam: ClassVar[bool] = False  # curvature and gradient would belong to different points

    def check(self, args: Any, *, method: str, attn_implementation: str) -> None:
        """Raise `UserError` for options without second derivatives."""
        if attn_implementation != "eager" and method != "probe":
            raise UserError(
                f"optim sophia needs second derivatives, but attn_implementation {attn_implementation!r} has none: "
                "set attn_implementation: eager (--attn_implementation eager)"
            )
        if args.torch_compile:
            raise UserError(
                "optim sophia needs second derivatives, but compiled models have none: set torch_compile: false "
                "(--torch_compile false)"
            )
        if (args.activation_checkpointing_kwargs or {}).get("use_reentrant"):
            raise UserError(
                "optim sophia needs second derivatives, but activation checkpointing with use_reentrant has none: "
                f"leave activation_checkpointing_kwargs out with {off(args, 'activation_checkpointing_kwargs')}"
            )

    def build(self, groups: list[ParameterGroup], args: Any, steps: int) -> torch.optim.Optimizer:
        from natix_hf.training.optimizers.curvature import SophiaSteps

        return SophiaSteps(groups, lr=args.learning_rate, betas=(self.beta1, self.beta2), p=1.0, eps=self.eps)

    def passes(self, args: Any) -> Any:
        from natix_hf.training.optimizers.curvature import Curvature

        return Curvature(self.update_period, gamma=self.gamma, seed=args.seed)
