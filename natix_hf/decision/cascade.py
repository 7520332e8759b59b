"""A cheap first stage and a dear second one, answering as one classifier.

Works on arrays. The two stages may be the whole photo and the photo with its tiles, or a small and a large model. A
photo has the logits of the first stage where it leaves early (`early_exit`), else those of the second. The two are not
on one scale, so each stage is calibrated on its own, on all rows of `val_calib/fit`: the rows that reach the second
stage alone would be few. What comes of it, the composite, is then treated like the logits of any model: calibrator,
class prior, threshold and the promise of abstention are fitted on it. Its calibrator finds what is left to mend where
the second stage is too sure of the doubtful photos that it sees, and stays `none` where nothing is.

Two promises can rest on the same control rows, that of the exit and that of abstention (`risk_control`). Both hold
together with probability 1 - `risk_delta`: the exit takes its delta out of it. The rows that prove the second promise
have chosen its scores too, along with the band. So the band is one of a few that were fixed beforehand
(`early_exit.candidate_bands`), and abstention is proven for all of them at once; `left_for_risk` gives the terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from natix_hf.decision.calibration import Calibration
from natix_hf.decision.early_exit import (
    NEVER,
    candidate_bands,
    certified_exit,
    exit_confidence,
    exit_line,
    given_exit,
    leaves_early,
)
from natix_hf.decision.fit_calibrator import fit_calibrator
from natix_hf.decision.selective import CURVE_POINTS, share_with_interval
from natix_hf.documents.cascade import STAGES, Cascade, EarlyExit, StageCalibration
from natix_hf.documents.selective import AmountInterval, CascadeFigures, CostCurve
from natix_hf.errors import UserError
from natix_hf.logits import softmax


class StageRows(NamedTuple):
    """Logits `(n, classes)` of both stages before calibration, labels `(n,)`, groups `(n,)` or None."""

    early: np.ndarray
    full: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None


class Composite(NamedTuple):
    """Logits `(n, classes)` of a cascade, calibrated stage by stage, and the stage `(n,)` that gave each: 1 or 2."""

    logits: np.ndarray
    stage: np.ndarray


@dataclass(frozen=True)
class TwoStages:
    """A fitted cascade.

    Args:
        first, second: calibration of each stage, with neither prior nor threshold.
        low, high: the band, as `EarlyExit` has it.
    """

    first: Calibration
    second: Calibration
    low: float | None
    high: float | None

    @classmethod
    def from_document(cls, document: Cascade, positive: int = 1) -> TwoStages:
        """What a `calibration.json` says of a cascade."""
        first, second = (_calibration(stage, positive) for stage in document.stages)
        return cls(first, second, document.exit.low, document.exit.high)

    def leaves_early(self, early: np.ndarray) -> np.ndarray:
        """Which photos need no second stage, `(n,)` bool, from the first one's logits `(n, classes)`."""
        return leaves_early(softmax(self.first.calibrated(early)), self.low, self.high, self.first.positive)

    def composite(self, early: np.ndarray, full: np.ndarray) -> Composite:
        """The cascade's answer to each photo.

        Args:
            early: `(n, classes)` logits of the first stage.
            full: `(n, classes)` of the second; rows of photos that leave early are not read.
        """
        leaves = self.leaves_early(early)
        logits = self.first.calibrated(early)
        logits[~leaves] = self.second.calibrated(full[~leaves])
        return Composite(logits, np.where(leaves, 1, 2))


def fit_cascade(
    fit: StageRows,
    control: StageRows,
    views_exit: Literal["risk"] | tuple[float, float],
    *,
    alpha: float,
    delta: float = 0.05,
    calibrators: Sequence[str] = ("temperature",),
    positive: int = 1,
    class_names: Sequence[str] | None = None,
    offsets: Sequence[np.ndarray | None] = (None, None),
    other_promise: bool = False,
    cost: Sequence[float] = (1.0, 9.0),
    cost_in: str = "views",
    fitted_on: str = "val_calib/control",
) -> Cascade:
    """Calibrate both stages on some rows and choose on others which photos leave early.

    Args:
        fit: rows of the calibrators, and of the bands to choose from.
        control: rows of the promise; nothing else may have read them.
        views_exit: `risk`, or a band `(low, high)`, which promises nothing.
        alpha: the largest share of all photos that may leave with a wrong answer where the second stage is right.
        delta: how likely that promise may fail.
        calibrators: candidates for each stage, as `fit_calibrator` takes them.
        positive: class id.
        class_names: for the lines, `(classes,)`.
        offsets: `(classes,)` of each stage, added to its logits first, as `fit_calibrator` has it.
        other_promise: whether a promise of abstention will rest on the same control rows.
        cost: of the first stage, and what the second adds; `cost_in`, the unit.
        fitted_on: what the control rows are called.

    Raises:
        UserError: as `fit_calibrator`, `certified_exit` and `given_exit`.
    """
    kept = {"positive": positive, "class_names": class_names}
    fits = {
        name: fit_calibrator(logits, fit.labels, fit.groups, calibrators, offset=offset, **kept)
        for name, logits, offset in zip(STAGES, fit[:2], offsets, strict=True)
    }
    first, second = (one.calibration for one in fits.values())
    judged = softmax(first.calibrated(control.early)), softmax(second.calibrated(control.full)), *control[2:]
    about = {"positive": positive, "cost": cost, "cost_in": cost_in, "fitted_on": fitted_on}
    if views_exit == "risk":
        bands = candidate_bands(softmax(first.calibrated(fit.early)), positive) if other_promise else None
        found = certified_exit(*judged, alpha=alpha, delta=delta, candidates=bands, **about)
    else:
        found = given_exit(*judged, views_exit, **about)
    named = {"name": class_names[positive]} if class_names else {}
    notes = [f"{name} stage: {note}" for name, one in fits.items() for note in one.notes]
    return Cascade(exit=found, stages=[_stage(first), _stage(second)], lines=[exit_line(found, **named), *notes])


