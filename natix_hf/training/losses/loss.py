"""The interface of losses: what each kind declares, and the input that it gets.

A kind is a dataclass in its own file and is listed in `losses.LOSSES`. Its fields are its options in a recipe. Help,
most checks and the warning about options without effect follow from these declarations. Files of losses import torch
inside functions, because `--help` reads their options.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Rows(NamedTuple):
    """A batch, the input of a loss."""

    logits: Tensor  # (n, classes) float32, with the logit adjustment
    labels: Tensor  # (n,) class ids, or (n, classes) probabilities if the loss supports soft labels
    weights: Tensor | None  # (classes,) weights of this loss, else those of class_weights
    smoothing: float  # label_smoothing_factor
    positive: int  # id of the positive class
    outputs: Any  # of the model; with features (n, feature_size) and projected (n, dimension) if a loss needs them


class Classes(NamedTuple):
    """The classes of the training rows."""

    names: Sequence[str]
    counts: Sequence[int]  # (classes,) rows
    positive: int


@dataclasses.dataclass(frozen=True)
class Loss:
    """One kind of loss: a mean over the rows of a batch."""

    note: ClassVar[str] = ""  # added to its name in the help of `loss`
    soft_labels: ClassVar[bool] = False  # supports rows of probabilities, from mixing
    smoothing: ClassVar[bool] = False  # supports label_smoothing_factor
    weights: ClassVar[bool] = False  # supports class_weights
    features: ClassVar[bool] = False  # uses features, and does not train the head
    projected: ClassVar[bool] = False  # uses features through a projection that is dropped after training
    least_rows: ClassVar[int] = 1  # smallest batch for which the loss is defined

    @classmethod
    def of(cls, args: Any) -> Loss:
        """Build the loss from `NatixTrainingArguments`."""
        return cls(**{field.name: getattr(args, field.name) for field in dataclasses.fields(cls)})

    def check(self, args: Any) -> None:
        """Raise `UserError` for invalid options beyond their bounds, before any data is read; called if chosen."""

    def own_weights(self, classes: Classes) -> Tensor | None:
        """Class weights `(classes,)` to use instead of `class_weights`."""

    def lacks_in_train(self, classes: Classes) -> str | None:
        """Why the training rows give the loss nothing to compare, and what to do; None if they do."""

    def lacks(self, rows: Rows, classes: Classes) -> str | None:
        """What the batch contains if the loss has nothing to compare in it and is 0; None otherwise."""

    def __call__(self, rows: Rows) -> Tensor:
        raise NotImplementedError


def smoothed(labels: Tensor, logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """Smoothed probabilities `(n, classes)` from class ids `(n,)` or probabilities `(n, classes)`."""
    from torch.nn import functional as F

    classes = logits.shape[1]
    soft = labels if labels.is_floating_point() else F.one_hot(labels, classes)
    return soft.to(logits.dtype) * (1 - smoothing) + smoothing / classes
