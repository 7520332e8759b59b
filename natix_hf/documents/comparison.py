"""`comparison.json`: runs on the same rows of `val_test`, each compared with the first run."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Count, Difference, Figures, Measured, Metric, Share, Some
from natix_hf.documents.photo_cost import PhotoCost


class Cost(Part):
    """Cost of a run.

    Attributes:
        megabytes: size of `model.safetensors`; for a cascade, of both models.
        latency_p50: median seconds per photo, reading included, from `robustness.json`; None: not measured.
        photo: views, tokens, operations and seconds per photo; for a cascade, of a photo that both models see. None: a
            run of an older release, or models that were timed on different devices.
    """

    method: str | None
    parameters: int | None
    trainable_parameters: int | None
    megabytes: float | None
    training_seconds: float | None
    latency_p50: float | None
    times_read_before: Count
    photo: PhotoCost | None = None


class ComparedRun(Part):
    name: str
    cost: Cost
    metrics: Figures


class McNemar(Part):
    """McNemar's test: photos on which only one of two runs is right.

    Attributes:
        p: exact p-value if photos are independent.
        p_groups: exact p-value over whole groups (sign flips).
        groups: number of groups with a surplus of one of the two.
    """

    only_first: Count
    only_second: Count
    p: Share
    p_groups: Share
    groups: Count


class JudgedDifference(Difference):
    better: Literal["first", "this"] | None  # None: the interval contains 0, or there are few rows


class SliceDifference(Part):
    column: str
    value: str
    n: Some
    groups: Some
    small: bool
    accuracy: JudgedDifference
    balanced_accuracy: JudgedDifference
    log_loss: JudgedDifference


class DifferingPhoto(Part):
    id: str
    label: str
    first: str
    this: str
    first_p: Share
    this_p: Share


class BesideFirst(Part):
    """A run compared with the first.

    Attributes:
        decisions: number of photos by decision of the first run (rows) and of this run (columns).
        kappa: Cohen's kappa.
        differ: number of photos on which the decisions differ.
        photos: at most 100 of them, in descending order of the difference in the probability of the label.
    """

    name: str
    difference: dict[Metric, JudgedDifference]
    mcnemar: McNemar
    right: dict[str, Count]
    decisions: list[list[int]]
    agreement: Share
    kappa: float | None
    slices: list[SliceDifference]
    differ: Count
    photos: list[DifferingPhoto]


class Comparison(Document, Measured):
    """A comparison of runs. Each difference is a run minus the first run."""

    file_name: ClassVar[str] = "comparison.json"

    labels: dict[str, Count]
    runs: Annotated[list[ComparedRun], Field(min_length=2)]
    agreement: list[list[Share]]
    first: str
    beside_first: Annotated[list[BesideFirst], Field(min_length=1)]
    notes: list[str]
