"""Exponential moving average of the trainable weights.

The shadow holds trainable parameters only: frozen ones never differ. The decay warms up as `min(decay, (1 + t) / (w +
t))` after `t` updates (Tarvainen & Valpola, 2017, as in TensorFlow's ExponentialMovingAverage), so that a run of 20
steps does not end with its first weights. This module knows parameters; when it is updated and saved is the trainer's
business.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """The moving average of a model's trainable parameters.

    Args:
        model: parameters with `requires_grad` are averaged; its names key the shadow.
        decay: the decay that a long run reaches, in [0, 1).
        warmup_steps: `w` above, at least 1.
    """

    def __init__(self, model: nn.Module, decay: float, warmup_steps: int = 10) -> None:
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.shadow = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.decay = decay
        self.warmup_steps = warmup_steps
        self.swapped = False

    def decay_at(self, updates: int) -> float:
        """The decay of the update that follows `updates` earlier ones."""
        return min(self.decay, (1 + updates) / (self.warmup_steps + updates))

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move the shadow towards the current weights; `updates` counts the updates before this one."""
        average = get_ema_multi_avg_fn(self.decay_at(updates))
        average(list(self.shadow.values()), [p.detach() for p in self.parameters.values()], None)

    @torch.no_grad()
    def restart(self) -> None:
        """Make the shadow equal to the current weights (after a checkpoint's averaged weights were loaded)."""
        for name, parameter in self.parameters.items():
            self.shadow[name].copy_(parameter)

    @torch.no_grad()
    def adopt(self) -> None:
        """Make the current weights equal to the shadow."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.shadow[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.shadow[name])
            self.shadow[name].copy_(kept)

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Inside the block the model carries the average, after it its own weights again; blocks may nest."""
        if self.swapped:
            yield
            return
        self._swap()
        self.swapped = True
        try:
            yield
        finally:
            self._swap()
            self.swapped = False
