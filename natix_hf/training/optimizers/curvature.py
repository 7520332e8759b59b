"""Sophia's steps, and its light estimate of the curvature in passes of their own (Liu et al., 2024).

`m = b1 m + (1 - b1) g`; every `k` steps `h = b2 h + (1 - b2) z * (H z)` with `z ~ N(0, 1)` (Hutchinson);
`w = w - lr * wd * w - lr * clip(m / max(gamma h, eps), 1)`. The update is pytorch_optimizer's; the estimate is made
here, in a pass of its own: the gradients of the step stay free of the graph that second derivatives need, so they may
be accumulated, averaged over processes and clipped as ever. `z` depends on seed and step alone, and stands for all
micro-batches and processes of a step: the estimate is that of one large batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_optimizer import SophiaH
from torch import Tensor, nn

from natix_hf.training.optimizers.sharpness import random_state, set_random_state


class SophiaSteps(SophiaH):
    """SophiaH that makes no estimates itself: it uses those it was handed since the last step, if any."""

    estimates: list[Tensor] | None = None  # one a parameter, in the order of the groups

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.update_period = 2**62

    def step(self, closure: Any = None) -> Any:
        hessian, self.estimates = self.estimates, None
        return super().step(closure, hessian)


def hutchinson(loss: Tensor, parameters: list[nn.Parameter], z: list[Tensor]) -> list[Tensor]:
    """`z * (H z)`, an estimate of the diagonal of the loss's second derivative without bias.

    Args:
        loss: a scalar with its graph.
        parameters: of any shapes; those that the loss does not depend on get zeros.
        z: noise of the same shapes, mean 0, variance 1, uncorrelated.
    """
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    slope = sum((gradient * noise).sum() for gradient, noise in zip(gradients, z))
    products = torch.autograd.grad(slope, parameters, materialize_grads=True)
    return [noise * product for noise, product in zip(z, products)]


class Curvature:
    """Makes Sophia's estimates around a trainer's step, in every `period`-th one.

    Args:
        period: optimizer steps from one estimate to the next.
        gamma: the estimates are multiplied by it, so that steps beyond `lr` are clipped.
    """

    def __init__(self, period: int, *, gamma: float, seed: int) -> None:
        self.period, self.gamma, self.seed = max(period, 1), gamma, seed
        self.estimates: list[Tensor] = []
        self.noise: list[Tensor] = []

    def __call__(self, once: Callable[[], Tensor], trainer: Any, model: nn.Module, inputs: Any) -> Tensor:
        """One micro-batch: the ordinary pass, and where an estimate is due another one with the same dropout masks."""
        step, device = trainer.state.global_step, trainer.args.device
        before = random_state(device)
        loss = once()
        if step % self.period:
            return loss
        optimizer = trainer.optimizer.optimizer  # beneath accelerate's wrapper
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if not self.noise:
            generator = torch.Generator(device).manual_seed((self.seed << 32) + step)
            self.noise = [torch.randn(p.shape, generator=generator, device=device) for p in parameters]
            self.estimates = [torch.zeros_like(p) for p in parameters]
        after = random_state(device)
        set_random_state(before, device)
        # Not through DDP's wrapper: it averages gradients as they come by, and these are not for it.
        plain = trainer.accelerator.unwrap_model(model)
        value = trainer.compute_loss(plain, trainer._prepare_inputs(inputs))
        found = hutchinson(value / trainer.current_gradient_accumulation_steps, parameters, self.noise)
        torch._foreach_add_(self.estimates, found)
        set_random_state(after, device)
        if trainer.accelerator.sync_gradients:
            scaled = torch._foreach_mul(self.estimates, self.gamma)
            optimizer.estimates = [trainer.accelerator.reduce(estimate, "mean") for estimate in scaled]
            self.noise, self.estimates = [], []
        return loss
