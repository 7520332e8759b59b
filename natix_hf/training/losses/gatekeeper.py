"""Gatekeeper: trains a model to be confident if it is right and undecided if it is wrong (Rabanser et al., 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from natix_hf.options import SHARE, option
from natix_hf.training.losses.loss import Loss, Rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Gatekeeper(Loss):
    gatekeeper_alpha: Annotated[float, SHARE] = option(
        0.5, "gatekeeper: weight of photos that the model gets right; with a lower weight it defers more"
    )

    weights: ClassVar[bool] = True

    def __call__(self, rows: Rows) -> Tensor:
        return gatekeeper(rows.logits, rows.labels, self.gatekeeper_alpha, rows.weights)


def gatekeeper(logits: Tensor, labels: Tensor, alpha: float = 0.5, weights: Tensor | None = None) -> Tensor:
    """Confidence tuning for cascades (Rabanser et al., 2025): confident if right, undecided if wrong.

    `alpha / n` times the cross-entropy over the correctly classified rows, plus `(1 - alpha) / n` times
    `KL(p || uniform)` over the others. Meant for a model that is already trained.

    Args:
        logits: `(n, classes)`.
        labels: `(n,)` class ids.
        alpha: in [0, 1]; a lower value makes the model defer more.
        weights: `(classes,)` class weights.
    """
    import torch
    from torch.nn import functional as F

    log_p = F.log_softmax(logits, dim=1)
    right = logits.argmax(dim=1) == labels
    divergence = (log_p.exp() * log_p).sum(dim=1) + math.log(logits.shape[1])
    rows = torch.where(right, alpha * F.nll_loss(log_p, labels, reduction="none"), (1 - alpha) * divergence)
    return (rows if weights is None else rows * weights.to(logits.dtype)[labels]).mean()
