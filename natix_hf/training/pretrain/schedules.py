"""The schedules of pretraining: learning rates, temperatures and the decay of the average.

At first only the heads are trained, because untrained heads would damage the backbone. Then the learning rate of the
backbone rises and stays constant (as in FINO, 2026). All schedules are functions of the number of steps done.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from natix_hf.training.ema import Ema
from natix_hf.training.pretrain.pretrain_options import PretrainOptions

HEAD_WARMUP = 0.01  # share of the steps


class Phases(NamedTuple):
    """Numbers of steps: `heads` train only heads, in `ramp` the rate of the backbone rises, `total` is all."""

    heads: int
    ramp: int
    total: int

    @classmethod
    def of(cls, options: PretrainOptions, total: int) -> Phases:
        ramp = max(1, round(options.pretrain_ramp_share * total))
        return cls(round(options.pretrain_heads_share * total), ramp, total)

    def heads_only(self, step: int) -> bool:
        """Whether the next step after `step` steps trains only heads."""
        return step < self.heads

    def milestones(self, count: int) -> list[int]:
        """`count` steps, evenly spaced after the phase that trains only heads, ending with the last step."""
        later = self.total - self.heads
        return sorted({self.heads + round(later * i / count) for i in range(1, count + 1)} - {self.heads})

    def head_rate(self, step: int) -> float:
        """Learning rate of the heads as a share of its maximum."""
        return min(1.0, (step + 1) / max(1, round(HEAD_WARMUP * self.total)))

    def backbone_rate(self, step: int) -> float:
        """Learning rate of the backbone as a share of its maximum."""
        return min(1.0, max(0, step + 1 - self.heads) / self.ramp)

    def temperature(self, step: int, ends: list[float]) -> float:
        """Linear from the first to the second temperature until the ramp is over, then constant."""
        share = min(1.0, step / (self.heads + self.ramp))
        return ends[0] + share * (ends[1] - ends[0])


class RisingAverage(Ema):
    """A moving average whose decay rises from `decay` to 1 along half a cosine (BYOL, Grill et al., 2020)."""

    def __init__(self, model, decay: float, steps: int) -> None:
        self.steps = steps
        super().__init__(model, decay)

    def decay_at(self, updates: int) -> float:
        share = min(1.0, updates / max(1, self.steps - 1))
        return 1 - (1 - self.decay) * (math.cos(math.pi * share) + 1) / 2
