"""Class weights, scaled so that the scale of the loss, and so the learning rate, keeps its meaning.

The weighted sum over a batch is divided by the number of rows. Over all of train this equals torch's weighted mean.
torch divides by the weights in each batch instead, so its result depends on how rows are grouped into batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from natix_hf.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def given_weights(given: Any) -> list[float] | None:
    """The numbers in `class_weights`; None for `balanced`.

    Raises:
        UserError: neither `balanced` nor positive numbers.
    """
    words = [given] if isinstance(given, str) else list(given)
    if words == ["balanced"]:
        return None
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = [math.nan]
    if not all(0 < value < math.inf for value in values):
        raise UserError(
            f"class_weights: expected balanced or positive numbers, one per class; found {' '.join(map(str, words))}"
        )
    return values


def class_weights(given: str | Sequence[str | float], counts: Sequence[int], names: Sequence[str]) -> Tensor:
    """Weights `(classes,)` whose mean over the rows of train is 1.

    Args:
        given: `balanced` for the inverse of each class's share, or one number per class; only ratios matter.
        counts: `(classes,)` number of rows in train.
        names: `(classes,)`, for messages.

    Raises:
        UserError: the number of weights is not that of the classes, or `balanced` with a class that has no row.
    """
    values = given_weights(given)
    if values is None:
        if 0 in counts:
            raise UserError(no_photo("class_weights: balanced", counts, names, "--class_weights null"))
        values = [1 / count for count in counts]
    if len(values) != len(counts):
        raise UserError(
            f"class_weights: expected {len(counts)} numbers, one for each of {', '.join(names)}; found {len(values)}"
        )
    import torch

    weights = torch.tensor(values, dtype=torch.float64)
    rows = torch.tensor(counts, dtype=torch.float64)
    return (weights * rows.sum() / (weights * rows).sum()).float()


def no_photo(key: str, counts: Sequence[int], names: Sequence[str], way: str) -> str:
    """The error message for an option that needs a row of every class."""
    return f"{key}: train has no photo of class {names[list(counts).index(0)]}: leave it out with {way}"
