"""Bootstrap intervals over whole groups, for one classifier and for the difference of two.

Every metric is computed from sums over groups, so 1,000 resamples cost little more than one pass (`resampling`).

The percentile interval fails if nothing can vary: without a single mistake every resample is perfect too. In that case
the lower end comes from the exact binomial bound on the number of groups, see `_flawless_lows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from natix_hf.logits import ECE_BINS, checked, confidence_gaps, nll, softmax
from natix_hf.report.metrics import (
    LOWER_IS_BETTER,
    METRICS,
    classification_metrics,
    confusion_figures,
    judged_classes,
    log_odds,
)
from natix_hf.resampling import (
    CELLS,
    ENDS,
    LEVEL,
    flawless_high,
    group_numbers,
    interval_ends,
    on_resamples,
    times_drawn,
    weighted_auroc,
    without_added_noise,
)

NEED_TWO_CLASSES = ("macro_f1", "mcc", "auroc")  # meaningless on rows of one class


def bootstrap_intervals(
    logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    *,
    positive: int = 1,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Every metric with its percentile interval over resampled groups.

    Args:
        logits: `(n, classes)`.
        labels: `(n,)` class ids.
        groups: `(n,)` strings or integers; rows of one group are drawn together. None: each row is its own group.
        positive: the class whose ranking AUROC measures, if there are two classes.
        n_boot: number of resamples.
        seed: of the resampling; same seed and rows, same interval.

    Returns:
        `{metric: {"value", "low", "high"}}`, the values equal to `classification_metrics`. Resamples in which a
        metric is not defined (AUROC without a class) are left out of its interval; NaN if none is left.

    Raises:
        ValueError: as `classification_metrics`, or groups of another length.
    """
    logits, labels = checked(logits, labels)
    group_of_row = group_numbers(groups, len(labels))
    values = classification_metrics(logits, labels, positive)
    draws = _bootstrapped(logits, labels, group_of_row, positive, n_boot, seed)
    return _ends(values, draws, _flawless_lows(logits, labels, group_of_row, values))


def _ends(
    values: dict[str, float], draws: dict[str, np.ndarray], lows: dict[str, float]
) -> dict[str, dict[str, float]]:
    intervals = {}
    for name in METRICS:
        drawn = without_added_noise(draws[name], values[name]) if name == "ece" else draws[name]
        low, high = interval_ends(drawn)
        intervals[name] = {"value": values[name], "low": lows.get(name, low), "high": high}
    return intervals


def paired_differences(
    logits_a: np.ndarray,
    logits_b: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    *,
    positive: int = 1,
    n_boot: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, dict[str, float]]:
    """`metric(a) - metric(b)` on the same rows, with its interval over resampled groups.

    Both classifiers see the same resamples, so the difficulty of a photo cancels.

    Args:
        logits_a, logits_b: `(n, classes)` of the two classifiers, row by row the same photos.
        labels, groups, positive, n_boot, seed: as in `bootstrap_intervals`.
        level: share of repetitions in which the intervals should contain the true value.

    Returns:
        `{metric: {"difference", "low", "high"}}`.
    """
    logits_a, labels = checked(logits_a, labels)
    logits_b, _ = checked(logits_b, labels)
    group_of_row = group_numbers(groups, len(labels))
    values = [classification_metrics(logits, labels, positive) for logits in (logits_a, logits_b)]
    draws = [_bootstrapped(logits, labels, group_of_row, positive, n_boot, seed) for logits in (logits_a, logits_b)]
    return _gaps(values, draws, level)


