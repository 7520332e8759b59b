"""A run stops at the first loss that is not finite, and does not wait for a GPU at every step to find that out."""

from __future__ import annotations

from pathlib import Path

import torch

from natix_hf.errors import UserError
from natix_hf.training.checkpoints import not_finite


class FiniteLosses:
    """Looks at the losses of a run.

    To look at a loss on a GPU is to wait until it is computed, with nothing launched behind it. So each is looked at
    when the next one was launched, and all of them before anything is written, scored or logged.

    Args:
        lag: so many losses may be out; 0 on a CPU, where nothing is launched ahead.
    """

    def __init__(self, run: str | Path, lag: int) -> None:
        self.run, self.lag = run, lag
        self.waiting: list[tuple[int, torch.Tensor]] = []

    def seen(self, step: int, loss: torch.Tensor) -> None:
        """Take the loss of a pass that belongs to `step`.

        Raises:
            UserError: one that was looked at is NaN or infinite.
        """
        self.waiting.append((step, loss.detach()))
        self.check(self.lag)

    def check(self, left: int = 0) -> None:
        """Look at all but the last `left` losses.

        Raises:
            UserError: one of them is NaN or infinite; the first is named, with the last good checkpoint.
        """
        while len(self.waiting) > left:
            step, loss = self.waiting.pop(0)
            if not torch.isfinite(loss):
                raise UserError(not_finite(self.run, step, loss.item()))
