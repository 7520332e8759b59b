"""Documents of a cascade: which photos leave after the first stage, the guarantee for them, and the cost.

For a cascade of two models, `cascade.json` also describes the models.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Count, Level, PerClass, Positive, Share, Some
from natix_hf.documents.photo_cost import PhotoCost

STAGES = ("first", "second")  # subfolders of the two models in the folder of a cascade


class EarlyExit(Part):
    """The band of the first stage's calibrated probability inside which the second stage is run.

    Attributes:
        asked: `risk`: the band was chosen for a guarantee; `band`: the user gave the band, without a guarantee.
        low: for two classes: a photo leaves early if the probability of the positive class is at most this; None for
            more classes.
        high: a photo leaves early if that probability (for more classes: the largest one) is at least this; above 1:
            never. None: the guarantee is not reachable, so no photo leaves early.
        alpha: the largest guaranteed loss; None for a given band.
        delta: probability that the guarantee fails, over draws of whole groups.
        certified: whether the guarantee holds; `reason` says why not.
        smallest_alpha: the smallest alpha that these rows could certify if no exit were harmful.
        candidates: number of bands that were compared on these rows. A guarantee of abstention on the same rows
            divides its delta by this number. None: all bands were compared, so these rows can give no other guarantee.
        largest: photos in the largest group.
        effective: `n / largest`, the effective number of groups in a bound.
        early: share of photos that leave early.
        loss: share of all photos that leave early with a wrong answer although the second stage is right. Measured on
            the rows that chose the band, so it proves nothing.
        loss_of_early: the same as a share of the photos that leave early; None if none does.
        cost: cost of the first stage, and additional cost of the second, in the unit `cost_in`.
        mean_cost: mean cost per photo.
    """

    asked: Literal["risk", "band"]
    low: float | None
    high: float | None
    alpha: Level | None
    delta: Level | None
    certified: bool
    reason: str | None
    smallest_alpha: Share | None
    candidates: Some | None
    fitted_on: str
    n: Some
    groups: Some
    largest: Count
    effective: Amount
    early: Share
    loss: Share
    loss_of_early: Share | None
    cost: Annotated[list[Amount], Field(min_length=2, max_length=2)]
    cost_in: str
    mean_cost: Amount


class StageCalibration(Part):
    """The calibration of one stage, before any class prior or threshold.

    Attributes:
        temperature: one value per class.
        bias: one value per class, added last.
        isotonic: for each class the knots `[x, y]` on its softmax probability.
    """

    calibrator: str
    temperature: Annotated[list[Positive], Field(min_length=2)]
    bias: PerClass
    isotonic: list[list[list[float]]] | None


class Cascade(Part):
    """A fitted cascade: the exit, and the calibration of the first and of the second stage.

    Attributes:
        lines: sentences about the guarantee and the cost.
    """

    exit: EarlyExit
    stages: Annotated[list[StageCalibration], Field(min_length=2, max_length=2)]
    lines: list[str] = Field(default_factory=list)


class StageModel(Part):
    """One of the two models of a cascade, copied from a run.

    Attributes:
        run: name of the run's folder.
        bytes: size of the weights.
        training_shares: class shares to which its logits belong, from `run.json`.
        cost: cost per photo.
    """

    run: str
    parameters: Some
    bytes: Some
    training_shares: list[Positive] | None
    cost: PhotoCost


class TwoModels(Document):
    """The two models in the subfolders `first` and `second` of a cascade.

    `calibration.json` holds their band and calibrations, as for a cascade of views.
    """

    file_name: ClassVar[str] = "cascade.json"
    mend: ClassVar[str] = "make the cascade again: python -m natix_hf.calibrate --cascade SMALL LARGE --output FOLDER"

    first: StageModel
    second: StageModel

    @property
    def models(self) -> tuple[StageModel, StageModel]:
        return self.first, self.second

    @property
    def costs(self) -> tuple[PhotoCost, PhotoCost]:
        return self.first.cost, self.second.cost

    @property
    def gigaflop(self) -> tuple[float, float]:
        """Cost per photo of each model in GFLOP."""
        return self.first.cost.flop / 1e9, self.second.cost.flop / 1e9

    def both(self) -> PhotoCost | None:
        """Cost of a photo that both models see; None if they were timed on different devices."""
        first, second = self.costs
        if (first.device, first.batch) != (second.device, second.batch):
            return None
        added = {name: getattr(first, name) + getattr(second, name) for name in ("views", "tokens", "flop", "seconds")}
        return second.model_copy(update=added)


def cost_text(cost: float) -> str:
    """Views or GFLOP per photo as text: two decimals, below 1 three significant digits."""
    return f"{cost:.2f}" if cost >= 1 else f"{cost:.3g}"
