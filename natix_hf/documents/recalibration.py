"""`recalibration.json`: the result of recalibrating a finished model on the user's own photos."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import model_validator

from natix_hf.documents.before_and_after import BeforeAndAfter
from natix_hf.documents.calibration import Drift, EstimatedShares, ExpectedAccuracy
from natix_hf.documents.document import Document, Part
from natix_hf.documents.export import ImageSize
from natix_hf.documents.figures import Classes, Count, Left, PerClass
from natix_hf.documents.guarantee import Guarantee


class OwnPhotosCounted(Part):
    """The photos that were used.

    Attributes:
        known: split of the model's own data -> number of photos that were left out because they are in it.
        ties: kind of tie -> number of ties.
    """

    n: Count
    groups: Count
    broken: list[Left]
    known: dict[str, Count]
    ties: dict[str, Count]


class OwnShares(EstimatedShares):
    seen: PerClass


class Recalibration(Document):
    """With labels: a new calibration and its figures. Without labels: class shares, expected accuracy and drift.

    Attributes:
        source: name of the recalibrated model.
        seed: seed of the halves and of the intervals.
        drift: None if there was nothing to compare with.
        image_size: image size of the photos; absent in older files.
        views: further views, besides the photo itself, over which the logits were averaged.
    """

    file_name: ClassVar[str] = "recalibration.json"

    source: str
    labelled: bool
    classes: Classes
    positive: Count
    seed: int
    photos: OwnPhotosCounted
    figures: BeforeAndAfter | None = None
    guarantee: Guarantee | None = None
    prior: OwnShares | None = None
    expected_accuracy: ExpectedAccuracy | None = None
    drift: Drift | None = None
    image_size: ImageSize | None = None
    views: list[str] | None = None

    @model_validator(mode="after")
    def _labels_give_figures(self) -> Self:
        if self.labelled and self.figures is None:
            raise ValueError("labelled, but no figures")
        return self
