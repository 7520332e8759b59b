"""Sophia, with its estimate of the curvature in separate passes (Liu et al., 2024).

`m = b1 m + (1 - b1) g`; every `k` steps `h = b2 h + (1 - b2) z * (H z)` with `z ~ N(0, 1)` (Hutchinson);
`w = w - lr * wd * w - lr * clip(m / max(gamma h, eps), 1)`. pytorch_optimizer makes the update. The estimate is
computed here in a separate pass: the gradients of the step need no graph for second derivatives, so they can be
accumulated, averaged over processes and clipped as usual. `z` depends only on seed and step and is the same in all
micro-batches and processes, so the estimate is that of one large batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_optimizer import SophiaH
from torch import Tensor, nn

from natix_hf.training.optimizers.sharpness import random_state, set_random_state


class SophiaSteps(SophiaH):
    """SophiaH that uses the estimates that were set since the last step, if any, instead of its own."""

    estimates: list[Tensor] | None = None  # one per parameter, in the order of the groups

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.update_period = 2**62

    def step(self, closure: Any = None) -> Any:
        hessian, self.estimates = self.estimates, None
        return super().step(closure, hessian)


def hutchinson(loss: Tensor, parameters: list[nn.Parameter], z: list[Tensor]) -> list[Tensor]:
    """`z * (H z)`, an unbiased estimate of the diagonal of the Hessian of the loss.

    Args:
        loss: a scalar with its graph.
        parameters: of any shape; parameters that do not affect the loss get zeros.
        z: uncorrelated noise of the same shapes, with mean 0 and variance 1.
    """
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    slope = sum((gradient * noise).sum() for gradient, noise in zip(gradients, z))
    products = torch.autograd.grad(slope, parameters, materialize_grads=True)
    return [noise * product for noise, product in zip(z, products)]


class Curvature:
    """Compute the estimates for Sophia in every `period`-th step of a trainer.

    Args:
        period: optimizer steps from one estimate to the next.
        gamma: factor of the estimates, so that steps larger than `lr` are clipped.
        seed: of the noise.
    """

    def __init__(self, period: int, *, gamma: float, seed: int) -> None:
        self.period, self.gamma, self.seed = max(period, 1), gamma, seed
        self.estimates: list[Tensor] = []
        self.noise: list[Tensor] = []

    def __call__(self, once: Callable[[], Tensor], trainer: Any, model: nn.Module, inputs: Any) -> Tensor:
        """One micro-batch: the usual pass, and another one with the same dropout masks if an estimate is due."""
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
        # Not through the DDP wrapper, which would average these gradients too.
        plain = trainer.accelerator.unwrap_model(model)
        value = trainer.compute_loss(plain, trainer._prepare_inputs(inputs))
        estimates = hutchinson(value / trainer.current_gradient_accumulation_steps, parameters, self.noise)
        torch._foreach_add_(self.estimates, estimates)
        set_random_state(after, device)
        if trainer.accelerator.sync_gradients:
            scaled = torch._foreach_mul(self.estimates, self.gamma)
            optimizer.estimates = [trainer.accelerator.reduce(estimate, "mean") for estimate in scaled]
            self.noise, self.estimates = [], []
        return loss
