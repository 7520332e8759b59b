"""LCRON: soft top-k selection, which puts the photos of the positive class before all others (Wang et al., 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from natix_hf.errors import UserError
from natix_hf.options import ABOVE_0, option
from natix_hf.training.losses.loss import Classes, Loss, Rows


@dataclass(frozen=True)
class Lcron(Loss):
    lcron_top_k: int | None = option(None, "lcron: photos of a batch that pass; default as many as are positive")
    lcron_temperature: Annotated[float, ABOVE_0] = option(1.0, "lcron: temperature of the soft sorting")

    note: ClassVar[str] = "puts the positive class first; beside ce"
    least_rows: ClassVar[int] = 2

    def check(self, args: Any) -> None:
        top, rows = self.lcron_top_k, args.per_device_train_batch_size
        if top is not None and not 1 <= top < rows:
            raise UserError(
                f"lcron_top_k: {top} given, 1 to {rows - 1} expected, below per_device_train_batch_size: leave it out "
                "with --lcron_top_k null for as many as are positive"
            )

    def lacks_in_train(self, classes: Classes) -> str | None:
        name, positive = classes.names[classes.positive], classes.counts[classes.positive]
        if 0 < positive < sum(classes.counts):
            return None
        found = "no photo is" if positive == 0 else "all photos are"
        return (
            f"lcron puts class {name} before the others, and in train {found} of it: set positive_label, or leave "
            "lcron out"
        )

    def lacks(self, rows: Rows, classes: Classes) -> str | None:
        count = int((rows.labels == rows.positive).sum())
        if 0 < count < len(rows.labels):
            return None
        return f"{'no photo' if count == 0 else 'only photos'} of class {classes.names[classes.positive]}"

    def __call__(self, rows: Rows) -> Tensor:
        logits, relevant = rows.logits, rows.labels == rows.positive
        others = torch.arange(logits.shape[1], device=logits.device) != rows.positive
        scores = logits[:, rows.positive] - logits[:, others].logsumexp(dim=1)  # log odds of the positive class
        top = int(relevant.sum()) if self.lcron_top_k is None else min(self.lcron_top_k, len(scores) - 1)
        return lcron([scores], relevant, [top], self.lcron_temperature)


def soft_permutation(scores: Tensor, temperature: float = 1.0, sort: str = "neuralsort") -> Tensor:
    """Logarithm of a row-stochastic matrix `(n, n)`: row i says which candidate stands at place i, best first.

    Args:
        scores: `(n,)`.
        temperature: towards 0 the matrix becomes the permutation that sorts.
        sort: `neuralsort` (Grover et al., 2019) or `softsort` (Prillo & Eisenschlos, 2020).
    """
    n = len(scores)
    if sort == "softsort":
        ranked = scores.sort(descending=True).values
        return torch.log_softmax(-(ranked[:, None] - scores[None, :]).abs() / temperature, dim=1)
    if sort != "neuralsort":
        raise ValueError(f"sort is {sort!r}, expected 'neuralsort' or 'softsort'")
    distances = (scores[:, None] - scores[None, :]).abs().sum(dim=1)  # (n,) of each candidate to all
    places = n + 1 - 2 * torch.arange(1, n + 1, dtype=scores.dtype, device=scores.device)
    return torch.log_softmax((places[:, None] * scores[None, :] - distances[None, :]) / temperature, dim=1)


def log_survival(scores: Tensor, top_k: int, temperature: float = 1.0, sort: str = "neuralsort") -> Tensor:
    """Logarithm of each candidate's probability `(n,)` to be among the best `top_k` (eq. 10 of the LCRON paper).

    The sum of the matrix's first rows, divided by the sum of all, through which no gradient flows: the relaxations are
    stochastic by row only.
    """
    matrix = soft_permutation(scores, temperature, sort)
    return matrix[:top_k].logsumexp(dim=0) - matrix.logsumexp(dim=0).detach()


def _cross_entropy(log_p: Tensor, relevant: Tensor) -> Tensor:
    """Mean over candidates of the binary cross-entropy of their survival and whether they are relevant."""
    p = log_p.exp().clamp(max=1 - torch.finfo(log_p.dtype).eps)
    return -torch.where(relevant, log_p, torch.log1p(-p)).mean()


def lcron(
    stages: Sequence[Tensor],
    relevant: Tensor,
    top_k: Sequence[int],
    temperature: float = 1.0,
    *,
    sort: str = "neuralsort",
    weights: Tensor | None = None,
) -> Tensor:
    """Learning Cascade Ranking as One Network (Wang et al., 2025, arXiv:2503.09492, sections 4.2 and 4.3).

    A candidate survives a cascade with at least the product of its survivals of the single stages. `L_e2e` (eq. 11) is
    the cross-entropy of that product with being relevant. `L_single` of a stage (eq. 12) is that of its own survival
    among as many candidates as are relevant: it tightens the bound, and has a gradient where the product is near 0.
    The sum of these (or eq. 13, with learned weights) is returned; the paper found both equally good. One stage has no
    bound to tighten: there it is `L_e2e` alone.

    Means over candidates stand where the paper has sums, so that the size of the list does not scale the gradient.

    Args:
        stages: scores `(n,)` of each stage for the same candidates, first stage first.
        relevant: `(n,)` bool, the ground truth.
        top_k: how many candidates each stage lets pass.
        temperature: of the soft sorting, on the scale of scores.
        sort: see `soft_permutation`; the paper uses `neuralsort`.
        weights: `(1 + stages,)` positive and trainable, the alpha, beta, gamma of eq. 13 (Kendall et al., 2018).

    Returns:
        the loss; 0 where all candidates are relevant or none is, since there is nothing to put in order.

    Raises:
        ValueError: not one `top_k` per stage, or one outside 1..n.
    """
    n = len(relevant)
    if len(top_k) != len(stages) or not all(1 <= k <= n for k in top_k if relevant.any()):
        raise ValueError(f"top_k is {list(top_k)} for {len(stages)} stages, expected one of 1 to {n} for each")
    count = int(relevant.sum())
    if count in (0, n):
        return torch.stack([scores.sum() * 0 for scores in stages]).sum()
    survivals = [log_survival(scores, k, temperature, sort) for scores, k in zip(stages, top_k, strict=True)]
    losses = [_cross_entropy(torch.stack(survivals).sum(dim=0), relevant)]
    if len(stages) > 1:
        losses += [_cross_entropy(log_survival(scores, count, temperature, sort), relevant) for scores in stages]
    if weights is None:
        return torch.stack(losses).sum()
    return (torch.stack(losses) / (2 * weights**2)).sum() + weights.log2().sum()