class LeftForRisk(NamedTuple):
    """What `control_risk` is to be called with for the composite of a cascade."""

    delta: float
    chosen_among: int


def left_for_risk(found: EarlyExit, risk_delta: float) -> LeftForRisk:
    """The terms of a promise of abstention beside that of the exit, on the same control rows.

    Args:
        found: the exit.
        risk_delta: how likely it may be that one of the two promises fails.

    Raises:
        UserError: the exit leaves nothing of it.
        ValueError: the band was chosen among all bands, so that no second promise can rest on these rows.
    """
    if found.candidates is None:
        raise ValueError("the band was chosen among all bands: fit the cascade with other_promise=True")
    if not found.certified:
        return LeftForRisk(risk_delta, found.candidates)
    check_deltas(found.delta, risk_delta)
    return LeftForRisk(risk_delta - found.delta, found.candidates)


def check_deltas(exit_delta: float, risk_delta: float) -> None:
    """Raise `UserError` where the promise of the exit leaves nothing for that of abstention."""
    if exit_delta >= risk_delta:
        raise UserError(
            f"views_exit_delta: {exit_delta:g} given, less than risk_delta ({risk_delta:g}) expected: it is the part "
            f"of it that early exits take; try --views_exit_delta {risk_delta / 2:g}"
        )


def cost_curve(
    confidence: np.ndarray, first_wrong: np.ndarray, second_wrong: np.ndarray, cost: Sequence[float]
) -> CostCurve:
    """Cost and error of a cascade at every band, thinned to `CURVE_POINTS`.

    Args:
        confidence: `(n,)`, what photos leave by (`early_exit.exit_confidence`).
        first_wrong, second_wrong: `(n,)` bool, where the answer of each stage is wrong.
        cost: of the first stage, and what the second adds.
    """
    n, order = len(confidence), np.argsort(-confidence, kind="stable")
    confidence, first_wrong, second_wrong = confidence[order], first_wrong[order], second_wrong[order]
    leaving = np.r_[0, np.flatnonzero(np.diff(confidence)) + 1, n]  # photos of equal confidence leave together
    at = np.unique(np.linspace(0, len(leaving) - 1, CURVE_POINTS).round().astype(int))
    leaving = leaving[at]

    def among_the_first(rows: np.ndarray) -> np.ndarray:
        return np.r_[0, np.cumsum(rows)][leaving]

    error = among_the_first(first_wrong) + second_wrong.sum() - among_the_first(second_wrong)
    return CostCurve(
        high=np.r_[NEVER, confidence][leaving].tolist(),
        early=(leaving / n).tolist(),
        cost=(cost[0] + cost[1] * (1 - leaving / n)).tolist(),
        error=(error / n).tolist(),
        loss=(among_the_first(first_wrong & ~second_wrong) / n).tolist(),
    )


def cascade_figures(
    document: Cascade, rows: StageRows, positive: int = 1, *, n_boot: int = 1000, seed: int = 0
) -> CascadeFigures:
    """What a cascade gives on rows that it was not fitted on, with intervals over resampled groups.

    Answers are those of the largest calibrated probability of a stage, as the exit's promise has them.

    Args:
        document: the fitted cascade.
        rows: such as `val_test`.
        positive: class id.
    """
    stages, found, labels = TwoStages.from_document(document, positive), document.exit, np.asarray(rows.labels)
    early, full = softmax(stages.first.calibrated(rows.early)), stages.second.calibrated(rows.full)
    first_wrong, second_wrong = early.argmax(axis=1) != labels, full.argmax(axis=1) != labels
    leaves = leaves_early(early, found.low, found.high, positive)
    everything, lost = np.ones(len(labels), dtype=bool), leaves & first_wrong & ~second_wrong

    def rate(of: np.ndarray, among: np.ndarray = everything):
        return share_with_interval(of, among, rows.groups, n_boot=n_boot, seed=seed)

    share = rate(leaves)
    cheap, dear = (found.cost[0] + found.cost[1] * (1 - end) for end in (share.high, share.low))
    return CascadeFigures(
        low=found.low,
        high=found.high,
        alpha=found.alpha,
        certified=found.certified,
        early=share,
        loss=rate(lost),
        loss_of_early=rate(lost, leaves),
        error=rate(np.where(leaves, first_wrong, second_wrong)),
        error_of_first=rate(first_wrong),
        error_of_second=rate(second_wrong),
        cost=found.cost,
        cost_in=found.cost_in,
        mean_cost=AmountInterval(value=found.cost[0] + found.cost[1] * (1 - share.value), low=cheap, high=dear),
        curve=cost_curve(exit_confidence(early, positive), first_wrong, second_wrong, found.cost),
    )


def _stage(calibration: Calibration) -> StageCalibration:
    knots = calibration.isotonic
    return StageCalibration(
        calibrator=calibration.calibrator,
        temperature=calibration.temperature.tolist(),
        bias=calibration.calibrator_bias.tolist(),
        isotonic=[[x.tolist(), y.tolist()] for x, y in knots] if knots else None,
    )


def _calibration(stage: StageCalibration, positive: int) -> Calibration:
    zeros = np.zeros(len(stage.bias))
    return Calibration(
        calibrator=stage.calibrator,
        temperature=np.array(stage.temperature),
        calibrator_bias=np.array(stage.bias),
        prior_bias=zeros,
        threshold_bias=zeros,
        positive=positive,
        isotonic=tuple((np.array(x), np.array(y)) for x, y in stage.isotonic) if stage.isotonic else None,
    )
