"""Schedule-free AdamW: averaged weights instead of a schedule (Defazio et al., 2024)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from natix_hf.training.optimizers.optimizer import Optimizer

if TYPE_CHECKING:
    import torch

    from natix_hf.training.optimizers.parameter_groups import ParameterGroup


@dataclass(frozen=True)
class ScheduleFreeAdamW(Optimizer):
    r: float = 0.0
    weight_lr_power: float = 2.0

    def build(self, groups: list[ParameterGroup], args: Any, steps: int) -> torch.optim.Optimizer:
        import pytorch_optimizer

        return pytorch_optimizer.ScheduleFreeAdamW(
            groups,
            lr=args.learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            warmup_steps=args.get_warmup_steps(steps),
            **asdict(self),
        )
