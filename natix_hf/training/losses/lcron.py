"""LCRON: soft top-k selection that ranks photos of the positive class above all others (Wang et al., 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from natix_hf.errors import UserError
from natix_hf.options import ABOVE_0, option
from natix_hf.training.losses.loss import Classes, Loss, Rows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Lcron(Loss):
    lcron_top_k: int | None = option(
        None, "lcron: number of photos of a batch to select; default: as many as are positive"
    )
    lcron_temperature: Annotated[float, ABOVE_0] = option(1.0, "lcron: temperature of the soft sorting")

    note: ClassVar[str] = "ranks the positive class first; use it with ce"
    least_rows: ClassVar[int] = 2

    def check(self, args: Any) -> None:
        top, rows = self.lcron_top_k, args.per_device_train_batch_size
        if top is not None and not 1 <= top < rows:
            raise UserError(
                f"lcron_top_k: expected 1 to {rows - 1}, below per_device_train_batch_size; found {top}: leave it out "
                "with --lcron_top_k null for as many as are positive"
            )

    def lacks_in_train(self, classes: Classes) -> str | None:
        name, positive = classes.names[classes.positive], classes.counts[classes.positive]
        if 0 < positive < sum(classes.counts):
            return None
        share = "no photo is" if positive == 0 else "all photos are"
        return (
            f"lcron ranks class {name} above the others, but in train {share} of it: set positive_label, or leave "
            "lcron out"
        )

    def lacks(self, rows: Rows, classes: Classes) -> str | None:
        count = int((rows.labels == rows.positive).sum())
        if 0 < count < len(rows.labels):
            return None
        return f"{'no photo' if count == 0 else 'only photos'} of class {classes.names[classes.positive]}"

    def __call__(self, rows: Rows) -> Tensor:
        import torch

        logits, relevant = rows.logits, rows.labels == rows.positive
        others = torch.arange(logits.shape[1], device=logits.device) != rows.positive
        scores = logits[:, rows.positive] - logits[:, others].logsumexp(dim=1)  # log odds of the positive class
        top = int(relevant.sum()) if self.lcron_top_k is None else min(self.lcron_top_k, len(scores) - 1)
        return lcron(scores, relevant, top, self.lcron_temperature)


def soft_permutation(scores: Tensor, temperature: float = 1.0) -> Tensor:
    """Logarithm of a row-stochastic matrix `(n, n)`: row i is a distribution over the candidates for place i.

    The best place comes first.

    NeuralSort (Grover et al., 2019), as in the paper.

    Args:
        scores: `(n,)`.
        temperature: as it goes to 0, the matrix becomes the sorting permutation.
    """
    import torch

    n = len(scores)
    distances = (scores[:, None] - scores[None, :]).abs().sum(dim=1)  # (n,) of each candidate to all
    places = n + 1 - 2 * torch.arange(1, n + 1, dtype=scores.dtype, device=scores.device)
    return torch.log_softmax((places[:, None] * scores[None, :] - distances[None, :]) / temperature, dim=1)


def log_survival(scores: Tensor, top_k: int, temperature: float = 1.0) -> Tensor:
    """Logarithm of each candidate's probability `(n,)` to be among the best `top_k` (eq. 10 of the LCRON paper).

    The sum of the first rows of the matrix, divided by the sum of all rows, because only rows sum to 1. No gradient
    flows through the divisor.
    """
    matrix = soft_permutation(scores, temperature)
    return matrix[:top_k].logsumexp(dim=0) - matrix.logsumexp(dim=0).detach()


def lcron(scores: Tensor, relevant: Tensor, top_k: int, temperature: float = 1.0) -> Tensor:
    """Learning Cascade Ranking as One Network (Wang et al., 2025, arXiv:2503.09492), for a cascade of one stage.

    `L_e2e` (eq. 11): the cross-entropy between surviving the stage and being relevant. `L_single` (eq. 12) of the
    paper tightens a bound for several stages, so it is not needed here. Unlike the paper this is a mean over
    candidates, not a sum, so that the gradient does not grow with the number of candidates.

    Args:
        scores: `(n,)` of the candidates.
        relevant: `(n,)` bool, the ground truth.
        top_k: number of candidates that pass.
        temperature: of the soft sorting, on the scale of scores.

    Returns:
        the loss; 0 if all candidates are relevant or none is, because there is nothing to rank.

    Raises:
        ValueError: `top_k` outside 1..n.
    """
    import torch

    n, count = len(relevant), int(relevant.sum())
    if count and not 1 <= top_k <= n:
        raise ValueError(f"top_k: expected 1 to {n}, found {top_k}")
    if count in (0, n):
        return scores.sum() * 0
    log_p = log_survival(scores, top_k, temperature)
    p = log_p.exp().clamp(max=1 - torch.finfo(log_p.dtype).eps)
    return -torch.where(relevant, log_p, torch.log1p(-p)).mean()