def difference_of_means(
    logits_a: Sequence[np.ndarray],
    logits_b: Sequence[np.ndarray],
    labels: np.ndarray,
    groups: np.ndarray | None,
    metric: str,
    *,
    positive: int = 1,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """`paired_differences` of two settings with several seeds each: the mean over pairs of runs.

    All runs see the same resamples. The interval covers the choice of photos, not the choice of seeds.

    Args:
        logits_a, logits_b: for each seed `(n, classes)`, all with the same photos in the same order.
        labels, groups, metric, positive, n_boot, seed: as in `paired_differences`.
    """
    group_of_row = group_numbers(groups, len(labels))
    values, draws = [], []
    for a, b in zip(logits_a, logits_b, strict=True):
        (a, rows), (b, _) = checked(a, labels), checked(b, labels)
        figures = [classification_metrics(logits, rows, positive)[metric] for logits in (a, b)]
        drawn = [_bootstrapped(logits, rows, group_of_row, positive, n_boot, seed)[metric] for logits in (a, b)]
        values.append(figures[0] - figures[1])
        draws.append(drawn[0] - drawn[1])
    low, high = interval_ends(np.mean(draws, axis=0))
    return {"difference": float(np.mean(values)), "low": low, "high": high}


def luck_of_the_best(
    candidates: Sequence[Sequence[np.ndarray]],
    labels: np.ndarray,
    groups: np.ndarray | None,
    metric: str,
    *,
    positive: int = 1,
    n_boot: int = 200,
    seed: int = 0,
) -> dict[str, float] | None:
    """Estimate the selection bias: how much better the best candidate scores on the rows that it was chosen on.

    Each time groups are drawn with replacement, the best candidate on these is chosen again and scored on the groups
    that were not drawn (out-of-bag; Efron and Tibshirani, 1997). Earlier choices on these rows, such as each run's
    checkpoint and the next trial of a search, are not repeated, so the estimate is too low rather than too high.

    Args:
        candidates: for each candidate the logits `(n, classes)` of its runs; its score is their mean.
        labels, groups, positive, seed: as in `bootstrap_intervals`.
        metric: a name of `METRICS`, by which the best is chosen.
        n_boot: number of resamples; those that leave nothing to score are left out.

    Returns:
        None if no resample leaves anything to score. Otherwise a dict:

        - elsewhere: mean score on the groups that were not drawn; `low` and `high` enclose the share `LEVEL` of them.
        - by: how much better the best candidate scores on all rows; positive if that score is too optimistic.
        - chosen_again: share of resamples in which the same candidate was chosen.
        - resamples: number of resamples that were used.
    """
    group_of_row = group_numbers(groups, len(labels))
    whole_and_drawn = _once_and_drawn(group_of_row, n_boot, seed)
    times = np.concatenate([whole_and_drawn, whole_and_drawn[1:] == 0])  # then the groups that were not drawn
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    means = []
    for runs in candidates:
        each = [_resampled(*checked(logits, labels), group_of_row, positive, times)[metric] for logits in runs]
        means.append(np.mean(each, axis=0))
    scores = sign * np.stack(means)  # (candidates, 1 + 2 n_boot), larger is better
    whole, drawn, left = scores[:, 0], scores[:, 1 : 1 + n_boot], scores[:, 1 + n_boot :]
    best = np.where(np.isnan(drawn), -np.inf, drawn).argmax(axis=0)  # (n_boot,)
    elsewhere = np.take_along_axis(left, best[None], axis=0)[0]
    defined = ~np.isnan(elsewhere)
    ahead = np.where(np.isnan(whole), -np.inf, whole).argmax()
    if not defined.any() or np.isnan(whole[ahead]):
        return None
    low, high = interval_ends(sign * elsewhere)
    return {
        "elsewhere": float(sign * elsewhere[defined].mean()),
        "low": low,
        "high": high,
        "by": float(whole[ahead] - elsewhere[defined].mean()),
        "chosen_again": float((best[defined] == ahead).mean()),
        "resamples": int(defined.sum()),
    }


def _gaps(
    values: Sequence[dict[str, float]], draws: Sequence[dict[str, np.ndarray]], level: float = LEVEL
) -> dict[str, dict[str, float]]:
    differences = {}
    for name in METRICS:
        low, high = interval_ends(draws[0][name] - draws[1][name], level)
        differences[name] = {"difference": values[0][name] - values[1][name], "low": low, "high": high}
    return differences


def intervals_beside(
    reference: np.ndarray,
    others: Sequence[np.ndarray],
    labels: np.ndarray,
    groups: np.ndarray | None,
    *,
    positive: int = 1,
    n_boot: int = 1000,
    seed: int = 0,
) -> Iterator[tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]]:
    """Intervals of each of `others`, alone and compared with the reference, which is resampled only once.

    Args:
        reference: `(n, classes)` logits.
        others: each `(k n, classes)`: the rows k times in order, e.g. under k distortions; groups stay together.
        labels, groups, positive, n_boot, seed: as in `bootstrap_intervals`.

    Yields:
        `bootstrap_intervals` of one of `others`, and its `paired_differences` to the reference.
    """
    reference, labels = checked(reference, labels)
    group_of_row, n = group_numbers(groups, len(labels)), len(labels)
    value = classification_metrics(reference, labels, positive)
    draw = _bootstrapped(reference, labels, group_of_row, positive, n_boot, seed)
    for other in others:
        times = len(other) // n
        logits, rows = checked(other, np.tile(labels, times))
        groups_of_rows, values = np.tile(group_of_row, times), classification_metrics(logits, rows, positive)
        draws = _bootstrapped(logits, rows, groups_of_rows, positive, n_boot, seed)
        ends = _ends(values, draws, _flawless_lows(logits, rows, groups_of_rows, values))
        yield ends, _gaps((values, value), (draws, draw))


