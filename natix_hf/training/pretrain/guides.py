"""Guides of pretraining: metadata columns that class tokens should forget or keep.

For each column a head learns to predict its values (kinds) from class tokens. For a `spurious` column the gradient
from the head is reversed, so that features hide the column (Ganin and Lempitsky, 2015); for an `informative` column it
is unchanged. Whether a probe can still predict the column is measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from natix_hf.data.splits.slicing import MOST_VALUES, kinds_of_rows
from natix_hf.errors import UserError
from natix_hf.training.pretrain.pretrain_options import GUIDES

NONE = -1  # the kind of a row without a value


class Guide(NamedTuple):
    """A column, the word `spurious` or `informative`, and the kinds in the data, sorted."""

    column: str
    word: str
    kinds: list[str]


def guides_of(parts: Sequence[Any], words: Mapping[str, str]) -> tuple[list[Guide], np.ndarray]:
    """The guides, and the kind of each row.

    Args:
        parts: rows of train and of the pool, each with every column.
        words: column -> one of `GUIDES`.

    Returns:
        The guides, and the numbers of the kinds of all rows, `(n, guides)`; `NONE` if a row has no value.

    Raises:
        UserError: a column has too many kinds in train and the pool.
    """
    guides, numbers = [], []
    for column, word in words.items():
        values = [value for part in parts for value in kinds_of_rows(part, column)]
        kinds = sorted(set(values) - {None})
        if len(kinds) > MOST_VALUES:
            raise UserError(
                f"pretrain_guides: {column} has {len(kinds)} values in train and unlabelled_name together, at most "
                f"{MOST_VALUES} expected: leave it out"
            )
        place = {kind: number for number, kind in enumerate(kinds)} | {None: NONE}
        guides.append(Guide(column, word, kinds))
        numbers.append([place[value] for value in values])
    return guides, np.array(numbers, dtype=np.int64).T


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.scale * gradient, None


def scaled_gradient(features: Tensor, scale: float) -> Tensor:
    """Return `features` unchanged; their gradient is multiplied by `scale`, and so reversed if it is negative."""
    return _ScaledGradient.apply(features, scale)


class GuideHeads(nn.Module):
    """A two-layer head for each guide, as wide as the class tokens.

    Args:
        hidden: width of the class tokens.
        guides: the columns to predict.
    """

    def __init__(self, hidden: int, guides: Sequence[Guide]) -> None:
        super().__init__()
        self.signs = [GUIDES[guide.word] for guide in guides]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, len(guide.kinds)))
            for guide in guides
        )

    def forward(self, classes: Tensor, kinds: Tensor, strength: float) -> Tensor:
        """The cross-entropy of each guide, `(guides,)`: the sum over rows with a value, divided by the number of rows.

        The loss of a photo does not depend on the others, so gradients of small batches add up to those of a large
        one.

        Args:
            classes: `(n, hidden)` class tokens.
            kinds: `(n, guides)`, `NONE` if a row has no value.
            strength: factor of the gradient to the class tokens; heads always learn at full strength.
        """
        losses = [
            F.cross_entropy(
                head(scaled_gradient(classes, sign * strength)).float(), own, ignore_index=NONE, reduction="sum"
            )
            for head, sign, own in zip(self.heads, self.signs, kinds.T, strict=True)
        ]
        return torch.stack(losses) / len(classes)
