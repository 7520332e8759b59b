"""AdEMAMix: Adam with a second, slow average of the gradients (Pagliardini et al., 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from natix_hf.training.optimizers.optimizer import Optimizer

if TYPE_CHECKING:
    import torch

    from natix_hf.training.optimizers.parameter_groups import ParameterGroup


@dataclass(frozen=True)
class AdEMAMix(Optimizer):
    beta3: float = 0.9999
    alpha: float = 5.0
    warmup: int = 0  # 0: over the whole run, as in the paper

    def build(self, groups: list[ParameterGroup], args: Any, steps: int) -> torch.optim.Optimizer:
        import pytorch_optimizer

        return pytorch_optimizer.AdEMAMix(
            groups,
            lr=args.learning_rate,
            betas=(args.adam_beta1, args.adam_beta2, self.beta3),
            alpha=self.alpha,
            t_alpha_beta3=self.warmup or steps,
            eps=args.adam_epsilon,
            weight_decouple=True,  # as in the paper; by default the library adds the decay to the gradient
        )