def difference_to_rest(
    logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    inside: np.ndarray,
    *,
    positive: int = 1,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """`metric(inside) - metric(rest)`: how much some rows differ from all others, with its interval.

    Both parts see the same resamples of whole groups, so a group with rows in both does not count twice. Balanced
    accuracy is the mean recall of the classes that occur in both parts, so neither a missing class nor class shares
    change it. MCC, macro F1 and AUROC are NaN if a part has only one class. ECE is always NaN: it is larger for fewer
    rows, so it cannot compare parts of different sizes.

    Args:
        logits: `(n, classes)`.
        labels: `(n,)` class ids.
        groups: `(n,)`, None: each row is a group.
        inside: `(n,)` True for the rows of the part; both parts must have rows.
        positive, n_boot, seed: as in `bootstrap_intervals`.

    Returns:
        `{metric: {"difference", "low", "high", "error"}}`, the last being the standard deviation of the resamples.
    """
    logits, labels = checked(logits, labels)
    inside = np.asarray(inside, dtype=bool)
    if inside.shape != labels.shape or inside.all() or not inside.any():
        raise ValueError(
            f"expected (n,) booleans that leave rows on both sides, found {int(inside.sum())} rows inside"
        )
    group_of_row = group_numbers(groups, len(labels))
    parts = [(logits[rows], labels[rows], group_of_row[rows]) for rows in (inside, ~inside)]
    times = _once_and_drawn(group_of_row, n_boot, seed)
    draws = [_resampled(*part, positive, times) for part in parts]
    gaps = {name: draws[0][name] - draws[1][name] for name in METRICS}
    gaps["balanced_accuracy"] = _recall_gaps(parts, times)
    undefined = ["ece"]
    if min(len(np.unique(own_labels)) for _, own_labels, _ in parts) < 2:
        undefined += NEED_TWO_CLASSES
    gaps |= {name: np.full(1 + n_boot, np.nan) for name in undefined}
    return {name: _difference_and_error(gaps[name][0], gaps[name][1:]) for name in METRICS}


def _once_and_drawn(group_of_row: np.ndarray, n_boot: int, seed: int) -> np.ndarray:
    """How often each group is drawn, `(1 + n_boot, groups)`; the first row is the data itself, every group once."""
    n_groups = int(group_of_row.max()) + 1
    return np.concatenate([np.ones((1, n_groups)), *times_drawn(n_groups, n_boot, seed, at_once=n_boot)])


def _difference_and_error(difference: float, drawn: np.ndarray) -> dict[str, float]:
    low, high = interval_ends(drawn)
    defined = drawn[~np.isnan(drawn)]
    error = float(np.std(defined, ddof=1)) if len(defined) > 1 else float("nan")
    return {"difference": float(difference), "low": low, "high": high, "error": error}


def _recall_gaps(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], times: np.ndarray) -> np.ndarray:
    """Mean difference of the recalls of two parts in each draw, `(draws,)`, over the classes that both have."""
    both = np.intersect1d(parts[0][1], parts[1][1])
    first, second = (_recalls(*part, times)[:, both] for part in parts)
    gaps = first - second
    defined = ~np.isnan(gaps)
    summed = np.where(defined, gaps, 0.0).sum(axis=1)
    return np.divide(summed, defined.sum(axis=1), out=np.full(len(gaps), np.nan), where=defined.any(axis=1))


