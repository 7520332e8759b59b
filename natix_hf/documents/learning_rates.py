"""`find_lr.json`: the curve of a learning-rate range test on `train`, and the learning rate that it suggests."""

from __future__ import annotations

from typing import ClassVar, Literal

from natix_hf.documents.document import Document
from natix_hf.documents.figures import Positive, Some


class LearningRates(Document):
    """Losses over increasing learning rates.

    Attributes:
        rule: how the suggestion follows from the curve.
        suggestion: suggested learning rate; None if the loss never fell by more than its noise.
        steepest: learning rate at which the smoothed loss falls fastest.
        lowest: learning rate at which the smoothed loss is lowest.
        risen: learning rate at which the smoothed loss is back at its first value; None if it is never.
        diverged: whether the test ended because the loss diverged.
        rates, losses, smoothed: one value per step.
    """

    file_name: ClassVar[str] = "find_lr.json"

    rule: str
    suggestion: Positive | None
    steepest: Positive | None
    lowest: Positive | None
    risen: Positive | None
    diverged: bool
    rates: list[Positive]
    losses: list[float]
    smoothed: list[float]
    photos_a_step: Some
    optim: str
    method: Literal["lora", "probe", "full"]
    seed: int
