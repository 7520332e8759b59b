"""Muon for weight matrices and AdamW for all other parameters, as one torch optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from natix_hf.training.optimizers.parameter_groups import ParameterGroup


class MuonWithAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` for the groups with `matrix`, `torch.optim.AdamW` for the others, as one optimizer.

    All three share groups and state, so schedules and checkpoints work as with one optimizer.

    Args:
        groups: from `parameter_groups`.
        muon, adamw: build the two optimizers from their groups.
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
