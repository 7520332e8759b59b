"""Calibrators beside the single temperature, fitted and chosen: by what they predict of held-out groups.

- `vector` (Guo et al., 2017): a temperature and a bias a class. Of two classes both have one temperature, which makes
  it Platt scaling: two temperatures would put photos into another order than the model's.
- `isotonic` (Zadrozny and Elkan, 2002): a rising step function of each class's probability, one against the rest.

All rise with the probability that they are given. Knows arrays only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.special

from natix_hf.decision.calibration import Calibration
from natix_hf.decision.choice import choose, nll
from natix_hf.decision.temperature import (
    BOUNDS,
    PRIOR_SD,
    checked_rows,
    design_effect,
    ece,
    fit_temperature,
    softmax,
)
from natix_hf.documents.calibration import Candidate
from natix_hf.errors import UserError
from natix_hf.resampling import group_numbers

CALIBRATORS = ("none", "temperature", "vector", "isotonic")  # from simple to flexible: of equals the first is taken
# Rows (all together) and rows of the rarest class without which a calibrator is not fitted.
LEAST_ROWS = {"none": 0, "temperature": 30, "vector": 100, "isotonic": 300}
LEAST_OF_A_CLASS = {"none": 0, "temperature": 1, "vector": 10, "isotonic": 30}
FOLDS = 10
# Pulls of `vector`, in independent rows: towards one temperature, by the prior of that, and towards no bias, a weak
# one, since photos often come in other class shares than the model learnt.
SCALE_PULL, BIAS_PULL = 1 / PRIOR_SD**2, 1.0

Knots = tuple[tuple[np.ndarray, np.ndarray], ...]


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


def check_candidates(candidates: Sequence[str]) -> None:
    """Raise `UserError` for names that no calibrator has, or one that is given twice."""
    text = f"calibrator: {' '.join(candidates) or 'nothing'} given"
    if not candidates or any(name not in CALIBRATORS for name in candidates):
        raise UserError(f"{text}, one or more of {', '.join(CALIBRATORS)} expected")
    if len(set(candidates)) < len(candidates):
        raise UserError(f"{text}: one of them twice, remove it")


def fit_calibrator(
    logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    candidates: Sequence[str] = ("temperature",),
    *,
    positive: int = 1,
    class_names: Sequence[str] | None = None,
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
        folds: at most as many as there are groups.
        seed: of the folds.

    Raises:
        UserError: as `temperature.checked_rows`, unknown candidates, or not one group a row.
    """
    check_candidates(candidates)
    logits, labels = checked_rows(logits, labels)
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
    return CalibratorFit(
        calibration=calibration,
        asked=tuple(candidates),
        kept=chosen != "none",
        n=len(labels),
        groups=int(group_of_row.max()) + 1,
        nll_before=float(nll(logits, labels).mean()),
        nll_after=float(nll(after, labels).mean()),
        ece_before=ece(logits, labels),
        ece_after=ece(after, labels),
        candidates=tuple(compared),
        notes=tuple(notes),
    )


def fit_one(
    name: str, logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None, *, positive: int = 1
) -> Calibration:
    """One calibrator on all rows, without a comparison; the arrays are those of `checked_rows`."""
    classes, zeros = logits.shape[1], np.zeros(logits.shape[1])
    neutral = Calibration(name, np.ones(classes), zeros, zeros.copy(), zeros.copy(), positive)
    if name == "none":
        return neutral
    if name == "isotonic":
        return Calibration(**{**vars(neutral), "isotonic": _isotonic(logits, labels)})
    temperature, bias = np.full(classes, fit_temperature(logits, labels, groups)), zeros
    if name == "vector":
        temperature, bias = _vector(logits, labels, groups, float(temperature[0]))
    return Calibration(**{**vars(neutral), "temperature": temperature, "calibrator_bias": bias})


def _possible(labels: np.ndarray, classes: Sequence, candidates: Sequence[str]) -> tuple[list[str], list[str]]:
    """`none` and the candidates that these rows are enough for, simple to flexible; why the others are left out."""
    n, counts = len(labels), np.bincount(labels, minlength=len(classes))
    names, notes = ["none"], []
    for name in sorted(set(candidates) - {"none"}, key=CALIBRATORS.index):
        if (counts > 0).sum() < 2:
            notes.append(f"all {n} photos are of class {classes[labels[0]]}, {name} needs two classes and is left out")
        elif n < LEAST_ROWS[name]:
            notes.append(f"{n} photos are too few for {name}, {LEAST_ROWS[name]} are needed")
        elif counts.min() < LEAST_OF_A_CLASS[name] and name != "temperature":
            least = f"{LEAST_OF_A_CLASS[name]} of each class are needed"
            notes.append(f"class {classes[counts.argmin()]} has {counts.min()} photos, too few for {name}, {least}")
        else:
            names.append(name)
    return names, notes


