"""`calibration.json`: how logits become probabilities and decisions, and what that did to the rows of its fit."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from natix_hf.documents.cascade import Cascade
from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Count, PerClass, Positive, Share, Some
from natix_hf.documents.guarantee import Guarantee
from natix_hf.options import RecipeValue

CalibratorName = Literal["none", "temperature", "vector", "isotonic"]
Interval = Literal["photos", "photos and calibration"]


class Bounds(Part):
    """A figure with its interval; all three are always defined."""

    value: float
    low: float
    high: float


class ExpectedAccuracy(Part):
    """Mean probability of the class that was decided for; takes calibration for granted."""

    as_it_decides: Bounds
    with_this_prior: Bounds


class Candidate(Part):
    """A calibrator that was tried.

    Attributes:
        cv_nll: nats a photo, on held-out groups; None where there was nothing to choose.
        behind: how much worse than the best, and `behind_se`, the standard error of that over groups.
    """

    calibrator: str
    cv_nll: float | None
    behind: float | None = None
    behind_se: float | None = None


class Drift(Part):
    """Whether photos differ from those of the calibration in more than their class shares."""

    distance: float
    p: float
    expected: float
    n: Count
    groups: Count
    reference_n: Count
    reference_groups: Count
    found: bool
    line: str


class EstimatedShares(Part):
    """Class shares among photos without labels, by EM (Saerens et al., 2002), with 95 % intervals.

    Attributes:
        interval_over: what the interval resamples; `photos and calibration`: the rows of the calibrator's fit too.
    """

    estimated: PerClass
    low: PerClass
    high: PerClass
    iterations: Count
    converged: bool
    interval_over: Interval


class Deployment(EstimatedShares):
    """The same from a table of predictions that `natix_hf.predict` wrote.

    Attributes:
        skipped: photos that could not be read.
        fingerprint: of the table.
    """

    n: Some
    skipped: Count
    fingerprint: str
    expected_accuracy: ExpectedAccuracy
    drift: Drift | None


class Prior(Part):
    """Class shares of the rows of the fit, and those that probabilities are moved to."""

    seen: PerClass
    target: list[float] | None
    deployment: Deployment | None = None


class Constraint(Part):
    """What `precision>=P` or `recall>=R` asks for, and what there is of it."""

    measures: str
    least: float
    value: float
    at_half: float
    best: float


class ThresholdCurve(Part):
    threshold: list[float]
    value: list[float]


class HeldOutGain(Part):
    """What thresholds chosen so are worth on held-out groups, beside 0.5; `gain_se` is a standard error."""

    value: float
    at_half: float
    gain: float
    gain_se: float


class ThresholdChoice(Part):
    """The best threshold for a metric, used or not, with its interval and the curve."""

    metric: str
    measures: str
    threshold: float
    low: float
    high: float
    value: float
    value_low: float
    value_high: float
    at_half: float
    n: Count
    groups: Count
    reachable: bool
    constraint: Constraint | None
    curve: ThresholdCurve
    held_out: HeldOutGain | None


class Compared(Part):
    """What rows as they are, or as a challenge sends them, would have given."""

    calibrator: CalibratorName
    temperature: list[float]
    threshold: float | None
    nll_on: dict[str, float]


class CalibrationFile(Document):
    """How logits become probabilities and decisions.

    Attributes:
        fitted_on: split and part, such as `val_calib/fit`; `n` photos in `groups`.
        calibrate_on: `clean`, or the challenge profile as which the rows were sent.
        sent: how the challenge profile took the photos.
        kept: False: the logits stay as they are.
        temperature: one a class.
        logit_bias: what the head adds last: `calibrator_bias + prior_bias + threshold_bias`.
        prior_bias: `log(target / seen)` of each class; zeros without `target_prior`.
        threshold_bias: `log((1 - t) / t)` for the positive class where the threshold t was moved to 0.5.
        isotonic: for each class the knots `[x, y]` on its softmax probability.
        nll_before, nll_after: nats a photo.
        threshold: on the calibrated probability of the positive class; 0.5 unless another one is used.
        compared: what clean rows would have given beside the rows of the challenge profile.
        options: the decision options that this was fitted with.
        notes: what could not be done, and why.
        cascade: of two stages: which photos keep the first one's answer, and the calibration of each; all else here is
            about the answers of both together.
        honest_run: of a refit: the run that this was fitted in, before the model was trained on all rows.
    """

    file_name: ClassVar[str] = "calibration.json"
    mend: ClassVar[str] = "python -m natix_hf.calibrate {folder} writes it"
    edition: ClassVar[int] = 2

    fitted_on: str
    calibrate_on: str
    sent: str | None = None
    calibrator: CalibratorName
    kept: bool
    candidates: list[Candidate]
    n: Count
    groups: Count
    positive: Count
    temperature: Annotated[list[Positive], Field(min_length=2)]
    isotonic: (
        Annotated[list[Annotated[list[list[float]], Field(min_length=2, max_length=2)]], Field(min_length=2)] | None
    )
    nll_before: Amount
    nll_after: Amount
    ece_before: Share
    ece_after: Share
    prior: Prior
    threshold: Annotated[float, Field(gt=0, lt=1)]
    threshold_choice: ThresholdChoice | None
    folded: bool
    calibrator_bias: PerClass
    prior_bias: PerClass
    threshold_bias: PerClass
    logit_bias: PerClass
    notes: list[str]
    guarantee: Guarantee | None
    compared: dict[str, Compared] | None
    options: dict[str, RecipeValue]
    honest_run: str | None = None
    cascade: Cascade | None = None
