"""A cascade: a cheap first stage and an expensive second stage that act as one classifier.

Works on arrays. The stages may be the whole photo and the photo with its tiles, or a small and a large model. A photo
gets the logits of the first stage if it leaves early (`early_exit`), otherwise those of the second. The stages are not
on the same scale, so each is calibrated separately, on all rows of `val_calib/fit`, because only few rows reach the
second stage. The result, the composite, is then treated like the logits of any model: calibrator, class prior,
threshold and abstention guarantee are fitted on it. Its calibrator corrects a second stage that is overconfident on
the doubtful photos it sees, and stays `none` otherwise.

Two guarantees can use the same control rows: early exits and abstention (`risk_control`). Both hold together with
probability 1 - `risk_delta`, of which the exit uses its own delta. The rows that prove the second guarantee have also
chosen the band, and with it the scores. Therefore the band is one of a few that are fixed beforehand
(`early_exit.candidate_bands`), and abstention is proven for all of them at once. `left_for_risk` gives the terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from natix_hf.decision.calibration import Calibration, knots_of
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
    """Logits `(n, classes)` of a cascade, each stage calibrated, and the stage of each row, `(n,)`: 1 or 2."""

    logits: np.ndarray
    stage: np.ndarray


@dataclass(frozen=True)
class TwoStages:
    """A fitted cascade.

    Args:
        first, second: calibration of each stage, without prior and threshold.
        low, high: the band, as in `EarlyExit`.
    """

    first: Calibration
    second: Calibration
    low: float | None
    high: float | None

    @classmethod
    def from_document(cls, document: Cascade, positive: int = 1) -> TwoStages:
        """The cascade in a `calibration.json`."""
        first, second = (_calibration(stage, positive) for stage in document.stages)
        return cls(first, second, document.exit.low, document.exit.high)

    def leaves_early(self, early: np.ndarray) -> np.ndarray:
        """Which photos need no second stage, `(n,)` bool, from first-stage logits `(n, classes)`."""
        return leaves_early(softmax(self.first.calibrated(early)), self.low, self.high, self.first.positive)

    def composite(self, early: np.ndarray, full: np.ndarray) -> Composite:
        """The cascade's answer to each photo.

        Args:
            early: `(n, classes)` logits of the first stage.
            full: `(n, classes)` logits of the second stage; rows of photos that leave early are not used.
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
    """Calibrate both stages on some rows and choose the band of early exits on others.

    Args:
        fit: rows for the calibrators and the candidate bands.
        control: rows for the guarantee; they must not be used for anything else.
        views_exit: `risk`, or a band `(low, high)` without a guarantee.
        alpha: largest share of all photos that may leave with a wrong answer while the second stage is right.
        delta: probability that the guarantee fails.
        calibrators: candidates for each stage, as in `fit_calibrator`.
        positive: class id.
        class_names: `(classes,)`, for the printed lines.
        offsets: `(classes,)` for each stage, added to its logits first, as in `fit_calibrator`.
        other_promise: whether an abstention guarantee will use the same control rows.
        cost: cost of the first stage, and what the second adds; `cost_in` is the unit.
        fitted_on: name of the control rows.

    Raises:
        UserError: as `fit_calibrator`, `certified_exit` and `given_exit`.
    """
    options = {"positive": positive, "class_names": class_names}
    fits = {
        name: fit_calibrator(logits, fit.labels, fit.groups, calibrators, offset=offset, **options)
        for name, logits, offset in zip(STAGES, fit[:2], offsets, strict=True)
    }
    first, second = (stage_fit.calibration for stage_fit in fits.values())
    control_rows = softmax(first.calibrated(control.early)), softmax(second.calibrated(control.full)), *control[2:]
    band_options = {"positive": positive, "cost": cost, "cost_in": cost_in, "fitted_on": fitted_on}
    if views_exit == "risk":
        bands = candidate_bands(softmax(first.calibrated(fit.early)), positive) if other_promise else None
        chosen = certified_exit(*control_rows, alpha=alpha, delta=delta, candidates=bands, **band_options)
    else:
        chosen = given_exit(*control_rows, views_exit, **band_options)
    named = {"name": class_names[positive]} if class_names else {}
    notes = [f"{name} stage: {note}" for name, stage_fit in fits.items() for note in stage_fit.notes]
    return Cascade(exit=chosen, stages=[_stage(first), _stage(second)], lines=[exit_line(chosen, **named), *notes])


