"""Stops a run at the first loss that is not finite, without synchronising the GPU at every step."""

from __future__ import annotations

from pathlib import Path

import torch

from natix_hf.errors import UserError
from natix_hf.training.checkpoints import not_finite


class FiniteLosses:
    """Check the losses of a run.

    Reading a loss from a GPU waits until it is computed, and the GPU idles afterwards. So each loss is read after the
    next step was launched, and all of them before anything is saved, evaluated or logged.

    Args:
        run: folder of the run; its last good checkpoint is named in the error.
        lag: number of losses that may stay unread; 0 on a CPU, where nothing is launched ahead.
    """

    def __init__(self, run: str | Path, lag: int) -> None:
        self.run, self.lag = run, lag
        self.waiting: list[tuple[int, torch.Tensor]] = []

    def seen(self, step: int, loss: torch.Tensor) -> None:
        """Add the loss of a pass that belongs to `step`.

        Raises:
            UserError: a loss that was read is NaN or infinite.
        """
        self.waiting.append((step, loss.detach()))
        self.check(self.lag)

    def check(self, left: int = 0) -> None:
        """Read all but the last `left` losses.

        Raises:
            UserError: names the step of the first NaN or infinite loss, and the last good checkpoint.
        """
        while len(self.waiting) > left:
            step, loss = self.waiting.pop(0)
            if not torch.isfinite(loss):
                raise UserError(not_finite(self.run, step, loss.item()))
