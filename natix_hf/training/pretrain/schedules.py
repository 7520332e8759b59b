"""What changes with the steps of pretraining: learning rates, temperatures and the decay of the average.

Heads are trained alone first, then the backbone's rate rises and stays constant (as FINO describes it, 2026): heads
from scratch would wreck the backbone. All are functions of the number of steps that are over.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from natix_hf.training.ema import Ema
from natix_hf.training.pretrain.pretrain_options import PretrainOptions

HEAD_WARMUP = 0.01  # share of the steps


class Phases(NamedTuple):
    """Steps: `heads` in which heads are trained alone, `ramp` in which the backbone's rate rises, `total`."""

    heads: int
    ramp: int
    total: int

    @classmethod
    def of(cls, options: PretrainOptions, total: int) -> Phases:
        return cls(
            round(options.pretrain_heads_share * total), max(1, round(options.pretrain_ramp_share * total)), total
        )

    def heads_only(self, step: int) -> bool:
        """Whether the step after `step` others trains heads alone."""
        return step < self.heads

    def milestones(self, count: int) -> list[int]:
        """So many steps, evenly spaced behind those in which the backbone stays as it is, the last one among them."""
        later = self.total - self.heads
        return sorted({self.heads + round(later * i / count) for i in range(1, count + 1)} - {self.heads})

    def head_rate(self, step: int) -> float:
        """Share of the learning rate that heads have."""
        return min(1.0, (step + 1) / max(1, round(HEAD_WARMUP * self.total)))

    def backbone_rate(self, step: int) -> float:
        """Share of the learning rate that the backbone has."""
        return min(1.0, max(0, step + 1 - self.heads) / self.ramp)

    def temperature(self, step: int, ends: list[float]) -> float:
        """Between two temperatures, in a straight line until the ramp is over."""
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
