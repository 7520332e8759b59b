"""Exponential moving average of the trainable weights.

The shadow holds trainable parameters only, because frozen ones never change. After `t` updates the decay is
`min(decay, (1 + t) / (w + t))` (Tarvainen & Valpola, 2017, as in TensorFlow's ExponentialMovingAverage), so that a run
of 20 steps does not end close to its initial weights. With a sharded model each process averages its own pieces. The
caller decides when to update and save the average.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from natix_hf.training.sharding import own, reshard


class Ema:
    """The moving average of a model's trainable parameters.

    Args:
        model: parameters with `requires_grad` are averaged; its names key the shadow.
        decay: the final decay, in [0, 1).
        warmup_steps: `w` above, at least 1.
    """

    def __init__(self, model: nn.Module, decay: float, warmup_steps: int = 10) -> None:
        self.decay = decay
        self.warmup_steps = warmup_steps
        self.swapped = False
        self.parameters: dict[str, nn.Parameter] = {}
        self.follow(model)

    def follow(self, model: nn.Module) -> None:
        """Average the parameters of `model` from its current weights on; does nothing if they are averaged already.

        Sharding replaces the parameters of a model, so it has to be followed again. Parameters that were added after
        the first call (the projection of a loss) are not averaged.
        """
        reshard(model)
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if self.parameters:
            parameters = {name: parameters[name] for name in self.parameters}
            if all(p is self.parameters[name] for name, p in parameters.items()):
                return
        self.model, self.parameters = model, parameters
        self.shadow = {name: own(p).clone() for name, p in parameters.items()}

    def decay_at(self, updates: int) -> float:
        """The decay of the next update after `updates` updates."""
        return min(self.decay, (1 + updates) / (self.warmup_steps + updates))

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move the shadow towards the current weights; `updates` counts the updates before this one."""
        average = get_ema_multi_avg_fn(self.decay_at(updates))
        average(list(self.shadow.values()), [own(p) for p in self.parameters.values()], None)

    @torch.no_grad()
    def restart(self) -> None:
        """Set the shadow to the current weights (after loading the averaged weights of a checkpoint)."""
        for name, parameter in self.parameters.items():
            self.shadow[name].copy_(own(parameter))

    @torch.no_grad()
    def adopt(self) -> None:
        """Set the current weights to the shadow."""
        reshard(self.model)
        for name, parameter in self.parameters.items():
            own(parameter).copy_(self.shadow[name])

    @torch.no_grad()
    def _swap(self) -> None:
        reshard(self.model)
        for name, parameter in self.parameters.items():
            kept = own(parameter).clone()
            own(parameter).copy_(self.shadow[name])
            self.shadow[name].copy_(kept)

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights, afterwards its own again; blocks may nest."""
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
