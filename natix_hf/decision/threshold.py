"""Chooses a threshold on the probability of the positive class: the whole curve, the optimum and its interval.

A row is positive if its score is above the threshold; a score equal to the threshold is negative. Thresholds lie
midway between neighbouring distinct scores, so rounding changes no decision. The metric at the optimum comes from the
rows that the threshold was chosen on, so it is optimistic: `held_out_gain` measures the benefit on other rows, and
`risk_control` gives guarantees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from natix_hf.documents.calibration import Constraint, HeldOutGain, ThresholdChoice, ThresholdCurve
from natix_hf.errors import UserError
from natix_hf.resampling import group_numbers, interval_ends, on_resamples

METRICS = "mcc, accuracy, f1, fbeta:BETA, cost:FALSE_POSITIVE:FALSE_NEGATIVE, precision>=P, recall>=R"
CURVE_POINTS = 400
FOLDS = 10
_EQUAL = 1e-12  # values closer than this are ties


@dataclass(frozen=True)
class Metric:
    """A parsed metric.

    Args:
        name: as given.
        kind: mcc, accuracy, fbeta, cost, precision or recall.
        numbers: beta; the two costs; the minimum precision or recall.
    """

    name: str
    kind: str
    numbers: tuple[float, ...] = ()

    @property
    def constrained(self) -> bool:
        """Whether one metric is constrained (precision or recall) and the other one maximised."""
        return self.kind in ("precision", "recall")


def parse_metric(metric: str) -> Metric:
    """Parse a metric such as `mcc`, `fbeta:0.5`, `cost:1:5` or `precision>=0.98`.

    Raises:
        UserError: it is not one of `METRICS`, or its numbers are out of range.
    """
    fault = UserError(f"threshold_metric: expected one of {METRICS}; found '{metric}'")
    if metric in ("mcc", "accuracy"):
        return Metric(metric, metric)
    if metric == "f1":
        return Metric(metric, "fbeta", (1.0,))
    kind, sign, rest = metric.partition(">=") if ">=" in metric else metric.partition(":")
    forms = {"fbeta": (":", 1), "cost": (":", 2), "precision": (">=", 1), "recall": (">=", 1)}
    words = rest.split(":")
    if kind not in forms or forms[kind] != (sign, len(words)):
        raise fault
    try:
        numbers = tuple(float(word) for word in words)
    except ValueError:
        raise fault from None
    if not all(0 < number < np.inf for number in numbers) or (sign == ">=" and numbers[0] > 1):
        expected = "a share above 0 and at most 1" if sign == ">=" else "numbers above 0"
        raise UserError(f"threshold_metric: expected {expected}, found '{metric}'")
    return Metric(metric, kind, numbers)


def threshold_curve(
    scores: np.ndarray,
    is_positive: np.ndarray,
    groups: np.ndarray | None,
    metric: str,
    *,
    weights: np.ndarray | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> ThresholdChoice:
    """Compute the metric at every distinct threshold, the best threshold, and its interval over resampled groups.

    Args:
        scores: `(n,)` calibrated probability of the positive class.
        is_positive: `(n,)` booleans.
        groups: `(n,)`, resampled as a whole; None: each row is a group.
        metric: one of `METRICS`. `precision>=P` maximises recall, `recall>=R` maximises precision; a cost is the
            mean over the rows, and is minimised.
        weights: `(n,)`, not negative, such as `importance_weights`; None: all 1.

    Returns:
        The choice with a curve of at most 400 points, without the benefit on other rows (see `held_out_gain`). If the
        constraint cannot be met, the threshold is the one that gets closest to it. Of several optima, the one nearest
        to 0.5 is chosen.

    Raises:
        UserError: scores that are not probabilities; only one class; an unknown metric.
        ValueError: negative weights.
    """
    chosen = parse_metric(metric)
    scores, is_positive, weights = _checked(scores, is_positive, weights)
    group_of_row = group_numbers(groups, len(scores))
    cuts = _cuts(scores)
    step_of_row = np.searchsorted(cuts, scores, side="left")  # number of cuts below the row: it is positive at these
    levels = len(cuts) + 1
    n_groups = int(group_of_row.max()) + 1

    sides = weights * is_positive, weights * ~is_positive
    steps = [_by_step(side, group_of_row, step_of_row, levels) for side in sides]
    above_half = [_by_step(side, group_of_row, (scores > 0.5).astype(np.int64), 2) for side in sides]
    once = np.ones((1, n_groups))
    value, held = _values(chosen, *(once @ side for side in steps))
    half, held_half = _values(chosen, *(once @ side for side in above_half))
    best = int(_best(chosen, value, held, cuts)[0])

    def optima(times: np.ndarray) -> np.ndarray:  # (b, groups) -> (b, 2): the best threshold, the value at `best`
        drawn, drawn_held = _values(chosen, *(times @ side for side in steps))
        return np.stack([cuts[_best(chosen, drawn, drawn_held, cuts)], drawn[:, best]], axis=1)

    drawn = on_resamples(optima, n_groups, n_boot, seed, width=max(levels, n_groups))
    (low, high), (value_low, value_high) = map(interval_ends, drawn.T)
    shown = _thinned(len(cuts), best)
    constraint = None
    if chosen.constrained:
        constraint = Constraint(
            measures=chosen.kind,
            least=chosen.numbers[0],
            value=float(held[0, best]),
            at_half=float(held_half[0, 0]),
            best=float(held[0].max()),
        )
    return ThresholdChoice(
        metric=metric,
        measures={"precision": "recall", "recall": "precision"}.get(chosen.kind, chosen.kind),
        threshold=float(cuts[best]),
        low=low,
        high=high,
        value=float(value[0, best]),
        value_low=value_low,
        value_high=value_high,
        at_half=float(half[0, 0]),
        n=len(scores),
        groups=n_groups,
        reachable=constraint is None or constraint.best >= constraint.least - _EQUAL,
        constraint=constraint,
        curve=ThresholdCurve(threshold=cuts[shown].tolist(), value=value[0, shown].tolist()),
        held_out=None,
    )


def _by_step(weights: np.ndarray, group_of_row: np.ndarray, step_of_row: np.ndarray, steps: int) -> Any:
    """Total weight of the rows of each group between neighbouring cuts, a sparse matrix `(groups, steps)`."""
    import scipy.sparse

    shape = int(group_of_row.max()) + 1, steps
    return scipy.sparse.csr_matrix((weights, (group_of_row, step_of_row)), shape=shape)


def held_out_gain(
    scores: np.ndarray,
    is_positive: np.ndarray,
    groups: np.ndarray | None,
    metric: str,
    *,
    weights: np.ndarray | None = None,
    folds: int = FOLDS,
    n_boot: int = 1000,
    seed: int = 0,
) -> HeldOutGain | None:
    """Estimate the benefit of a chosen threshold over 0.5 on groups that it was not chosen on.

    Args:
        scores, is_positive, groups, metric, weights, n_boot, seed: as in `threshold_curve`.
        folds: number of folds of whole groups, at most the number of groups.

    Returns:
        `value`, the metric of all rows, each decided by a threshold that was chosen without its group; `at_half`, the
        same at 0.5; `gain`, the improvement, with its standard error `gain_se` over resampled groups. None if all rows
        are one group, or if the metric has a constraint, which has to be met at any price.
    """
    from sklearn.model_selection import GroupKFold

    chosen = parse_metric(metric)
    scores, is_positive, weights = _checked(scores, is_positive, weights)
    of_row = group_numbers(groups, len(scores))
    n_groups = int(of_row.max()) + 1
    if chosen.constrained or n_groups < 2:
        return None
    sides = weights * is_positive, weights * ~is_positive
    decided = scores > 0.5
    for fit, check in GroupKFold(min(folds, n_groups), shuffle=True, random_state=seed).split(scores, groups=of_row):
        if not all(side[fit].any() for side in sides):
            continue  # one class only, nothing to choose by: 0.5
        cuts = _cuts(scores[fit])
        steps = np.searchsorted(cuts, scores[fit], side="left")
        value, _ = _values(chosen, *(np.bincount(steps, side[fit], minlength=len(cuts) + 1)[None] for side in sides))
        decided[check] = scores[check] > cuts[_best(chosen, value, None, cuts)[0]]

    def figures(times: np.ndarray) -> np.ndarray:  # (b, groups) -> (b, 2): by the thresholds, and at 0.5
        columns = []
        for said in (decided, scores > 0.5):
            sums = [
                np.bincount(of_row * 2 + said, side, minlength=2 * n_groups).reshape(n_groups, 2) for side in sides
            ]
            columns.append(_values(chosen, *(times @ side for side in sums))[0][:, 0])
        return np.stack(columns, axis=1)

    value, at_half = figures(np.ones((1, n_groups)))[0]
    drawn = on_resamples(figures, n_groups, n_boot, seed, width=n_groups)
    sign = -1.0 if chosen.kind == "cost" else 1.0
    gain = sign * (value - at_half)
    error = (drawn[:, 0] - drawn[:, 1]).std(ddof=1)
    return HeldOutGain(value=float(value), at_half=float(at_half), gain=float(gain), gain_se=float(error))


def unreachable_line(choice: ThresholdChoice) -> str | None:
    """One line if the constraint cannot be met, with the best possible value; else None."""
    constraint = choice.constraint
    if choice.reachable:
        return None
    return (
        f"threshold_metric {choice.metric}: no threshold reaches {constraint.measures} {constraint.least:g} on "
        f"{choice.n} photos of {choice.groups} groups; the best is {constraint.best:.4g}, at threshold "
        f"{choice.threshold:.4g} ({choice.measures} {choice.value:.4g})"
    )


def fold_bias(threshold: float, positive: int, classes: int) -> np.ndarray:
    """The bias that moves a threshold t to 0.5: `log((1 - t) / t)`.

    A bias keeps the order of the rows, but the scores are then no longer probabilities.

    Args:
        threshold: on the calibrated probability of the positive class, in (0, 1).
        classes: must be two; with more classes the decision is the largest probability, without a threshold.

    Returns:
        `(classes,)`, zeros except for `positive`.

    Raises:
        UserError: more than two classes, or a threshold of 0 or 1.
    """
    if classes != 2:
        raise UserError(f"fold_threshold: a threshold can be folded for two classes only, the model has {classes}")
    if not 0 < threshold < 1:
        raise UserError(f"fold_threshold: the threshold {threshold:g} is not between 0 and 1")
    bias = np.zeros(classes)
    bias[positive] = np.log1p(-threshold) - np.log(threshold)
    return bias


def _cuts(scores: np.ndarray) -> np.ndarray:
    """Thresholds in (0, 1), ascending: one below all scores, one between each pair of neighbours, one above all."""
    distinct = np.unique(scores)
    low, high = distinct[:-1], distinct[1:]
    middle = low + (high - low) / 2
    middle = np.where(middle >= high, low, middle)  # there is no number between neighbouring floats
    ends = np.array([distinct[0] / 2]), np.array([(1 + distinct[-1]) / 2])
    cuts = np.concatenate([ends[0], middle, ends[1]])
    return cuts[(cuts > 0) & (cuts < 1)]


def _values(metric: Metric, positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The metric at each cut, and the constrained metric if there is a constraint.

    Args:
        positives, negatives: `(b, cuts + 1)` total weight of the rows between neighbouring cuts, ascending.

    Returns:
        Both `(b, cuts)`; the second is None without a constraint.
    """
    # Sum from both ends: a difference of sums would leave residues of 1e-17 instead of 0.
    tp, fp = (np.cumsum(side[:, ::-1], axis=1)[:, -2::-1] for side in (positives, negatives))
    fn, tn = (np.cumsum(side, axis=1)[:, :-1] for side in (positives, negatives))
    if metric.kind == "accuracy":
        return _ratio(tp + tn, tp + tn + fp + fn), None
    if metric.kind == "cost":
        return _ratio(metric.numbers[0] * fp + metric.numbers[1] * fn, tp + tn + fp + fn), None
    if metric.kind == "fbeta":
        square = metric.numbers[0] ** 2
        return _ratio((1 + square) * tp, (1 + square) * tp + square * fn + fp), None
    if metric.kind == "mcc":
        spread = np.sqrt((tp + fp) * (tp + fn)) * np.sqrt((tn + fp) * (tn + fn))
        return _ratio(tp * tn - fp * fn, spread), None
    precision, recall = _ratio(tp, tp + fp), _ratio(tp, tp + fn)
    return (recall, precision) if metric.kind == "precision" else (precision, recall)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Quotient; 0 / 0 is 0, as in scikit-learn."""
    return np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 0)


def _best(metric: Metric, value: np.ndarray, held: np.ndarray | None, cuts: np.ndarray) -> np.ndarray:
    """Index of the best cut in each row, `(b,)`; of ties the one nearest to 0.5."""
    gain = -value if metric.kind == "cost" else value
    if held is not None:
        met = held >= metric.numbers[0] - _EQUAL
        # If no cut meets the constraint, maximise the constrained metric instead.
        gain = np.where(met.any(axis=1, keepdims=True), np.where(met, gain, -np.inf), held)
    equal = gain >= gain.max(axis=1, keepdims=True) - _EQUAL
    return np.where(equal, np.abs(cuts - 0.5), np.inf).argmin(axis=1)


def _thinned(count: int, best: int) -> np.ndarray:
    """At most `CURVE_POINTS` indices of cuts: both ends, the best one, the rest evenly spaced."""
    if count <= CURVE_POINTS:
        return np.arange(count)
    return np.unique(np.append(np.linspace(0, count - 1, CURVE_POINTS - 1).round().astype(np.int64), best))


def _checked(
    scores: np.ndarray, is_positive: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores, is_positive = np.asarray(scores, dtype=np.float64), np.asarray(is_positive, dtype=bool)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("weights: expected finite numbers, none below 0")
    bad = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if len(bad):
        raise UserError(
            "threshold: expected calibrated probabilities of the positive class, not logits; found "
            f"{scores[bad[0]]:g} in row {bad[0]}"
        )
    if not is_positive.any() or is_positive.all():
        rows = "no rows" if not len(scores) else f"{len(scores)} rows of one class"
        raise UserError(f"threshold: expected rows of both classes, found {rows}: give val_calib a larger share")
    return scores, is_positive, weights
