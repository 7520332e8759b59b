"""Asymmetric loss: separate focusing exponents for the class of a photo and for the others (Ridnik et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from natix_hf.options import AT_LEAST_0, SHARE_BELOW_1, option
from natix_hf.training.losses.loss import Loss, Rows, smoothed

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Asymmetric(Loss):
    asymmetric_gamma_pos: Annotated[float, AT_LEAST_0] = option(
        0.0, "asymmetric: focusing exponent of the photo's class"
    )
    asymmetric_gamma_neg: Annotated[float, AT_LEAST_0] = option(
        4.0, "asymmetric: focusing exponent of the other classes, which count because of smoothing"
    )
    asymmetric_smoothing: Annotated[float, SHARE_BELOW_1] = option(
        0.1, "asymmetric: label smoothing, in place of label_smoothing_factor"
    )

    weights: ClassVar[bool] = True

    def __call__(self, rows: Rows) -> Tensor:
        gammas = self.asymmetric_gamma_pos, self.asymmetric_gamma_neg
        return asymmetric(rows.logits, rows.labels, *gammas, self.asymmetric_smoothing, rows.weights)


def asymmetric(
    logits: Tensor,
    labels: Tensor,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    smoothing: float = 0.1,
    weights: Tensor | None = None,
) -> Tensor:
    """Asymmetric loss for one label per row (Ridnik et al., 2021; timm's `AsymmetricLossSingleLabel`).

    Mean over rows of `-sum_c q_c f_c log p_c` with smoothed targets q, and f = (1 - p)^gamma_pos for the class of the
    row, p^gamma_neg for the others. Without smoothing the other classes have no effect.

    Args:
        logits: `(n, classes)`.
        labels: `(n,)` class ids.
        gamma_pos, gamma_neg: focusing exponents of the class of the row and of the others.
        smoothing: as in `cross_entropy`.
        weights: `(classes,)` class weights.
    """
    import torch
    from torch.nn import functional as F

    log_p = F.log_softmax(logits, dim=1)
    p = log_p.exp()
    is_label = F.one_hot(labels, logits.shape[1]).bool()
    tiny = torch.finfo(logits.dtype).eps
    focus = torch.where(is_label, (1 - p).clamp(min=tiny) ** gamma_pos, p.clamp(min=tiny) ** gamma_neg)
    terms = smoothed(labels, logits, smoothing) * focus * log_p
    return -(terms if weights is None else terms * weights.to(logits.dtype)).sum(dim=1).mean()
