"""`comparison.json`: runs on the same rows of `val_test`, each beside the first of them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Count, Difference, Figures, Measured, Metric, Share, Some
from natix_hf.documents.photo_cost import PhotoCost


class Cost(Part):
    """What a run took.

    Attributes:
        megabytes: of `model.safetensors`; of a cascade, of both models.
        latency_p50: seconds a photo from its bytes on, from `robustness.json`; None: not measured.
        photo: views, tokens, operations and seconds a photo; of a cascade, of one that both models see. None: a run of
            an older release, or models that were timed on different devices.
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
    """Photos that one of two runs answers rightly.

    Attributes:
        p: exact, photos taken for independent.
        p_groups: exact, whole groups (sign flips).
        groups: with a surplus of one of the two.
    """

    only_first: Count
    only_second: Count
    p: Share
    p_groups: Share
    groups: Count


class JudgedDifference(Difference):
    better: Literal["first", "this"] | None  # None: the interval holds 0, or few rows


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
    """A run beside the first.

    Attributes:
        decisions: photos by decision of the first (rows) and of this run (columns).
        kappa: Cohen's.
        differ: photos on which the decisions differ.
        photos: at most 100 of them, those first on which the probabilities of the label lie furthest apart.
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
    """Differences are those of a run less those of the first."""

    file_name: ClassVar[str] = "comparison.json"

    labels: dict[str, Count]
    runs: Annotated[list[ComparedRun], Field(min_length=2)]
    agreement: list[list[Share]]
    first: str
    beside_first: Annotated[list[BesideFirst], Field(min_length=1)]
    notes: list[str]
