"""Focal loss: rows that the model is sure of count less (Lin et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from natix_hf.errors import UserError
from natix_hf.options import AT_LEAST_0, EACH_ABOVE_0, option
from natix_hf.training.losses.loss import Classes, Loss, Rows, smoothed

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Focal(Loss):
    focal_gamma: Annotated[float, AT_LEAST_0] = option(
        2.0, "focal: how strongly photos that the model is sure of are down-weighted"
    )
    focal_alpha: Annotated[list[float] | None, EACH_ABOVE_0] = option(
        None, "focal: class weights; for two classes the one of the positive class is enough, e.g. 0.25"
    )

    soft_labels: ClassVar[bool] = True
    smoothing: ClassVar[bool] = True
    weights: ClassVar[bool] = True

    def check(self, args: Any) -> None:
        if self.focal_alpha and args.class_weights:
            raise UserError(
                "focal_alpha and class_weights both weigh the classes: leave one of them out with --focal_alpha null "
                "or --class_weights null"
            )

    def own_weights(self, classes: Classes) -> Tensor | None:
        """Alpha of the paper.

        Raises:
            UserError: the number of weights is not that of the classes.
        """
        import torch

        if not self.focal_alpha:
            return None
        alpha, count = self.focal_alpha, len(classes.counts)
        if len(alpha) == 1 and count == 2 and alpha[0] < 1:
            alpha = [alpha[0] if i == classes.positive else 1 - alpha[0] for i in range(2)]
        if len(alpha) != count:
            raise UserError(f"focal_alpha: expected {count} numbers, one per class; found {len(alpha)}")
        return torch.tensor(alpha)

    def __call__(self, rows: Rows) -> Tensor:
        return focal(rows.logits, rows.labels, self.focal_gamma, rows.weights, rows.smoothing)


def focal(
    logits: Tensor, labels: Tensor, gamma: float = 2.0, weights: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Mean over rows of `-sum_c q_c w_c (1 - p_c)^gamma log p_c` (Lin et al., 2017; here for any number of classes).

    Args:
        logits: `(n, classes)`.
        labels: `(n,)` class ids or `(n, classes)` probabilities q.
        gamma: how strongly rows that the model is sure of are down-weighted; 0 is cross-entropy.
        weights: `(classes,)`, alpha of the paper.
        smoothing: as in `cross_entropy`.
    """
    import torch
    from torch.nn import functional as F

    log_p = F.log_softmax(logits, dim=1)
    # Clamped, because at 0 the power of a fractional gamma has an infinite slope.
    doubt = (-torch.expm1(log_p)).clamp(min=torch.finfo(logits.dtype).eps)
    terms = smoothed(labels, logits, smoothing) * doubt**gamma * log_p
    return -(terms if weights is None else terms * weights.to(logits.dtype)).sum(dim=1).mean()
