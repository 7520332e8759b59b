"""`find_lr.json`: the curve of a learning-rate range test on `train`, and what it suggests."""

from __future__ import annotations

from typing import ClassVar, Literal

from natix_hf.documents.document import Document
from natix_hf.documents.figures import Positive, Some


class LearningRates(Document):
    """Losses over rising learning rates.

    Attributes:
        rule: how the suggestion follows from the curve.
        suggestion: None: the loss never fell by more than its noise.
        steepest, lowest: where the smoothed loss falls most steeply, and where it is lowest.
        risen: where it is back at its start; None: nowhere.
        diverged: whether the test ended because the loss did.
        rates, losses, smoothed: one a step.
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
