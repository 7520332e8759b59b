"""`metrics.json`: the figures of `val_test`, with intervals."""

from __future__ import annotations

from typing import ClassVar, Literal

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Count, Figures, Interval, Measured


class Uncalibrated(Part):
    """The same rows without temperature and bias."""

    log_loss: Amount
    ece: Amount


class Stage(Part):
    step: Literal["uncalibrated", "calibrator", "prior", "threshold"]
    figures: dict[str, Interval]


class Stages(Part):
    """What calibrator, prior and threshold did to the figures, at the class shares that the model is meant for."""

    shares: list[float]
    n: int
    groups: int
    steps: list[Stage]


class FinalFigures(Document, Measured):
    """What the model does on photos that nothing was chosen by.

    Attributes:
        labels: photos of each class, in the order of the ids.
        times_read_before: how many other models' final figures these rows had given on this machine.
        honest_run: of a refit: the run that these figures are of.
    """

    file_name: ClassVar[str] = "metrics.json"
    mend: ClassVar[str] = "python -m natix_hf.evaluate {folder} writes it"

    labels: dict[str, Count]
    metrics: Figures
    uncalibrated: Uncalibrated
    times_read_before: Count
    honest_run: str | None = None
    stages: Stages | None = None
