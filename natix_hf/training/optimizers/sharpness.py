"""Sharpness-aware minimization: the gradient of a step is taken at the worst point nearby (Foret et al., 2021).

`g = grad L(w)`; `e = rho * g / |g|`; the step is made with `grad L(w + e)`. Both gradients are those of the whole
optimizer step: accumulated over its micro-batches, averaged over all processes, so that accumulation and more
processes give the step of one large batch. The micro-batches pass twice, as the same tensors (views, mixing) and with
the same dropout masks. The second gradient is what is clipped, logged as `grad_norm` and given to the optimizer; the
loss that is logged is that of the first pass. Knows the trainer's step as a function, and no optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def random_state(device: torch.device) -> list[Tensor]:
    """The states of the generators that dropout draws from: the CPU's, and the device's."""
    states = [torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, torch.get_device_module(device).get_rng_state(device)]


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Bring back what `random_state` returned."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)


class SharpnessAware:
    """Runs the passes of SAM around a trainer's step.

    Args:
        rho: length of the climb.
        adaptive: climb in proportion to the weights, `e = rho * w^2 g / | |w| g |` (ASAM, Kwon et al., 2021).
    """

    def __init__(self, rho: float, *, adaptive: bool = False) -> None:
        self.rho, self.adaptive = rho, adaptive
        self.passes: list[tuple[Callable[[], Tensor], list[Tensor]]] = []  # of this optimizer step so far

    def __call__(self, once: Callable[[], Tensor], trainer: Any, model: nn.Module, inputs: Any) -> Tensor:
        """One micro-batch; with the last one of an optimizer step the climb and all second passes.

        Args:
            once: forward and backward of this micro-batch; returns its loss, accumulates into `.grad`.
            trainer: whose `accelerator` says which micro-batch is the last.
            model: as the trainer trains it, wrapped.

        Returns:
            The loss at the weights themselves.
        """
        device = trainer.args.device
        self.passes.append((once, random_state(device)))
        loss = once()
        if not trainer.accelerator.sync_gradients:
            return loss
        passes, self.passes = self.passes, []
        after = random_state(device)
        with Climb([p for p in model.parameters() if p.grad is not None], self.rho, adaptive=self.adaptive):
            for number, (again, before) in enumerate(passes, 1):
                set_random_state(before, device)
                # Gradients of all processes are averaged once, with the last micro-batch, as in the first pass.
                with nullcontext() if number == len(passes) else trainer.accelerator.no_sync(model):
                    again()
        set_random_state(after, device)
        return loss


class Climb:
    """Inside the block the parameters stand at `w + e` and have no gradients; after it they are `w`, to the bit.

    Args:
        parameters: with the gradients that say the direction.
        rho, adaptive: as of `SharpnessAware`.
    """

    def __init__(self, parameters: list[nn.Parameter], rho: float, *, adaptive: bool = False) -> None:
        self.parameters, self.rho, self.adaptive = parameters, rho, adaptive

    @torch.no_grad()
    def __enter__(self) -> None:
        self.kept = [p.detach().clone() for p in self.parameters]
        gradients = [p.grad for p in self.parameters]
        if self.adaptive:
            lengths = torch._foreach_mul(torch._foreach_abs(self.kept), gradients)
            gradients = torch._foreach_mul(torch._foreach_mul(self.kept, self.kept), gradients)
        else:
            lengths = gradients
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(lengths))) + 1e-12
        torch._foreach_add_(self.parameters, torch._foreach_mul(gradients, self.rho / norm))
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def __exit__(self, *_: Any) -> None:
        torch._foreach_copy_(self.parameters, self.kept)
