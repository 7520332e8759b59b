"""Trains many linear heads together on precomputed features: the linear evaluation of DINOv2 and DINOv3.

Heads differ in learning rate, weight decay, pooling and number of last layers. All heads see the same batches in the
same order, and heads on the same features share one matrix product, so hundreds cost little more than one. Works on
arrays; `probe.py` reads the features and uses the best head.

The protocol is that of Oquab et al., "DINOv2", 2024: SGD with momentum, cosine decay to zero, and learning rates in
proportion to the batch size; its 13 rates are the default of the recipe. Features are first standardised with the
mean and deviation of the training rows. This is an affine map, so it is folded into the head after training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from natix_hf.errors import UserError
from natix_hf.inference.features import POOLINGS, pooled

REFERENCE_BATCH = 256  # rows; the batch size for which the protocol gives its learning rates
MOMENTUM = 0.9


class Setting(NamedTuple):
    """The settings of a head; `learning_rate` is for a batch of 256 rows."""

    pooling: str
    layers: int
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Head:
    """A trained head: `logits = features @ weight.T + bias`, on features that are not standardised.

    With tiles, these are the logits of the whole photo; the mean of the `top_k` largest logits of its tiles is added.

    Args:
        setting: settings of its training.
        weight: `(classes, dim)` float32.
        bias: `(classes,)`.
        logits: `(rows, classes)` on the rows used to choose a head; not finite if training diverged.
        tiles: weight and bias for the tiles; None without tiles.
        top_k: number of tile logits that are averaged, per class.
    """

    setting: Setting
    weight: Tensor
    bias: Tensor
    logits: np.ndarray
    tiles: tuple[Tensor, Tensor] | None = None
    top_k: int | None = None

    def logits_of(self, features: np.ndarray) -> np.ndarray:
        """Logits `(rows, classes)` of features `(rows, [views,] dim)`."""
        weight, bias = self.weight.numpy(), self.bias.numpy()
        if self.tiles is None:
            return features @ weight.T + bias
        of_tiles = features[:, 1:] @ self.tiles[0].numpy().T + self.tiles[1].numpy()  # (rows, tiles, classes)
        return features[:, 0] @ weight.T + bias + np.sort(of_tiles, axis=1)[:, -self.top_k :].mean(axis=1)


def settings(
    poolings: Sequence[str], layers: Sequence[int], learning_rates: Sequence[float], weight_decays: Sequence[float]
) -> list[Setting]:
    """Every combination once, in the given order.

    Raises:
        UserError: an unknown pooling, or a number out of range.
    """
    for pooling in poolings:
        if pooling not in POOLINGS:
            raise UserError(f"probe_poolings: expected {', '.join(POOLINGS)}; found {pooling}")
    if not layers or min(layers) < 1:
        raise UserError(f"probe_layers: expected numbers of last layers from 1 up, found {' '.join(map(str, layers))}")
    if not learning_rates or not all(0 < rate < math.inf for rate in learning_rates):
        raise UserError(f"probe_learning_rates: expected numbers above 0, found {' '.join(map(str, learning_rates))}")
    if not weight_decays or not all(0 <= decay < math.inf for decay in weight_decays):
        raise UserError(f"probe_weight_decays: expected numbers from 0 up, found {' '.join(map(str, weight_decays))}")
    return [Setting(*values) for values in dict.fromkeys(product(poolings, layers, learning_rates, weight_decays))]


@dataclass
class _Layers:
    """One linear layer of each head, side by side: row `h * classes + k` is class k of head h."""

    weight: Tensor  # (heads * classes, dim)
    bias: Tensor  # (heads * classes,)
    weight_speed: Tensor
    bias_speed: Tensor
    rates: Tensor  # (heads * classes, 1)
    decays: Tensor

    def logits(self, features: Tensor) -> Tensor:
        return torch.addmm(self.bias, features, self.weight.T)

    def step(self, features: Tensor, gradient: Tensor, share: float) -> None:
        """One step of SGD; `gradient` of the loss with respect to the logits is `(rows, heads * classes)`."""
        self.weight_speed.mul_(MOMENTUM).addmm_(gradient.T, features).addcmul_(self.decays, self.weight)
        self.bias_speed.mul_(MOMENTUM).add_(gradient.sum(dim=0))
        self.weight.addcmul_(self.rates, self.weight_speed, value=-share)
        self.bias.addcmul_(self.rates[:, 0], self.bias_speed, value=-share)

    def fold(self, centre: Tensor, width: Tensor) -> None:
        """Convert the layer from standardised to original features."""
        self.weight = self.weight / width
        self.bias = self.bias - self.weight @ centre

    def part(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Weight and bias of one head, on the CPU."""
        return self.weight[rows].cpu(), self.bias[rows].cpu()