def _folds(group_of_row: np.ndarray, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit on and rows held out, `folds` times or once a group where there are fewer."""
    from sklearn.model_selection import GroupKFold

    splitter = GroupKFold(min(folds, int(group_of_row.max()) + 1), shuffle=True, random_state=seed)
    return splitter.split(group_of_row, groups=group_of_row)


def vector_objective(
    scale: np.ndarray, bias: np.ndarray, logits: np.ndarray, labels: np.ndarray, alike: float = 1.0
) -> tuple[float, np.ndarray, np.ndarray]:
    """What `vector` minimises, convex: the summed NLL of `scale * logits + bias`, one imaginary mistake, and pulls.

    The imaginary mistake is that of `decision.temperature`; the pulls are `alike / 2` times
    `SCALE_PULL (scale - 1)^2 + BIAS_PULL bias^2`, summed over classes, where 1 stands for the temperature that the
    logits have already been divided by.

    Args:
        scale, bias: `(classes,)`.
        logits: `(n, classes)`, divided by one temperature.
        labels: `(n,)`.
        alike: the `design_effect` of the rows.

    Returns:
        The objective and its derivatives by `scale` and `bias`.
    """
    n, classes = logits.shape
    rows = np.arange(n)
    z = scale * logits + bias
    true = np.zeros((n, classes))
    true[rows, labels] = 1.0
    # Real rows weigh 1, the imaginary one 1/n a row, spread over its wrong classes.
    wanted = true + (1 - true) / (classes - 1) / n
    normaliser = scipy.special.logsumexp(z, axis=1)
    value = (1 + 1 / n) * normaliser.sum() - (wanted * z).sum()
    value += alike / 2 * (SCALE_PULL * ((scale - 1) ** 2).sum() + BIAS_PULL * (bias**2).sum())
    residual = (1 + 1 / n) * np.exp(z - normaliser[:, None]) - wanted
    by_scale = (residual * logits).sum(axis=0) + alike * SCALE_PULL * (scale - 1)
    return float(value), by_scale, residual.sum(axis=0) + alike * BIAS_PULL * bias


def _vector(
    logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Temperature and bias a class by penalised maximum likelihood, starting from one temperature."""
    classes = logits.shape[1]
    scaled = logits / temperature
    shared = classes == 2
    alike = design_effect(logits, labels, groups)

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        scale = np.repeat(x[:1], classes) if shared else x[:classes]
        value, by_scale, by_bias = vector_objective(scale, x[-classes:], scaled, labels, alike)
        return value, np.r_[by_scale.sum() if shared else by_scale, by_bias]

    scales = 1 if shared else classes
    # The temperature of each class stays within the bounds of the single one.
    bounds = [(temperature / BOUNDS[1], temperature / BOUNDS[0])] * scales + [(None, None)] * classes
    start = np.r_[np.ones(scales), np.zeros(classes)]
    options = {"maxiter": 1000, "ftol": 1e-14, "gtol": 1e-9}
    found = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    scale = np.repeat(found[:1], classes) if shared else found[:classes]
    return np.clip(temperature / scale, *BOUNDS), found[-classes:]


def _isotonic(logits: np.ndarray, labels: np.ndarray) -> Knots:
    """Knots of each class, one against the rest, kept off 0 and 1 by the rule of succession: 1 in n + 2."""
    from sklearn.isotonic import IsotonicRegression

    probabilities, n = softmax(logits), len(labels)

    def knots(of_class: np.ndarray, is_class: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        fit = IsotonicRegression(y_min=1 / (n + 2), y_max=(n + 1) / (n + 2), out_of_bounds="clip")
        fit.fit(of_class, is_class.astype(np.float64))
        return fit.X_thresholds_, fit.y_thresholds_

    if logits.shape[1] > 2:
        return tuple(knots(column, labels == k) for k, column in enumerate(probabilities.T))
    x, y = knots(probabilities[:, 1], labels == 1)  # the other class is its mirror image, so that the two sum to 1
    return ((1 - x[::-1], 1 - y[::-1]), (x, y))
