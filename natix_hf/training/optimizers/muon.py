"""Muon for matrices and AdamW for the rest (Jordan et al., 2024).

Uses the step size of Liu et al. (2025), so learning rates for AdamW apply.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from natix_hf.errors import UserError
from natix_hf.training.optimizers.optimizer import Optimizer
from natix_hf.training.optimizers.parameter_groups import parameter_groups

if TYPE_CHECKING:
    import torch
    from torch import nn

    from natix_hf.training.optimizers.parameter_groups import ParameterGroup


@dataclass(frozen=True)
class Muon(Optimizer):
    momentum: float = 0.95
    ns_steps: int = 5

    matrices_apart: ClassVar[bool] = True

    def check_trained(self, model: nn.Module, args: Any) -> None:
        if not any(group["matrix"] for group in parameter_groups(model, args, (), matrices_apart=True)):
            raise UserError(
                "optim muon trains weight matrices of hidden layers, but this recipe trains only vectors and the last "
                "layer: use adamw_torch (--optim adamw_torch), or train adapters or the backbone (--method lora or "
                "full)"
            )

    def build(self, groups: list[ParameterGroup], args: Any, steps: int) -> torch.optim.Optimizer:
        import torch

        from natix_hf.training.optimizers.muon_with_adamw import MuonWithAdamW

        lr, betas = args.learning_rate, (args.adam_beta1, args.adam_beta2)
        muon = partial(torch.optim.Muon, lr=lr, **asdict(self), adjust_lr_fn="match_rms_adamw")
        return MuonWithAdamW(groups, muon, partial(torch.optim.AdamW, lr=lr, betas=betas, eps=args.adam_epsilon))
