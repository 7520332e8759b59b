"""Fits calibrators and chooses the one that predicts held-out groups best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from natix_hf.decision.calibration import Calibration
from natix_hf.decision.calibrators import CALIBRATORS, check_candidates
from natix_hf.decision.choice import choose
from natix_hf.decision.temperature import checked_rows
from natix_hf.documents.calibration import Candidate
from natix_hf.logits import expected_calibration_error, nll, softmax
from natix_hf.resampling import group_numbers

FOLDS = 10


@dataclass(frozen=True)
class CalibratorFit:
    """The chosen calibrator, and its effect on the rows that it was fitted on.

    `kept` is False if no candidate predicted held-out groups clearly better than the unchanged logits, or if none
    could be fitted; `calibration` is then `none`. NLL is in nats per row, ECE over 15 equal-width bins.

    Args:
        calibration: without prior and threshold.
        asked: the given candidates.
        candidates: from `choice.choose`; `cv_nll` is None if nothing was compared.
        notes: what could not be done, and why.
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

    `none`, the unchanged logits, always competes. From simple to flexible, a candidate replaces the current choice if
    it is clearly better (`choice.clearly_better`). The final choice is fitted on all rows.

    Args:
        logits: `(n, classes)` uncalibrated.
        labels: `(n,)` class ids.
        groups: `(n,)`; rows of one group stay in one fold. None: each row is a group.
        candidates: names of `CALIBRATORS`.
        positive: id of the positive class, passed on to the calibration.
        class_names: `(classes,)` for the notes; ids by default.
        offset: `(classes,)` to add to the logits first, if they are for other class shares than those of the rows.
            The returned calibration is for the logits without it.
        folds: number of folds, at most the number of groups.
        seed: of the folds.

    Raises:
        UserError: as `temperature.checked_rows`; unknown candidates; not one group per row.
    """
    check_candidates(candidates)
    unmoved, labels = checked_rows(logits, labels)
    logits = unmoved if offset is None else unmoved + offset
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
    """Fit one calibrator on all rows without a comparison; takes the arrays of `checked_rows`."""
    classes, zeros = logits.shape[1], np.zeros(logits.shape[1])
    neutral = Calibration(name, np.ones(classes), zeros, zeros.copy(), zeros.copy(), positive)
    return replace(neutral, **CALIBRATORS[name].fit(logits, labels, groups))


def _for_unmoved(calibration: Calibration, offset: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Turn the calibration of `logits + offset` into one of the logits `(n, classes)` themselves."""
    if calibration.isotonic is not None:  # it uses ranks only, so the offset changes nothing but the knots
        return fit_one("isotonic", logits, labels, positive=calibration.positive)
    return replace(calibration, calibrator_bias=calibration.calibrator_bias + offset / calibration.temperature)


def _possible(labels: np.ndarray, classes: Sequence, candidates: Sequence[str]) -> tuple[list[str], list[str]]:
    """`none` and the candidates that have enough rows, from simple to flexible; notes on those left out."""
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
    """Rows to fit on and held-out rows, for each of `folds` folds (or one per group, if there are fewer)."""
    from sklearn.model_selection import GroupKFold

    splitter = GroupKFold(min(folds, int(group_of_row.max()) + 1), shuffle=True, random_state=seed)
    return splitter.split(group_of_row, groups=group_of_row)
