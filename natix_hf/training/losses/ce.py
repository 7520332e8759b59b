"""Cross-entropy, the default loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from natix_hf.training.losses.loss import Loss, Rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CrossEntropy(Loss):
    soft_labels: ClassVar[bool] = True
    smoothing: ClassVar[bool] = True
    weights: ClassVar[bool] = True

    def __call__(self, rows: Rows) -> Tensor:
        return cross_entropy(rows.logits, rows.labels, rows.weights, rows.smoothing)


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Mean over rows of `-sum_c q_c w_c log p_c`.

    Args:
        logits: `(n, classes)`.
        labels: `(n,)` class ids or `(n, classes)` probabilities q.
        weights: `(classes,)` class weights; the sum is divided by n, not by the weights of the batch.
        smoothing: share of q that is spread evenly over the classes (Szegedy et al., 2016).
    """
    from torch.nn import functional as F

    if weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    total = F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing, reduction="sum")
    return total / len(logits)
