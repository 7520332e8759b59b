"""Many linear heads at once on features that were computed before: the linear evaluation of DINOv2 and DINOv3.

A head is a learning rate, a weight decay, a pooling and a number of last layers. All heads see the same batches in the
same order, and those that read the same features are one matrix product, so hundreds cost little more than one. Knows
arrays only: where the features come from and what becomes of the best head is decided elsewhere.

SGD with momentum and a cosine to zero, rates in proportion to the batch: the protocol of Oquab et al., "DINOv2", 2024,
whose 13 rates are the recipe's default. Features are standardised on the training rows first; that is an affine map,
so it is folded into the head afterwards and nothing remains of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from natix_hf.errors import UserError
from natix_hf.inference.features import POOLINGS, pooled

REFERENCE_BATCH = 256  # rows; the protocol gives its learning rates for so many
MOMENTUM = 0.9


class Setting(NamedTuple):
    """What tells one head from another; `learning_rate` is that of a batch of 256 rows."""

    pooling: str
    layers: int
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Head:
    """A trained head: `logits = features @ weight.T + bias`, on features as they are.

    Args:
        setting: what it was trained with.
        weight: `(classes, dim)` float32.
        bias: `(classes,)`.
        logits: `(rows, classes)` on the rows by which heads are chosen; not finite where training diverged.
    """

    setting: Setting
    weight: Tensor
    bias: Tensor
    logits: np.ndarray


def settings(
    poolings: Sequence[str], layers: Sequence[int], learning_rates: Sequence[float], weight_decays: Sequence[float]
) -> list[Setting]:
    """Every combination, each once, in the order given.

    Raises:
        UserError: an unknown pooling, or a number that cannot be one of its kind.
    """
    for pooling in poolings:
        if pooling not in POOLINGS:
            raise UserError(f"probe_poolings: {pooling} given, {', '.join(POOLINGS)} expected")
    if not layers or min(layers) < 1:
        raise UserError(f"probe_layers: {' '.join(map(str, layers))} given, numbers of last layers from 1 up expected")
    if not learning_rates or not all(0 < rate < math.inf for rate in learning_rates):
        raise UserError(f"probe_learning_rates: {' '.join(map(str, learning_rates))} given, numbers above 0 expected")
    if not weight_decays or not all(0 <= decay < math.inf for decay in weight_decays):
        raise UserError(f"probe_weight_decays: {' '.join(map(str, weight_decays))} given, numbers from 0 up expected")
    return [Setting(*values) for values in dict.fromkeys(product(poolings, layers, learning_rates, weight_decays))]


@dataclass
class _Bank:
    """The heads that read the same features, side by side: row `h * classes + k` is class k of head h."""

    numbers: list[int]
    weight: Tensor  # (heads * classes, dim)
    bias: Tensor  # (heads * classes,)
    weight_speed: Tensor
    bias_speed: Tensor
    rates: Tensor  # (heads * classes, 1)
    decays: Tensor

    def step(self, features: Tensor, targets: Tensor, row_weights: Tensor, share: float) -> None:
        """One step of SGD; the gradient of the mean cross-entropy in closed form."""
        rows, classes = targets.shape
        logits = torch.addmm(self.bias, features, self.weight.T).view(rows, -1, classes)
        gradient = (logits.softmax(dim=2) - targets[:, None]) * row_weights[:, None, None]
        gradient = gradient.view(rows, -1)  # (rows, heads * classes)
        self.weight_speed.mul_(MOMENTUM).addmm_(gradient.T, features).addcmul_(self.decays, self.weight)
        self.bias_speed.mul_(MOMENTUM).add_(gradient.sum(dim=0))
        self.weight.addcmul_(self.rates, self.weight_speed, value=-share)
        self.bias.addcmul_(self.rates[:, 0], self.bias_speed, value=-share)


def _banks(wanted: Sequence[Setting], parts: Tensor, classes: int, scale: float) -> dict[tuple[str, int], _Bank]:
    banks = {}
    for pooling, layers in dict.fromkeys((s.pooling, s.layers) for s in wanted):
        numbers = [i for i, s in enumerate(wanted) if (s.pooling, s.layers) == (pooling, layers)]
        dim = pooled(parts[:1], pooling, layers).shape[1]

        def column(values: list[float], heads: int = len(numbers)) -> Tensor:
            return torch.tensor(values, device=parts.device).repeat_interleave(classes)[:, None]

        zeros = torch.zeros(len(numbers) * classes, dim, device=parts.device)
        banks[pooling, layers] = _Bank(
            numbers,
            weight=zeros.clone(),  # the loss is convex: where a head starts does not matter, and zero needs no seed
            bias=zeros[:, 0].clone(),
            weight_speed=zeros.clone(),
            bias_speed=zeros[:, 0].clone(),
            rates=column([wanted[i].learning_rate * scale for i in numbers]),
            decays=column([wanted[i].weight_decay for i in numbers]),
        )
    return banks


@torch.no_grad()
def train_heads(
    views: Sequence[Any],
    labels: np.ndarray,
    judged: Any,
    wanted: Sequence[Setting],
    *,
    classes: int,
    epochs: float,
    batch_size: int,
    steps: int | None = None,
    seed: int = 0,
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    device: torch.device | str = "cpu",
    after_step: Callable[[int, int], None] | None = None,
) -> list[Head]:
    """Train all heads together.

    Args:
        views: `(rows, L, 2, hidden)` of the training rows, see `inference.features.pooled`: as they are, then for each
            augmented view; the passes over the rows take them in turn. Standardised by the first.
        labels: `(rows,)` class ids.
        judged: `(rows', L, 2, hidden)` of the rows by which heads are chosen.
        epochs: passes over the rows.
        batch_size: rows a step.
        class_weights: `(classes,)`, with a mean of 1 over the rows, as `losses.class_weights` makes them.
        label_smoothing: share of each target that is spread over all classes.
        device: where to train; the views are moved there whole.
        after_step: called with the steps that are over and the number of all.

    Returns:
        a head for each setting, in order.
    """
    tensors = [torch.as_tensor(np.ascontiguousarray(view), dtype=torch.float32).to(device) for view in views]
    mean = tensors[0].mean(dim=0)
    spread = tensors[0].std(dim=0, correction=0)
    spread[spread < 1e-6 * spread.max()] = torch.inf  # a constant says nothing, and must not be blown up to noise
    tensors = [(tensor - mean) / spread for tensor in tensors]
    rows = len(tensors[0])
    batch_size = min(batch_size, rows)
    banks = _banks(wanted, tensors[0], classes, batch_size / REFERENCE_BATCH)
    targets = torch.nn.functional.one_hot(torch.as_tensor(labels).to(device), classes).float()
    weights = torch.ones(rows, device=device)
    if class_weights is not None:
        weights = targets @ torch.tensor(class_weights, dtype=torch.float32, device=device)
    targets = targets * (1 - label_smoothing) + label_smoothing / classes
    steps = steps or max(1, math.ceil(rows / batch_size * epochs))
    order: list[Tensor] = []
    passes = 0
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        if not order:
            order = list(torch.randperm(rows, generator=generator).to(device).split(batch_size))[::-1]
            tensor, passes = tensors[passes % len(tensors)], passes + 1
        index = order.pop()
        batch, share = tensor[index], (1 + math.cos(math.pi * step / steps)) / 2
        row_weights = weights[index] / len(index)
        for (pooling, layers), bank in banks.items():
            bank.step(pooled(batch, pooling, layers), targets[index], row_weights, share)
        if after_step is not None:
            after_step(step + 1, steps)
    heads: dict[int, Head] = {}
    chosen_by = torch.as_tensor(np.ascontiguousarray(judged), dtype=torch.float32).to(device)
    for (pooling, layers), bank in banks.items():
        centre, width = (pooled(values[None], pooling, layers)[0] for values in (mean, spread))
        weight = bank.weight / width
        bias = bank.bias - weight @ centre
        found = torch.addmm(bias, pooled(chosen_by, pooling, layers), weight.T)
        for place, number in enumerate(bank.numbers):
            own = slice(place * classes, (place + 1) * classes)
            heads[number] = Head(wanted[number], weight[own].cpu(), bias[own].cpu(), found[:, own].cpu().numpy())
    return [heads[i] for i in range(len(wanted))]


def best_head(heads: Sequence[Head], scores: Sequence[float], losses: Sequence[float]) -> int:
    """The number of the head with the highest score; among equals that with the least loss, then the first.

    Args:
        scores: one a head, higher is better; NaN never wins.
        losses: one a head.

    Raises:
        UserError: every head diverged.
    """
    finite = [i for i, head in enumerate(heads) if np.isfinite(head.logits).all() and not math.isnan(scores[i])]
    if not finite:
        raise UserError("probe: every head diverged: give smaller probe_learning_rates")
    return min(finite, key=lambda i: (-scores[i], losses[i], i))
