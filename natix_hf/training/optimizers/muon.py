"""Muon for matrices and AdamW for the rest (Jordan et al., 2024).

With the step size of Liu et al. (2025), so that AdamW's learning rate holds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from natix_hf.errors import UserError
from natix_hf.training.optimizers.optimizer import Optimizer
from natix_hf.training.optimizers.parameter_groups import parameter_groups


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

    def build(self, groups: list[dict[str, Any]], args: Any, steps: int) -> torch.optim.Optimizer:
        muon = {"lr": args.learning_rate, **asdict(self), "adjust_lr_fn": "match_rms_adamw"}
        betas = (args.adam_beta1, args.adam_beta2)
        return MuonWithAdamW(groups, muon, {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon})


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
