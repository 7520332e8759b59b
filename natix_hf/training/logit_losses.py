"""Losses of single rows: logits and labels to a mean over rows.

Weights of classes multiply the terms of a row and are not divided out again within a batch: `losses.class_weights`
scales them so that they need not be, and a mean over rows is the same however rows are grouped into batches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def _targets(labels: Tensor, logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """Class ids `(n,)` or probabilities `(n, classes)` as smoothed probabilities `(n, classes)`."""
    classes = logits.shape[1]
    soft = labels if labels.is_floating_point() else F.one_hot(labels, classes)
    return soft.to(logits.dtype) * (1 - smoothing) + smoothing / classes


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Mean over rows of `-sum_c q_c w_c log p_c`.

    Args:
        logits: `(n, classes)`.
        labels: `(n,)` class ids or `(n, classes)` probabilities q.
        weights: `(classes,)`; the sum is divided by n and not by the weights of the batch.
        smoothing: share of q that is spread evenly over the classes (Szegedy et al., 2016).
    """
    if weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    total = F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing, reduction="sum")
    return total / len(logits)


def focal(
    logits: Tensor, labels: Tensor, gamma: float = 2.0, weights: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Mean over rows of `-sum_c q_c w_c (1 - p_c)^gamma log p_c` (Lin et al., 2017, for several classes).

    Args:
        logits: `(n, classes)`.
        labels: `(n,)` class ids or `(n, classes)` probabilities q.
        gamma: how strongly rows that the model is sure of are passed over; 0 is cross-entropy.
        weights: `(classes,)`, the paper's alpha.
        smoothing: as in `cross_entropy`.
    """
    log_p = F.log_softmax(logits, dim=1)
    # Away from 0, where the power of a fractional gamma has an infinite slope.
    rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(logits.dtype).eps)
    terms = _targets(labels, logits, smoothing) * rest**gamma * log_p
    return -(terms if weights is None else terms * weights.to(logits.dtype)).sum(dim=1).mean()


def asymmetric(
    logits: Tensor,
    labels: Tensor,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    smoothing: float = 0.1,
    weights: Tensor | None = None,
) -> Tensor:
    """Asymmetric loss for one label per row (Ridnik et al., 2021; timm's `AsymmetricLossSingleLabel`).

    The mean over rows of `-sum_c q_c f_c log p_c` with smoothed targets q, and f = (1 - p)^gamma_pos for the row's
    class, p^gamma_neg for the others; without smoothing the others have no part in it.

    Args:
        logits: `(n, classes)`.
        labels: `(n,)` class ids.
        gamma_pos, gamma_neg: focusing on the row's class and on the others.
        smoothing: as in `cross_entropy`.
        weights: `(classes,)`.
    """
    log_p = F.log_softmax(logits, dim=1)
    p = log_p.exp()
    own = F.one_hot(labels, logits.shape[1]).bool()
    tiny = torch.finfo(logits.dtype).eps
    focus = torch.where(own, (1 - p).clamp(min=tiny) ** gamma_pos, p.clamp(min=tiny) ** gamma_neg)
    terms = _targets(labels, logits, smoothing) * focus * log_p
    return -(terms if weights is None else terms * weights.to(logits.dtype)).sum(dim=1).mean()


def gatekeeper(logits: Tensor, labels: Tensor, alpha: float = 0.5, weights: Tensor | None = None) -> Tensor:
    """Confidence tuning for cascades (Rabanser et al., 2025): sure where right, undecided where wrong.

    `alpha / n` times the cross-entropy of the rows whose likeliest class is theirs, plus `(1 - alpha) / n` times
    `KL(p || uniform)` of the others. Meant for a model that is already trained.

    Args:
        logits: `(n, classes)`.
        labels: `(n,)` class ids.
        alpha: in [0, 1]; less makes the model defer more.
        weights: `(classes,)`, by the row's class.
    """
    log_p = F.log_softmax(logits, dim=1)
    right = logits.argmax(dim=1) == labels
    divergence = (log_p.exp() * log_p).sum(dim=1) + math.log(logits.shape[1])
    rows = torch.where(right, alpha * F.nll_loss(log_p, labels, reduction="none"), (1 - alpha) * divergence)
    return (rows if weights is None else rows * weights.to(logits.dtype)[labels]).mean()