class LeftForRisk(NamedTuple):
    """Arguments of `control_risk` for the composite of a cascade."""

    delta: float
    chosen_among: int


def left_for_risk(early_exit: EarlyExit, risk_delta: float) -> LeftForRisk:
    """The terms of an abstention guarantee that uses the same control rows as the exit.

    Args:
        early_exit: the exit.
        risk_delta: probability that at least one of the two guarantees fails.

    Raises:
        UserError: the exit uses up all of it.
        ValueError: the band was chosen among all bands, so a second guarantee cannot use these rows.
    """
    if early_exit.candidates is None:
        raise ValueError("the band was chosen among all bands: fit the cascade with other_promise=True")
    if not early_exit.certified:
        return LeftForRisk(risk_delta, early_exit.candidates)
    check_deltas(early_exit.delta, risk_delta)
    return LeftForRisk(risk_delta - early_exit.delta, early_exit.candidates)


def check_deltas(exit_delta: float, risk_delta: float) -> None:
    """Raise `UserError` if the exit's delta leaves nothing for the abstention guarantee."""
    if exit_delta >= risk_delta:
        raise UserError(
            f"views_exit_delta: expected less than risk_delta ({risk_delta:g}), of which it is a part; found "
            f"{exit_delta:g}: use for example --views_exit_delta {risk_delta / 2:g}"
        )


def cost_curve(
    confidence: np.ndarray, first_wrong: np.ndarray, second_wrong: np.ndarray, cost: Sequence[float]
) -> CostCurve:
    """Cost and error of a cascade at every band, thinned to `CURVE_POINTS`.

    Args:
        confidence: `(n,)`, from `early_exit.exit_confidence`.
        first_wrong, second_wrong: `(n,)` bool, whether the answer of each stage is wrong.
        cost: cost of the first stage, and what the second adds.
    """
    n, order = len(confidence), np.argsort(-confidence, kind="stable")
    confidence, first_wrong, second_wrong = confidence[order], first_wrong[order], second_wrong[order]
    leaving = np.r_[0, np.flatnonzero(np.diff(confidence)) + 1, n]  # photos with equal confidence leave together
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
    """Figures of a cascade on rows that it was not fitted on, with intervals over resampled groups.

    An answer is the class with the largest calibrated probability of a stage, as in the exit's guarantee.

    Args:
        document: the fitted cascade.
        rows: for example `val_test`.
        positive: class id.
    """
    stages, chosen, labels = TwoStages.from_document(document, positive), document.exit, np.asarray(rows.labels)
    early, full = softmax(stages.first.calibrated(rows.early)), stages.second.calibrated(rows.full)
    first_wrong, second_wrong = early.argmax(axis=1) != labels, full.argmax(axis=1) != labels
    leaves = leaves_early(early, chosen.low, chosen.high, positive)
    everything, lost = np.ones(len(labels), dtype=bool), leaves & first_wrong & ~second_wrong

    def rate(of: np.ndarray, among: np.ndarray = everything):
        return share_with_interval(of, among, rows.groups, n_boot=n_boot, seed=seed)

    share = rate(leaves)
    lowest_cost, highest_cost = (chosen.cost[0] + chosen.cost[1] * (1 - end) for end in (share.high, share.low))
    return CascadeFigures(
        low=chosen.low,
        high=chosen.high,
        alpha=chosen.alpha,
        certified=chosen.certified,
        early=share,
        loss=rate(lost),
        loss_of_early=rate(lost, leaves),
        error=rate(np.where(leaves, first_wrong, second_wrong)),
        error_of_first=rate(first_wrong),
        error_of_second=rate(second_wrong),
        cost=chosen.cost,
        cost_in=chosen.cost_in,
        mean_cost=AmountInterval(
            value=chosen.cost[0] + chosen.cost[1] * (1 - share.value), low=lowest_cost, high=highest_cost
        ),
        curve=cost_curve(exit_confidence(early, positive), first_wrong, second_wrong, chosen.cost),
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
        isotonic=knots_of(stage.isotonic),
    )
