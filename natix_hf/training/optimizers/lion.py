"""Lion: steps by the sign of an average; needs about a tenth of the learning rate of AdamW (Chen et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from natix_hf.training.optimizers.optimizer import Optimizer

if TYPE_CHECKING:
    import torch

    from natix_hf.training.optimizers.parameter_groups import ParameterGroup


@dataclass(frozen=True)
class Lion(Optimizer):
    beta1: float = 0.9
    beta2: float = 0.99

    def build(self, groups: list[ParameterGroup], args: Any, steps: int) -> torch.optim.Optimizer:
        import pytorch_optimizer

        return pytorch_optimizer.Lion(groups, lr=args.learning_rate, betas=(self.beta1, self.beta2))
