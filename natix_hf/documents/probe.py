"""`probe.json`, the heads that a probe compared, and `over_probe.json`, the gain of fine-tuning over the probe."""

from __future__ import annotations

from typing import ClassVar, Literal

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Difference, Interval, Positive, Some


class HeadSetting(Part):
    pooling: Literal["cls", "mean", "cls_mean"]
    layers: Some
    learning_rate: Positive
    weight_decay: Amount


class LogisticRegression(Part):
    """Logistic regression by L-BFGS on the same features, as a check."""

    C: float
    log_loss: float
    mcc: float
    accuracy: float


class ProbeSearch(Document):
    """The heads of a grid, and the chosen one.

    Attributes:
        rows, judged: number of photos for training the heads, and for comparing them.
        reference_batch: batch size to which the learning rates refer.
        heads: settings and scores of each head; a score is None if the head diverged. None for a refit, which compares
            no heads.
    """

    file_name: ClassVar[str] = "probe.json"

    rows: Some
    steps: Some
    batch: Some
    judged: Some | None = None
    heads: list[dict[str, float | str | None]] | None = None
    lbfgs: LogisticRegression | None = None
    chosen: HeadSetting
    reference_batch: int


class OverProbeFigure(Part):
    probe: Interval
    tuned: Interval
    difference: Difference


class OverProbe(Document):
    """The gain of fine-tuning over the probe that it started from, on the same rows."""

    file_name: ClassVar[str] = "over_probe.json"

    split: Literal["val_test"]
    n: Some
    groups: Some
    metrics: dict[str, OverProbeFigure]
