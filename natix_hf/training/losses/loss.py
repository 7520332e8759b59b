"""What every kind of loss says of itself, and what it is given of a batch.

A kind is a dataclass whose fields are its keys of the recipe, in a file of its own, and stands in `losses.LOSSES`.
Everything else (help, refusals, the lines on options without effect, the topics of `--help`) is derived from these.
The files of losses import torch where they compute, since `--help` reads their keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Rows(NamedTuple):
    """A batch as losses see it."""

    logits: Tensor  # (n, classes) float32, with the prior's adjustment
    labels: Tensor  # (n,) class ids, or (n, classes) probabilities where a loss takes soft labels
    weights: Tensor | None  # (classes,) the loss's own, else those of class_weights
    smoothing: float  # label_smoothing_factor
    positive: int  # id of the positive class
    outputs: Any  # of the model; features (n, feature_size) and projected (n, dimension) where a loss asks for them


class Classes(NamedTuple):
    """The classes of train."""

    names: Sequence[str]
    counts: Sequence[int]  # (classes,) rows
    positive: int


@dataclasses.dataclass(frozen=True)
class Loss:
    """One kind of loss: a mean over the rows of a batch."""

    note: ClassVar[str] = ""  # what the help of `loss` adds to its name
    soft_labels: ClassVar[bool] = False  # it takes rows of probabilities, from mixing
    smoothing: ClassVar[bool] = False  # ... label_smoothing_factor
    weights: ClassVar[bool] = False  # ... class_weights
    features: ClassVar[bool] = False  # it reads features, and leaves the head as it is
    projected: ClassVar[bool] = False  # ... through a projection that is trained along and dropped afterwards
    least_rows: ClassVar[int] = 1  # the least rows of a batch that mean anything to it

    @classmethod
    def of(cls, args: Any) -> Loss:
        """As `NatixTrainingArguments` ask for it."""
        return cls(**{field.name: getattr(args, field.name) for field in dataclasses.fields(cls)})

    def check(self, args: Any) -> None:
        """Raise `UserError` for what bounds alone do not say, before anything is read; only where it is chosen."""

    def own_weights(self, classes: Classes) -> Tensor | None:
        """Class weights `(classes,)` in place of `class_weights`."""

    def lacks_in_train(self, classes: Classes) -> str | None:
        """Why no batch of train could ever have what the loss compares, and what to do; None where it has."""

    def lacks(self, rows: Rows, classes: Classes) -> str | None:
        """What this batch has instead of what the loss compares, which makes it 0; None where it is fine."""

    def __call__(self, rows: Rows) -> Tensor:
        raise NotImplementedError


def smoothed(labels: Tensor, logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """Class ids `(n,)` or probabilities `(n, classes)` as smoothed probabilities `(n, classes)`."""
    from torch.nn import functional as F

    classes = logits.shape[1]
    soft = labels if labels.is_floating_point() else F.one_hot(labels, classes)
    return soft.to(logits.dtype) * (1 - smoothing) + smoothing / classes
