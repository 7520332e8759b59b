"""Supervised contrastive loss on projected features, in addition to a loss on logits (Khosla et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from natix_hf.options import ABOVE_0, option
from natix_hf.training.losses.loss import Classes, Loss, Rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SupCon(Loss):
    supcon_temperature: Annotated[float, ABOVE_0] = option(0.1, "supcon: temperature of the similarities")

    features: ClassVar[bool] = True
    projected: ClassVar[bool] = True
    least_rows: ClassVar[int] = 2

    def lacks_in_train(self, classes: Classes) -> str | None:
        most = max(classes.counts)
        if 2 <= most < sum(classes.counts):
            return None
        return (
            "supcon compares photos of one class with those of others, but train has none to compare: leave supcon out"
        )

    def lacks(self, rows: Rows, classes: Classes) -> str | None:
        most = int(rows.labels.bincount().max())
        if 2 <= most < len(rows.labels):
            return None
        return "no two photos of one class" if most < 2 else "photos of one class only"

    def __call__(self, rows: Rows) -> Tensor:
        return supcon(rows.outputs.projected.float(), rows.labels, self.supcon_temperature)


def supcon(projected: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Supervised contrastive loss (Khosla et al., 2020), mean over the rows that have another row of their class.

    Args:
        projected: `(n, dimension)`; only their directions matter.
        labels: `(n,)` class ids.
        temperature: of the similarities.

    Returns:
        the loss; 0 if no two rows have the same class, or all have.
    """
    from pytorch_metric_learning.losses import SupConLoss

    return SupConLoss(temperature=temperature)(projected, labels)
