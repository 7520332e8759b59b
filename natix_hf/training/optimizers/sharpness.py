"""Sharpness-aware minimization: take the gradient of a step at the worst point nearby (Foret et al., 2021).

`g = grad L(w)`; `e = rho * g / |g|`; the step uses `grad L(w + e)`. Both gradients belong to the whole optimizer step:
they are accumulated over its micro-batches and averaged over all processes, which gives the step of one large batch.
Each micro-batch passes twice, with the same tensors (views, mixing) and dropout masks. The second gradient is clipped,
logged as `grad_norm` and passed to the optimizer; the logged loss is that of the first pass. Works with any optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def random_state(device: torch.device) -> list[Tensor]:
    """The states of the random generators used by dropout: of the CPU and of the device."""
    states = [torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, torch.get_device_module(device).get_rng_state(device)]


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Restore the states returned by `random_state`."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)


class SharpnessAware:
    """Run the passes of SAM for the steps of a trainer.

    Args:
        rho: length of the climb.
        adaptive: climb in proportion to the weights, `e = rho * w^2 g / | |w| g |` (ASAM, Kwon et al., 2021).
    """

    def __init__(self, rho: float, *, adaptive: bool = False) -> None:
        self.rho, self.adaptive = rho, adaptive
        self.passes: list[tuple[Callable[[], Tensor], list[Tensor]]] = []  # of this optimizer step so far

    def __call__(self, once: Callable[[], Tensor], trainer: Any, model: nn.Module, inputs: Any) -> Tensor:
        """Process a micro-batch; after the last one of an optimizer step, climb and run all second passes.

        Args:
            once: forward and backward of this micro-batch; returns its loss and accumulates gradients in `.grad`.
            trainer: its `accelerator` knows which micro-batch is the last.
            model: the wrapped model of the trainer.

        Returns:
            The loss at `w`.
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
    """Inside the block the parameters are `w + e` and have no gradients; afterwards they are exactly `w`.

    Args:
        parameters: with the gradients that give the direction.
        rho, adaptive: as in `SharpnessAware`.
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
