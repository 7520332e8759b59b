"""Calibrators fitted and chosen: by what they predict of held-out groups. Knows arrays only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from natix_hf.decision.calibration import Calibration
from natix_hf.decision.calibrators import CALIBRATORS, check_candidates
from natix_hf.decision.choice import choose
from natix_hf.decision.temperature import checked_rows
from natix_hf.documents.calibration import Candidate
from natix_hf.errors import UserError
from natix_hf.logits import expected_calibration_error, nll, softmax
from natix_hf.resampling import group_numbers

FOLDS = 10


@dataclass(frozen=True)
class CalibratorFit:
    """What was chosen, and what it does to the rows that it was fitted on.

    `kept` is False where nothing predicted held-out groups clearly better than the logits as they are, or nothing
    could be fitted; `calibration` then is that of `none`. NLL in nats a row, ECE over 15 equal-width bins.

    Args:
        calibration: with neither prior nor threshold.
        asked: the candidates as given.
        candidates: as `choice.choose` gives them; `cv_nll` is None where nothing was compared.
        notes: lines about what could not be done, and why.
    """

    calibration: Calibration
    asked: tuple[str, ...]
    kept: bool
    n: int
    groups: int
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]


def fit_calibrator(
    logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    candidates: Sequence[str] = ("temperature",),
    *,
    positive: int = 1,
    class_names: Sequence[str] | None = None,
    offset: np.ndarray | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> CalibratorFit:
    """Fit the calibrator that predicts held-out groups best, by negative log likelihood over folds of whole groups.

    `none`, the logits as they are, always competes. From simple to flexible, a candidate is taken where it is clearly
    better (`choice.clearly_better`) than the one taken so far. What was taken is fitted on all rows.

    Args:
        logits: `(n, classes)` uncalibrated.
        labels: `(n,)` class ids.
        groups: `(n,)`; rows of one group stay in one fold. None: each row is its own group.
        candidates: names of `CALIBRATORS`.
        positive: id of the positive class, handed on.
        class_names: for the notes, `(classes,)`; default the ids.
        offset: `(classes,)` that is added to the logits first, where they belong to other class shares than those of
            the rows; the calibration that is returned is one for the logits without it.
        folds: at most as many as there are groups.
        seed: of the folds.

    Raises:
        UserError: as `temperature.checked_rows`, unknown candidates, or not one group a row.
    """
    check_candidates(candidates)
    unmoved, labels = checked_rows(logits, labels)
    logits = unmoved if offset is None else unmoved + offset
    if groups is not None and len(groups) != len(labels):
        raise UserError(f"calibration: {len(groups)} groups for {len(labels)} rows, one a row expected")
    group_of_row = group_numbers(groups, len(labels))
    names, notes = _possible(labels, class_names or range(logits.shape[1]), candidates)
    compared = [Candidate(calibrator=name, cv_nll=None) for name in names]
    chosen = "none"
    if len(names) > 1 and group_of_row.max() == 0:
        notes.append(f"all {len(labels)} photos are one group, nothing can be held out to judge a calibrator by")
    elif len(names) > 1:
        held_out = {name: np.zeros(logits.shape) for name in names}
        for fit, check in _folds(group_of_row, folds, seed):
            for name, predicted in held_out.items():
                calibration = fit_one(name, logits[fit], labels[fit], group_of_row[fit])
                predicted[check] = calibration.calibrated(logits[check])
        chosen, compared = choose(held_out, labels, group_of_row)
    calibration = fit_one(chosen, logits, labels, group_of_row, positive=positive)
    after = calibration.calibrated(logits)
    if offset is not None and offset.any():
        calibration = _for_unmoved(calibration, offset, unmoved, labels)
    return CalibratorFit(
        calibration=calibration,
        asked=tuple(candidates),
        kept=chosen != "none",
        n=len(labels),
        groups=int(group_of_row.max()) + 1,
        nll_before=float(nll(logits, labels).mean()),
        nll_after=float(nll(after, labels).mean()),
        ece_before=expected_calibration_error(softmax(logits), labels),
        ece_after=expected_calibration_error(softmax(after), labels),
        candidates=tuple(compared),
        notes=tuple(notes),
    )


def fit_one(
    name: str, logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None, *, positive: int = 1
) -> Calibration:
    """One calibrator on all rows, without a comparison; the arrays are those of `checked_rows`."""
    classes, zeros = logits.shape[1], np.zeros(logits.shape[1])
    neutral = Calibration(name, np.ones(classes), zeros, zeros.copy(), zeros.copy(), positive)
    return replace(neutral, **CALIBRATORS[name].fit(logits, labels, groups))


def _for_unmoved(calibration: Calibration, offset: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """The calibration of `logits + offset` as one of the logits, `(n, classes)`, as they are."""
    if calibration.isotonic is not None:  # by ranks alone: moving all logits alike changes nothing but the knots
        return fit_one("isotonic", logits, labels, positive=calibration.positive)
    return replace(calibration, calibrator_bias=calibration.calibrator_bias + offset / calibration.temperature)


def _possible(labels: np.ndarray, classes: Sequence, candidates: Sequence[str]) -> tuple[list[str], list[str]]:
    """`none` and the candidates that these rows are enough for, simple to flexible; why the others are left out."""
    n, counts = len(labels), np.bincount(labels, minlength=len(classes))
    names, notes = ["none"], []
    for name in sorted(set(candidates) - {"none"}, key=[*CALIBRATORS].index):
        least, least_of_a_class = CALIBRATORS[name].least_rows, CALIBRATORS[name].least_of_a_class
        if (counts > 0).sum() < 2:
            notes.append(f"all {n} photos are of class {classes[labels[0]]}, {name} needs two classes and is left out")
        elif n < least:
            notes.append(f"{n} photos are too few for {name}, {least} are needed")
        elif counts.min() < least_of_a_class:
            notes.append(
                f"class {classes[counts.argmin()]} has {counts.min()} photos, too few for {name}, {least_of_a_class} "
                "of each class are needed"
            )
        else:
            names.append(name)
    return names, notes


def _folds(group_of_row: np.ndarray, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit on and rows held out, `folds` times or once a group where there are fewer."""
    from sklearn.model_selection import GroupKFold

    splitter = GroupKFold(min(folds, int(group_of_row.max()) + 1), shuffle=True, random_state=seed)
    return splitter.split(group_of_row, groups=group_of_row)