def _recalls(logits: np.ndarray, labels: np.ndarray, group_of_row: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The recall of every class `(b, classes)` if groups are drawn `times` `(b, n_groups)`; NaN without rows."""
    classes = logits.shape[1]
    shape, cells = (times.shape[1], classes), group_of_row * classes + labels
    size = np.bincount(cells, minlength=np.prod(shape)).reshape(shape).astype(np.float64)
    right = np.bincount(cells, logits.argmax(axis=1) == labels, minlength=np.prod(shape)).reshape(shape)
    drawn = times @ size
    return np.divide(times @ right, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)


def group_count(groups: np.ndarray | None, n: int) -> int:
    """Number of groups that are resampled, reported next to n."""
    return int(group_numbers(groups, n).max()) + 1


def measured_on(split: str, n: int, groups: np.ndarray | None, *, positive_label: str, resamples: int) -> dict:
    """Which rows the metrics come from, and what their intervals are based on: the fields of `figures.Measured`."""
    return {
        "split": split,
        "n": n,
        "groups": group_count(groups, n),
        "positive_label": positive_label,
        "level": LEVEL,
        "resampled": "groups",
        "resamples": resamples,
    }


def _bootstrapped(
    logits: np.ndarray, labels: np.ndarray, group_of_row: np.ndarray, positive: int, n_boot: int, seed: int
) -> dict[str, np.ndarray]:
    """Every metric on `n_boot` resamples of the groups, `{name: (n_boot,)}`."""
    n_groups = int(group_of_row.max()) + 1
    figures = _figures_of_draws(logits, labels, group_of_row, n_groups, positive)
    table = on_resamples(figures, n_groups, n_boot, seed, width=len(labels))
    return dict(zip(METRICS, table.T, strict=True))


def _resampled(
    logits: np.ndarray, labels: np.ndarray, group_of_row: np.ndarray, positive: int, times: np.ndarray
) -> dict[str, np.ndarray]:
    """Every metric if groups are drawn `times` `(draws, groups)`, `{name: (draws,)}`.

    The rows may be a part of those whose groups are drawn; a draw without any of them gives NaN.
    """
    figures = _figures_of_draws(logits, labels, group_of_row, times.shape[1], positive)
    at_once = max(1, CELLS // len(labels))
    table = np.concatenate([figures(times[start : start + at_once]) for start in range(0, len(times), at_once)])
    return dict(zip(METRICS, table.T, strict=True))


def _figures_of_draws(
    logits: np.ndarray, labels: np.ndarray, group_of_row: np.ndarray, n_groups: int, positive: int
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from how often each group is drawn, `(b, groups)`, to the metrics of these draws, `(b, metrics)`."""
    n, classes = logits.shape
    gaps, bin_of_row = confidence_gaps(softmax(logits), labels)
    cell_of_row = labels * classes + logits.argmax(axis=1)

    def per_group(
        column: np.ndarray, columns: int, weights: np.ndarray | None = None
    ) -> np.ndarray:  # (groups, columns)
        counted = np.bincount(group_of_row * columns + column, weights, minlength=n_groups * columns)
        return counted.reshape(n_groups, columns).astype(np.float64)

    cells = per_group(cell_of_row, classes * classes)
    losses = per_group(np.zeros(n, dtype=np.int64), 1, nll(logits, labels))
    gap_sums = per_group(bin_of_row, ECE_BINS, gaps)
    odds = log_odds(logits)
    judged = judged_classes(labels, classes, positive)

    def figures(times: np.ndarray) -> np.ndarray:
        confusion = (times @ cells).reshape(-1, classes, classes)  # [draw, label, decision]
        size = confusion.sum(axis=(1, 2))
        weights = times[:, group_of_row]  # (b, n)
        # A class that a draw lacks is left out of its mean, as in `classification_metrics`.
        aurocs = np.stack([weighted_auroc(odds[:, k], labels == k, weights) for k in judged])
        defined = ~np.isnan(aurocs)
        with np.errstate(invalid="ignore"):
            columns = confusion_figures(confusion) | {
                "auroc": np.where(defined, aurocs, 0.0).sum(axis=0) / defined.sum(axis=0),
                "log_loss": (times @ losses)[:, 0] / size,
                "ece": np.abs(times @ gap_sums).sum(axis=1) / size,
            }
        return np.stack([np.where(size > 0, columns[name], np.nan) for name in METRICS], axis=1)

    return figures


def _flawless_lows(
    logits: np.ndarray, labels: np.ndarray, group_of_row: np.ndarray, values: dict[str, float]
) -> dict[str, float]:
    """Lower ends for perfect metrics, from the number of mistakes that so few groups could hide.

    The figures that weigh classes take the bound of each class at once (alpha split over the classes) and are
    computed from the confusion matrix that follows; AUROC is at least the rectangle under the ROC point of that
    matrix.
    """
    lows: dict[str, float] = {}
    flawless = values["accuracy"] == 1.0
    accuracy = 1 - flawless_high(len(np.unique(group_of_row)))
    present = np.unique(labels)
    if len(present) < 2:
        return {"accuracy": accuracy} if flawless else lows
    alpha = ENDS[0] / len(present)
    recall = np.array([1 - flawless_high(len(np.unique(group_of_row[labels == k])), alpha) for k in present])
    if flawless:
        shares = np.array([np.mean(labels == k) for k in present])
        confusion = np.diag(recall) + (1 - np.eye(len(present))) * ((1 - recall) / (len(present) - 1))[:, None]
        bounds = confusion_figures((confusion * shares[:, None])[None])
        lows = {name: float(bound[0]) for name, bound in bounds.items()} | {"accuracy": accuracy}
    if values["auroc"] == 1.0:
        lows["auroc"] = float(np.mean([low * np.delete(recall, k).mean() for k, low in enumerate(recall)]))
    return lows
