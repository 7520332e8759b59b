"""Metrics of a classifier at declared class shares, from labelled photos with other class shares.

Photos of a class are assumed to look alike in both places (label shift). So every metric is composed of the means of
each class, weighted by the declared shares. Intervals resample whole groups. A class without a mistake would have no
mistake in any resample either; its mistake rate is drawn from the rates that so few groups could hide (the upper bound
of Clopper and Pearson, 1934, at every level).
"""

from __future__ import annotations

import numpy as np

from natix_hf.logits import ECE_BINS, confidence_gaps, nll, softmax
from natix_hf.resampling import group_numbers, interval_ends, on_resamples, without_added_noise


def figures_at_shares(
    calibrated: np.ndarray,
    decisions: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    shares: np.ndarray,
    *,
    positive: int = 1,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Every metric and its resamples.

    Args:
        calibrated: `(n, classes)` logits of the probabilities to evaluate.
        decisions, labels: `(n,)` class ids.
        groups: `(n,)`, resampled as a whole; None: each row is a group.
        shares: `(classes,)` declared shares of the classes.
        positive: class of precision, recall and false-positive rate.
        n_boot, seed: of the resampling; resamples of two classifiers on the same rows and seed are pairs.

    Returns:
        Name -> `(1 + n_boot,)`, the metric itself first: `accuracy` and, for two classes, `mcc`, `precision`, `recall`
        and `fpr` of the decisions, `nll` (nats per photo), `brier` (sum over classes) and `ece` (15 bins) of the
        probabilities.
    """
    labels, decisions = np.asarray(labels), np.asarray(decisions)
    shares = np.asarray(shares, dtype=np.float64) / np.sum(shares)
    number = group_numbers(groups, len(labels))
    n_groups = int(number.max()) + 1
    probabilities = softmax(calibrated)
    gaps, bins = confidence_gaps(probabilities, labels)
    per_row = np.zeros((len(labels), 4 + ECE_BINS))
    per_row[:, 0] = 1
    per_row[:, 1] = decisions != labels
    per_row[:, 2] = nll(calibrated, labels)
    per_row[:, 3] = ((probabilities - np.eye(len(shares))[labels]) ** 2).sum(axis=1)
    per_row[np.arange(len(labels)), 4 + bins] = gaps
    sums = np.zeros((len(shares), n_groups, per_row.shape[1]))
    np.add.at(sums, (labels, number), per_row)

    def summed(times: np.ndarray) -> np.ndarray:  # (b, groups) -> (b, classes, columns)
        return np.einsum("bg,kgc->bkc", times, sums)

    drawn = on_resamples(summed, n_groups, n_boot, seed, width=n_groups)
    totals = np.concatenate([summed(np.ones((1, n_groups))), drawn])
    counts = totals[:, :, :1]
    means = np.divide(totals[:, :, 1:], counts, out=np.full(totals[:, :, 1:].shape, np.nan), where=counts > 0)
    wrong = means[:, :, 0]
    generator = np.random.default_rng([seed, 2])
    for k in range(len(shares)):
        hidden = 1 - generator.random(n_boot) ** (1 / max(1, int((sums[k, :, 0] > 0).sum())))
        if sums[k, :, 1].sum() == 0:
            wrong[1:, k] = np.where(np.isnan(wrong[1:, k]), np.nan, hidden)
    mixed = np.einsum("bkc,k->bc", means, shares)
    figures = {"accuracy": 1 - wrong @ shares}
    if len(shares) == 2:
        miss, alarm = wrong[:, positive], wrong[:, 1 - positive]
        tp, fn = shares[positive] * (1 - miss), shares[positive] * miss
        fp, tn = shares[1 - positive] * alarm, shares[1 - positive] * (1 - alarm)
        spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        figures |= {"mcc": _ratio(tp * tn - fp * fn, spread), "precision": _ratio(tp, tp + fp)}
        figures |= {"recall": 1 - miss, "fpr": alarm}
    return figures | {"nll": mixed[:, 1], "brier": mixed[:, 2], "ece": np.abs(mixed[:, 3:]).sum(axis=1)}


def with_intervals(figures: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """`value`, `low` and `high` of each metric of `figures_at_shares`, or of differences of two of them."""
    intervals = {}
    for name, values in figures.items():
        drawn = values[1:]  # NaN for a resample without a class
        if name == "ece" and (values >= 0).all():  # not a difference of two
            drawn = without_added_noise(drawn, values[0])
        low, high = interval_ends(drawn)
        intervals[name] = {
            "value": float(values[0]),
            "low": float(min(low, values[0])),
            "high": float(max(high, values[0])),
        }
    return intervals


def before_and_after(
    before: dict[str, np.ndarray], after: dict[str, np.ndarray]
) -> dict[str, dict[str, dict[str, float]]]:
    """Both with intervals, and the paired difference after - before; both must have the same rows and seed."""
    difference = {name: after[name] - before[name] for name in before}
    return {
        "before": with_intervals(before),
        "after": with_intervals(after),
        "difference": with_intervals(difference),
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.where(np.isnan(below), np.nan, 0.0))