@dataclass
class _Bank:
    """The heads that read the same features."""

    numbers: list[int]
    whole: _Layers
    tiles: _Layers | None
    top_k: int | None

    def logits(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits `(rows, heads * classes)`, and the tiles they average, `(rows, k, heads * classes)`."""
        if self.tiles is None:
            return self.whole.logits(features), None
        of_tiles = self.tiles.logits(features[:, 1:].flatten(0, 1)).unflatten(0, (len(features), -1))
        best = of_tiles.topk(self.top_k, dim=1)
        return self.whole.logits(features[:, 0]) + best.values.mean(dim=1), best.indices

    def step(self, features: Tensor, targets: Tensor, row_weights: Tensor, share: float) -> None:
        """One step of SGD, with the gradient of the mean cross-entropy in closed form.

        Args:
            features: `(rows, [views,] dim)`.
        """
        rows, classes = targets.shape
        logits, best = self.logits(features)
        logits = logits.view(rows, -1, classes)
        gradient = (logits.softmax(dim=2) - targets[:, None]) * row_weights[:, None, None]
        gradient = gradient.view(rows, -1)  # (rows, heads * classes)
        if self.tiles is None:
            self.whole.step(features, gradient, share)
            return
        tiles = features[:, 1:]
        # Only tiles whose logit is averaged get a gradient.
        of_tiles = gradient.new_zeros(*tiles.shape[:2], gradient.shape[1])
        of_tiles.scatter_(1, best, (gradient / self.top_k)[:, None].expand_as(best))
        self.whole.step(features[:, 0], gradient, share)
        self.tiles.step(tiles.flatten(0, 1), of_tiles.flatten(0, 1), share)

    def fold(self, centre: Tensor, width: Tensor) -> None:
        """Convert the layers from standardised to original features; with tiles, the first row is the whole photo."""
        if self.tiles is None:
            self.whole.fold(centre, width)
        else:
            self.whole.fold(centre[0], width[0])
            self.tiles.fold(centre[1], width[1])


def _zero_layers(wanted: Sequence[Setting], dim: int, classes: int, scale: float, device: torch.device) -> _Layers:
    """Heads start at zero, which needs no seed.

    Without tiles the loss is convex, so the start does not matter. With tiles, all of them are tied for the largest
    logit until the first step.
    """

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, device=device).repeat_interleave(classes)[:, None]

    zeros = torch.zeros(len(wanted) * classes, dim, device=device)
    return _Layers(
        weight=zeros,
        bias=zeros[:, 0].clone(),
        weight_speed=zeros.clone(),
        bias_speed=zeros[:, 0].clone(),
        rates=column([setting.learning_rate * scale for setting in wanted]),
        decays=column([setting.weight_decay for setting in wanted]),
    )


def _banks(
    wanted: Sequence[Setting], parts: Tensor, classes: int, scale: float, top_k: int | None
) -> dict[tuple[str, int], _Bank]:
    banks = {}
    for pooling, layers in dict.fromkeys((s.pooling, s.layers) for s in wanted):
        numbers = [i for i, s in enumerate(wanted) if (s.pooling, s.layers) == (pooling, layers)]
        dim = pooled(parts[:1], pooling, layers).shape[-1]
        new = partial(_zero_layers, [wanted[i] for i in numbers], dim, classes, scale, parts.device)
        banks[pooling, layers] = _Bank(numbers, new(), None if top_k is None else new(), top_k)
    return banks


def _centre_and_spread(parts: Tensor, tiles: bool) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the rows, in the shape of one record; tiles share one mean and deviation.

    Args:
        parts: `(rows, L, [views,] 2, hidden)`.
    """
    if not tiles:
        mean, spread = parts.mean(dim=0), parts.std(dim=0, correction=0)
    else:
        whole, cut = parts[:, :, :1], parts[:, :, 1:]

        def joined(of_whole: Tensor, of_tiles: Tensor) -> Tensor:
            return torch.cat([of_whole, of_tiles[0].expand(-1, cut.shape[2], -1, -1)], dim=1)

        mean = joined(whole.mean(dim=0), cut.mean(dim=(0, 2), keepdim=True))
        spread = joined(whole.std(dim=0, correction=0), cut.std(dim=(0, 2), correction=0, keepdim=True))
    spread[spread < 1e-6 * spread.max()] = torch.inf  # else dividing a constant by its deviation would amplify noise
    return mean, spread


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
    top_k: int | None = None,
    after_step: Callable[[int, int], None] | None = None,
) -> list[Head]:
    """Train all heads together.

    Args:
        views: `(rows, L, [tiles,] 2, hidden)` features of the training rows, see `inference.features.pooled`: first of
            the photos, then of each augmented view. Epochs use them in turn; the first one sets the standardisation.
        labels: `(rows,)` class ids.
        judged: `(rows', L, [tiles,] 2, hidden)` features of the rows that choose the head.
        wanted: the settings, one head each.
        classes: number of classes.
        epochs: passes over the rows.
        batch_size: rows per step.
        steps: number of steps, instead of `epochs`.
        class_weights: `(classes,)` with a mean of 1 over the rows, see `losses.class_weights`.
        label_smoothing: share of each target that is spread over all classes.
        device: where to train; must hold all views.
        top_k: with tiles, the number of tile logits that are averaged, per class; None without tiles.
        after_step: called after each step with the number of steps done and of all steps.

    Returns:
        a head for each setting, in order.
    """
    tensors = [_on_device(view, device) for view in views]
    mean, spread = _centre_and_spread(tensors[0], tiles=top_k is not None)
    tensors = [(tensor - mean) / spread for tensor in tensors]
    rows = len(tensors[0])
    batch_size = min(batch_size, rows)
    banks = _banks(wanted, tensors[0], classes, batch_size / REFERENCE_BATCH, top_k)
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
    chosen_by = _on_device(judged, device)
    for (pooling, layers), bank in banks.items():
        bank.fold(*(pooled(values[None], pooling, layers)[0] for values in (mean, spread)))
        logits, _ = bank.logits(pooled(chosen_by, pooling, layers))
        for place, number in enumerate(bank.numbers):
            columns = slice(place * classes, (place + 1) * classes)
            weight, bias = bank.whole.part(columns)
            tiles = None if bank.tiles is None else bank.tiles.part(columns)
            heads[number] = Head(wanted[number], weight, bias, logits[:, columns].cpu().numpy(), tiles, top_k)
    return [heads[i] for i in range(len(wanted))]


def _on_device(features: Any, device: torch.device | str) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(features), dtype=torch.float32).to(device)


def best_head(heads: Sequence[Head], scores: Sequence[float], losses: Sequence[float]) -> int:
    """The number of the head with the highest score; ties go to the lowest loss, then to the first.

    Args:
        scores: one per head, higher is better; NaN never wins.
        losses: one per head.

    Raises:
        UserError: every head diverged.
    """
    finite = [i for i, head in enumerate(heads) if np.isfinite(head.logits).all() and not math.isnan(scores[i])]
    if not finite:
        raise UserError("probe: every head diverged: use smaller probe_learning_rates")
    return min(finite, key=lambda i: (-scores[i], losses[i], i))
