"""Compares classifiers on the same rows: differences with intervals, by slice, and the photos they disagree on.

Works on arrays and documents. All classifiers see the same resamples, so the difficulty of a photo cancels. Every run
is compared with the first one. With many runs some difference looks large by chance, so the document says how many
comparisons were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
import sklearn.metrics

from natix_hf.documents.comparison import (
    BesideFirst,
    ComparedRun,
    Comparison,
    Cost,
    DifferingPhoto,
    JudgedDifference,
    McNemar,
    SliceDifference,
)
from natix_hf.documents.figures import Interval
from natix_hf.logits import checked, softmax
from natix_hf.report.intervals import bootstrap_intervals, measured_on, paired_differences
from natix_hf.report.metrics import LOWER_IS_BETTER, METRICS, class_counts, confusion_counts
from natix_hf.report.slices import FEW_GROUPS, FEW_ROWS
from natix_hf.resampling import group_numbers

LISTED = 100  # most photos on which two runs disagree
BY_SLICE = ("accuracy", "balanced_accuracy", "log_loss")


class Judged(NamedTuple):
    """A run to compare: its name, logits `(n, classes)` as served, and its cost, which is only shown."""

    name: str
    logits: np.ndarray
    cost: Cost


def mcnemar(only_first: np.ndarray, only_second: np.ndarray, groups: np.ndarray | None = None) -> McNemar:
    """McNemar's exact test, of photos and of whole groups.

    By photos: under the null hypothesis, each photo that only one of the two gets right is a fair coin (McNemar, 1947;
    two-sided binomial). This test is overconfident if the photos of a group resemble each other. By groups: one coin
    per group swaps the two classifiers on all of its photos, which gives the exact distribution of sum(+-d), where d
    is the surplus of one classifier over the other in each group (a sign-flip test). With one photo in each group the
    two tests are the same.

    Args:
        only_first: `(n,)` True where only the first is right.
        only_second: `(n,)` True where only the second is right.
        groups: `(n,)`, None: each row is a group.
    """
    first, second = int(np.sum(only_first)), int(np.sum(only_second))
    p = float(scipy.stats.binomtest(first, first + second).pvalue) if first + second else 1.0
    ahead = np.asarray(only_first, float) - np.asarray(only_second, float)
    surplus = np.bincount(group_numbers(groups, len(ahead)), ahead)
    sizes, counts = np.unique(np.abs(surplus[surplus != 0]).astype(int), return_counts=True)
    distribution = np.ones(1)  # of the sum, from -reach to reach
    for size, count in zip(sizes.tolist(), counts.tolist()):
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = scipy.stats.binom.pmf(np.arange(count + 1), count, 0.5)
        distribution = np.convolve(distribution, steps)
    reach = len(distribution) // 2
    extreme = np.abs(np.arange(-reach, reach + 1)) >= abs(round(surplus.sum()))
    return McNemar(
        only_first=first,
        only_second=second,
        p=p,
        p_groups=float(min(1.0, distribution[extreme].sum())),
        groups=int(counts.sum()),
    )


def comparison_document(
    runs: Sequence[Judged],
    labels: np.ndarray,
    groups: np.ndarray | None,
    ids: Sequence[str],
    slices: Mapping[str, np.ndarray],
    label_names: Sequence[str],
    positive: int = 1,
    *,
    split: str = "val_test",
    notes: Sequence[str] = (),
    n_boot: int = 1000,
    seed: int = 0,
) -> Comparison:
    """The content of `comparison.json`; a figure that is not defined is None.

    Args:
        runs: two or more with different names; row i of each is the same photo. All are compared with the first.
        labels: `(n,)` class ids.
        groups: `(n,)`, None: each row is a group.
        ids: `(n,)` names of the photos.
        slices: column -> `(n,)` kinds of photos.
        notes: sentences that belong to the comparison.

    Raises:
        ValueError: fewer than two runs, a repeated name, or shapes that do not match.
    """
    names = [run.name for run in runs]
    if len(runs) < 2 or len(set(names)) < len(names):
        raise ValueError(f"expected two or more runs with different names, found {', '.join(names) or 'none'}")
    labels = checked(runs[0].logits, labels)[1]
    options = {"positive": positive, "n_boot": n_boot, "seed": seed}
    decided = [checked(run.logits, labels)[0].argmax(axis=1) for run in runs]
    rows = _Rows(labels, group_numbers(groups, len(labels)), np.asarray(ids, dtype=object), slices)
    return Comparison(
        **measured_on(split, len(labels), groups, positive_label=label_names[positive], resamples=n_boot),
        labels=class_counts(labels, label_names),
        runs=[
            ComparedRun(
                name=run.name,
                cost=run.cost,
                metrics=Interval.each(bootstrap_intervals(run.logits, labels, groups, **options)),
            )
            for run in runs
        ],
        agreement=[[float(np.mean(one == other)) for other in decided] for one in decided],
        first=runs[0].name,
        beside_first=[_beside(runs[0], run, rows, label_names, options) for run in runs[1:]],
        notes=[*notes, *_notes(len(runs) - 1)],
    )


class _Rows(NamedTuple):
    labels: np.ndarray
    groups: np.ndarray
    ids: np.ndarray
    slices: Mapping[str, np.ndarray]


def _beside(first: Judged, other: Judged, rows: _Rows, label_names: Sequence[str], options: dict) -> BesideFirst:
    """Compare one run with the first; differences are the run minus the first."""
    labels = rows.labels
    of_first, of_other = first.logits.argmax(axis=1), other.logits.argmax(axis=1)
    first_right, other_right = of_first == labels, of_other == labels
    only_first, only_other = first_right & ~other_right, other_right & ~first_right
    differences = paired_differences(other.logits, first.logits, labels, rows.groups, **options)
    return BesideFirst(
        name=other.name,
        difference={name: _verdict(name, differences[name]) for name in METRICS},
        mcnemar=mcnemar(only_first, only_other, rows.groups),
        right={
            "both": int(np.sum(first_right & other_right)),
            "only_first": int(np.sum(only_first)),
            "only_this": int(np.sum(only_other)),
            "neither": int(np.sum(~first_right & ~other_right)),
        },
        decisions=confusion_counts(of_first, of_other, len(label_names)).tolist(),
        agreement=float(np.mean(of_first == of_other)),
        kappa=_kappa(of_first, of_other),
        slices=_slices(first, other, rows, options),
        differ=int(np.sum(of_first != of_other)),
        photos=_differing(first, other, rows, label_names),
    )


def _slices(first: Judged, other: Judged, rows: _Rows, options: dict) -> list[SliceDifference]:
    slices = []
    for column, values in rows.slices.items():
        values = np.asarray(values, dtype=object)
        for kind in sorted(set(values)):
            inside = values == kind
            labels, groups = rows.labels[inside], rows.groups[inside]
            n, count = len(labels), len(np.unique(groups))
            gaps = paired_differences(other.logits[inside], first.logits[inside], labels, groups, **options)
            small = n < FEW_ROWS or count < FEW_GROUPS
            figures = {name: _verdict(name, gaps[name], judge=not small) for name in BY_SLICE}
            slices.append(SliceDifference(column=column, value=kind, n=n, groups=count, small=small, **figures))
    # From the largest loss to the largest win; small slices come last, as in `slices.json`.
    slices.sort(key=lambda entry: (entry.small, entry.balanced_accuracy.difference or 0.0, entry.column))
    return slices


def _differing(first: Judged, other: Judged, rows: _Rows, label_names: Sequence[str]) -> list[DifferingPhoto]:
    """The photos on which decisions differ, sorted by the difference in the probability of the label."""
    every = np.arange(len(rows.labels))
    shares = [softmax(run.logits)[every, rows.labels] for run in (first, other)]
    of_first, of_other = first.logits.argmax(axis=1), other.logits.argmax(axis=1)
    differing = np.flatnonzero(of_first != of_other)
    gaps = np.abs(shares[0] - shares[1])[differing]
    order = differing[np.lexsort((rows.ids[differing].astype(str), -gaps))][:LISTED]
    return [
        DifferingPhoto(
            id=str(rows.ids[row]),
            label=label_names[rows.labels[row]],
            first=label_names[of_first[row]],
            this=label_names[of_other[row]],
            first_p=float(shares[0][row]),
            this_p=float(shares[1][row]),
        )
        for row in order
    ]


def _verdict(metric: str, gap: Mapping[str, float], *, judge: bool = True) -> JudgedDifference:
    """The difference, and which run is better: `first`, `this`, or None if the interval contains 0."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    better = None
    if judge and sign * gap["low"] > 0 and sign * gap["high"] > 0:
        better = "this"
    elif judge and sign * gap["low"] < 0 and sign * gap["high"] < 0:
        better = "first"
    return JudgedDifference.of(gap, better=better)


def _kappa(first: np.ndarray, second: np.ndarray) -> float | None:
    """Cohen's kappa; None if both always decide for the same class."""
    if len(set(first) | set(second)) < 2:
        return None
    return float(sklearn.metrics.cohen_kappa_score(first, second))


def _notes(others: int) -> list[str]:
    notes = [
        "p in McNemar's test is the probability of a difference at least this large if both runs were equally good; p "
        "by photos assumes that photos are independent, so if groups have several photos, use p by groups"
    ]
    if others > 1:
        notes.append(
            f"{others} runs were compared with the first one: the more runs are compared, the more likely one of them "
            "differs by chance alone"
        )
    return notes
