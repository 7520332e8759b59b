"""What a cascade leaves behind: which photos keep the first stage's answer, what is promised of it, what it costs.

Of two models it is also told which they are, in `cascade.json`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Count, Level, PerClass, Positive, Share, Some
from natix_hf.documents.photo_cost import PhotoCost

STAGES = ("first", "second")  # folders of the two models within that of their cascade


class EarlyExit(Part):
    """The band of the first stage's calibrated probability within which the second stage is asked.

    Attributes:
        asked: `risk`: the band was chosen for the promise; `band`: it was given, and nothing is promised.
        low: of two classes: a photo leaves early where the probability of the positive class is at most this; None
            with more classes.
        high: a photo leaves early where that probability (with more than two classes the largest one) is at least
            this; above 1: never. None: out of reach, no photo leaves early.
        alpha: the largest loss that is promised; None for a given band.
        delta: how likely the promise may fail, over draws of whole groups.
        certified: whether the promise stands; `reason` says why not.
        smallest_alpha: what these rows could certify without a harmful exit.
        candidates: bands among which these rows chose; a promise of abstention on the same rows shares its delta
            among as many. None: among all of them, no other promise can rest on these rows.
        largest: photos of the largest group.
        effective: `n / largest`, how many groups of that size the photos weigh in a bound.
        early: share of photos that leave early.
        loss: share of all photos that leave early with a wrong answer where the second stage is right; measured on
            the rows of the choice, no proof.
        loss_of_early: the same as a share of the photos that leave early; None where none does.
        cost: of the first stage, and what the second adds to it, in the unit `cost_in`.
        mean_cost: of a photo.
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
    """What brings the logits of one stage to the scale of probabilities, before any class prior or threshold.

    Attributes:
        temperature: one a class.
        bias: one a class, added last.
        isotonic: for each class the knots `[x, y]` on its softmax probability.
    """

    calibrator: str
    temperature: Annotated[list[Positive], Field(min_length=2)]
    bias: PerClass
    isotonic: list[list[list[float]]] | None


class Cascade(Part):
    """A fitted cascade: the exit, and the calibration of the first and of the second stage.

    Attributes:
        lines: the promise and the cost, in words.
    """

    exit: EarlyExit
    stages: Annotated[list[StageCalibration], Field(min_length=2, max_length=2)]
    lines: list[str] = Field(default_factory=list)


class StageModel(Part):
    """One of the two models of a cascade, copied from a run.

    Attributes:
        run: name of that run's folder.
        bytes: of its weights.
        training_shares: class shares to which its logits belong, as `run.json` has them.
        cost: of a photo.
    """

    run: str
    parameters: Some
    bytes: Some
    training_shares: list[Positive] | None
    cost: PhotoCost


class TwoModels(Document):
    """Which two models a folder holds, in its subfolders `first` and `second`.

    Their band and the calibration of each stand in `calibration.json`, as those of a cascade of views do.
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
        """What a photo costs in each of the models, in GFLOP."""
        return self.first.cost.flop / 1e9, self.second.cost.flop / 1e9

    def both(self) -> PhotoCost | None:
        """What a photo costs that is seen by both; None where they were timed on different devices."""
        first, second = self.costs
        if (first.device, first.batch) != (second.device, second.batch):
            return None
        added = {name: getattr(first, name) + getattr(second, name) for name in ("views", "tokens", "flop", "seconds")}
        return second.model_copy(update=added)


def cost_text(cost: float) -> str:
    """Views or GFLOP a photo: two decimals, below 1 three digits."""
    return f"{cost:.2f}" if cost >= 1 else f"{cost:.3g}"
