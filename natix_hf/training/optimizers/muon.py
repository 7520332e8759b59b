"""Muon for matrices and AdamW for the rest (Jordan et al., 2024).

With the step size of Liu et al. (2025), so that AdamW's learning rate holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from natix_hf.errors import UserError
from natix_hf.training.optimizers.optimizer import Optimizer
from natix_hf.training.optimizers.parameter_groups import ParameterGroup, parameter_groups


@dataclass(frozen=True)
class Muon(Optimizer):
    momentum: float = 0.95
    ns_steps: int = 5

    matrices_apart: ClassVar[bool] = True

    def check_trained(self, model: nn.Module, args: Any) -> None:
        if not any(group["matrix"] for group in parameter_groups(model, args, (), matrices_apart=True)):
            raise UserError(
                "optim muon moves weight matrices of hidden layers, and this recipe trains only vectors and the last "
                "layer: use adamw_torch (--optim adamw_torch), or train adapters or the backbone (--method lora or "
                "full)"
            )

    def build(self, groups: list[ParameterGroup], args: Any, steps: int) -> torch.optim.Optimizer:
        lr, betas = args.learning_rate, (args.adam_beta1, args.adam_beta2)
        muon = partial(torch.optim.Muon, lr=lr, **asdict(self), adjust_lr_fn="match_rms_adamw")
        return MuonWithAdamW(groups, muon, partial(torch.optim.AdamW, lr=lr, betas=betas, eps=args.adam_epsilon))


class MuonWithAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` for the groups with `matrix`, `torch.optim.AdamW` for the others, as one optimizer.

    Groups and state are the same objects in all three, so schedules and checkpoints see one optimizer.

    Args:
        groups: as of `parameter_groups`.
        muon, adamw: make the two, each of its groups.
    """

    def __init__(self, groups: list[ParameterGroup], muon: Callable[..., Any], adamw: Callable[..., Any]) -> None:
        matrices = [group for group in groups if group["matrix"]]
        self.muon = muon(matrices)
        self.rest = [group for group in groups if not group["matrix"]]
        self.adamw = adamw(self.rest) if self.rest else None
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
