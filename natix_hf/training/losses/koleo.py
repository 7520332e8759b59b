"""KoLeo: spreads features evenly; used in addition to a loss on logits (Sablayrolles et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from natix_hf.training.losses.loss import Loss, Rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class KoLeo(Loss):
    features: ClassVar[bool] = True
    soft_labels: ClassVar[bool] = True
    least_rows: ClassVar[int] = 2

    def __call__(self, rows: Rows) -> Tensor:
        return koleo(rows.outputs.features.float())


def koleo(features: Tensor) -> Tensor:
    """`-mean_i log min_j ||x_i - x_j||` of normalised rows: spreads features evenly (Sablayrolles et al., 2019).

    As in DINOv2 (Oquab et al., 2023), which uses a weight of 0.1. The loss of a single row is 0.

    Args:
        features: `(n, feature_size)`.
    """
    import torch
    from torch.nn import functional as F

    if len(features) < 2:
        return features.sum() * 0
    x = F.normalize(features, dim=1)
    with torch.no_grad():
        similarity = x @ x.T  # (n, n)
        nearest = similarity.fill_diagonal_(-2.0).argmax(dim=1)
    distances = (x - x[nearest]).norm(dim=1)
    return -(distances + 1e-8).log().mean()
