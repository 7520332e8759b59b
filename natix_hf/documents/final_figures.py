"""`metrics.json`: the figures of `val_test`, with intervals."""

from __future__ import annotations

from typing import ClassVar, Literal

from natix_hf.documents.document import MADE_BY_EVALUATE, Document, Part
from natix_hf.documents.figures import Amount, Count, Figures, Interval, Measured


class Uncalibrated(Part):
    """Figures of the same rows without calibration."""

    log_loss: Amount
    ece: Amount


class Stage(Part):
    step: Literal["uncalibrated", "calibrator", "prior", "threshold"]
    figures: dict[str, Interval]


class Stages(Part):
    """The effect of calibrator, prior and threshold on the figures, at the class shares of the intended use."""

    shares: list[float]
    n: int
    groups: int
    steps: list[Stage]


class FinalFigures(Document, Measured):
    """Figures of the model on photos that no choice was based on.

    Attributes:
        labels: number of photos of each class, in the order of the ids.
        times_read_before: how often these rows were used before for final figures of other models on this machine.
        honest_run: for a refit: the run that was measured.
    """

    file_name: ClassVar[str] = "metrics.json"
    mend: ClassVar[str] = MADE_BY_EVALUATE

    labels: dict[str, Count]
    metrics: Figures
    uncalibrated: Uncalibrated
    times_read_before: Count
    honest_run: str | None = None
    stages: Stages | None = None
