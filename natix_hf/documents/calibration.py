"""`calibration.json`: how logits become probabilities and decisions, with the figures of the fit."""

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
    """A figure with its interval; all three values are always defined."""

    value: float
    low: float
    high: float


class ExpectedAccuracy(Part):
    """Expected accuracy: the mean probability of the decided class. It is correct only if the model is calibrated."""

    as_it_decides: Bounds
    with_this_prior: Bounds


class Candidate(Part):
    """A calibrator that was tried.

    Attributes:
        cv_nll: NLL in nats per photo on held-out groups; None if there was no choice.
        behind: NLL minus that of the best candidate.
        behind_se: standard error of `behind` over groups.
    """

    calibrator: str
    cv_nll: float | None
    behind: float | None = None
    behind_se: float | None = None


class Drift(Part):
    """Test for drift: whether photos differ from those of the calibration in more than their class shares."""

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
    """Class shares of photos without labels, estimated by EM (Saerens et al., 2002), with 95 % intervals.

    Attributes:
        interval_over: what the interval resamples; `photos and calibration` includes the rows of the calibrator's fit.
    """

    estimated: PerClass
    low: PerClass
    high: PerClass
    iterations: Count
    converged: bool
    interval_over: Interval


class Deployment(EstimatedShares):
    """Class shares estimated from a table of predictions that `natix_hf.predict` wrote.

    Attributes:
        skipped: photos that could not be read.
        fingerprint: fingerprint of the table.
    """

    n: Some
    skipped: Count
    fingerprint: str
    expected_accuracy: ExpectedAccuracy
    drift: Drift | None


class Prior(Part):
    """Class shares of the rows of the fit, and the class shares to which probabilities are adjusted."""

    seen: PerClass
    target: list[float] | None
    deployment: Deployment | None = None


class Constraint(Part):
    """The constraint `precision>=P` or `recall>=R` of a threshold, and the values that were reached."""

    measures: str
    least: float
    value: float
    at_half: float
    best: float


class ThresholdCurve(Part):
    threshold: list[float]
    value: list[float]


class HeldOutGain(Part):
    """The gain on held-out groups over threshold 0.5, if thresholds are chosen in this way; `gain_se`: its standard
    error."""

    value: float
    at_half: float
    gain: float
    gain_se: float


class ThresholdChoice(Part):
    """The best threshold for a metric with its interval and curve, whether or not the model uses it."""

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
    """The result of a fit on the same rows, clean or as a challenge profile sends them."""

    calibrator: CalibratorName
    temperature: list[float]
    threshold: float | None
    nll_on: dict[str, float]


class CalibrationFile(Document):
    """How logits become probabilities and decisions.

    Attributes:
        fitted_on: split and part, such as `val_calib/fit`; it has `n` photos in `groups`.
        calibrate_on: `clean`, or the challenge profile that was applied to the rows.
        sent: how the challenge profile read the photos.
        kept: False if the logits are not changed.
        temperature: one value per class.
        logit_bias: added last by the head: `calibrator_bias + prior_bias + threshold_bias`.
        prior_bias: `log(target / seen)` per class; zeros without `target_prior`.
        threshold_bias: `log((1 - t) / t)` for the positive class if the threshold t was moved to 0.5.
        isotonic: for each class the knots `[x, y]` on its softmax probability.
        nll_before, nll_after: nats per photo.
        threshold: on the calibrated probability of the positive class; 0.5 by default.
        compared: results of a fit on clean rows and on rows of the challenge profile.
        options: the decision options of the fit.
        notes: what was not possible, and why.
        cascade: for a cascade: its exit and the calibration of each stage. All other fields are about the combined
            outputs.
        honest_run: for a refit: the run in which this was fitted, before the model was trained on all rows.
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
