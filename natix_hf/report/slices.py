"""Metrics by kind of photo (weather, city, source, ...), each compared with all other photos, the worst kind first.

Such a table can mislead in three ways:

- Metrics of few rows vary widely. Sorted by the metric, or by the lower end of its interval, the smallest slices would
  come first. So slices are sorted by the *upper* end of the interval of their difference to the rest: a slice comes
  first if it is worse even by a favourable reading, and a wide interval moves it back. With fewer than 30 rows or 10
  groups a bootstrap interval means little; such slices are marked as small and come last.
- A slice with more photos of the harder class looks worse than it is. So the order uses balanced accuracy over the
  classes that both sides have, which does not depend on class shares.
- Among many slices some look bad by chance. So p-values are adjusted for all slices that are not small (Benjamini and
  Yekutieli, 2001, valid for overlapping slices), and the document says how many slices were compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats

from natix_hf.documents.figures import Difference, Interval
from natix_hf.documents.slices import Slice, Slices, Small
from natix_hf.logits import checked
from natix_hf.report.intervals import (
    NEED_TWO_CLASSES,
    bootstrap_intervals,
    difference_to_rest,
    measured_on,
)
from natix_hf.report.metrics import METRICS, class_counts
from natix_hf.report.summary import LABELS, difference_text, figure_and_interval
from natix_hf.resampling import LEVEL, group_numbers

FEW_ROWS, FEW_GROUPS = 30, 10
LISTED = 3  # slices in the lines of a command
RANKED_BY = "balanced_accuracy"
_CELLS = 5_000_000  # rows times resamples of one slice; keeps it to seconds


def slices_document(
    logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    slices: Mapping[str, np.ndarray],
    label_names: Sequence[str],
    positive: int = 1,
    *,
    split: str = "val_test",
    n_boot: int = 1000,
    seed: int = 0,
) -> Slices:
    """Compute `slices.json`; a metric that is not defined is None.

    Args:
        logits: `(n, classes)` as served; the decision is the largest.
        labels: `(n,)` class ids.
        groups: `(n,)` the group of each row; None: each row is a group.
        slices: column -> `(n,)` value of each row, text.
        n_boot: number of resamples; fewer for over 5,000 rows (the document says how many).

    Raises:
        ValueError: as `classification_metrics`, or a column of another length.
    """
    logits, labels = checked(logits, labels)
    groups = group_numbers(groups, len(labels))
    n_boot = min(n_boot, max(200, _CELLS // len(labels)))
    options = {"positive": positive, "n_boot": n_boot, "seed": seed}
    entries: list[Slice] = []
    columns = {}
    for column, values in slices.items():
        values = np.asarray(values, dtype=object)
        if values.shape != labels.shape:
            raise ValueError(f"slices: expected {len(labels)} values of {column}, found shape {values.shape}")
        kinds = sorted(set(values))
        if len(kinds) < 2:
            continue
        columns[column] = len(kinds)
        for kind in kinds:
            entries.append(_slice(column, kind, logits, labels, groups, values == kind, label_names, options))
    entries = sorted(_adjusted(entries), key=_place)
    return Slices(
        **measured_on(split, len(labels), groups, positive_label=label_names[positive], resamples=n_boot),
        small=Small(rows=FEW_ROWS, groups=FEW_GROUPS),
        ranked_by=RANKED_BY,
        columns=columns,
        looked_at=len(entries),
        stand_out=sum(one.stands_out for one in entries),
        note=_note(entries),
        slices=entries,
    )


def slice_lines(document: Slices) -> list[str]:
    """What a command prints: the worst slices that are not small, one line each, and a note on chance."""
    shown = [entry for entry in document.slices if not entry.small][:LISTED]
    if not document.slices:
        return []
    if not shown:
        small = document.small
        return [f"slices: none of {document.looked_at} has at least {small.rows} photos in {small.groups} groups"]
    lines = [f"slices: the worst of {document.looked_at} by {LABELS[RANKED_BY]}, without the small ones"]
    for entry in shown:
        lines.append(
            f"  {entry.column} = {entry.value}: {figure_and_interval(entry.metrics[RANKED_BY])}, "
            f"{difference_text(entry.difference[RANKED_BY])} to the rest{_rates_text(entry)}; {entry.n} photos, "
            f"{entry.groups} groups"
        )
    return [*lines, f"  {document.note}"]


def _rates_text(one: Slice) -> str:
    rates = (("FPR", one.fpr), ("FNR", one.fnr))
    return "".join(f", {name} {figure_and_interval(rate)}" for name, rate in rates if rate)


def _slice(
    column: str,
    value: str,
    logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    inside: np.ndarray,
    label_names: Sequence[str],
    options: dict,
) -> Slice:
    n, n_groups = int(inside.sum()), len(np.unique(groups[inside]))
    intervals = bootstrap_intervals(logits[inside], labels[inside], groups[inside], **options)
    difference = difference_to_rest(logits, labels, groups, inside, **options)
    if len(np.unique(labels[inside])) < 2:
        intervals |= {name: dict.fromkeys(("value", "low", "high"), math.nan) for name in NEED_TWO_CLASSES}
    ranked = difference[RANKED_BY]
    return Slice(
        column=column,
        value=value,
        n=n,
        groups=n_groups,
        labels=class_counts(labels[inside], label_names),
        small=n < FEW_ROWS or n_groups < FEW_GROUPS,
        metrics=Interval.each(intervals),
        **_rates(logits, labels, groups, inside, options),
        difference={
            name: Difference.of({k: difference[name][k] for k in ("difference", "low", "high")}) for name in METRICS
        },
        p=_p_value(ranked["difference"], ranked["error"]),
        p_adjusted=None,
        stands_out=False,
    )


def _rates(
    logits: np.ndarray, labels: np.ndarray, groups: np.ndarray, inside: np.ndarray, options: dict
) -> dict[str, Interval]:
    """`fpr` and `fnr` of two classes, if the slice has photos of them: 1 - accuracy on these photos."""
    if logits.shape[1] != 2:
        return {}
    rates = {}
    for name, label in (("fpr", 1 - options["positive"]), ("fnr", options["positive"])):
        rows = inside & (labels == label)
        if rows.any():
            right = bootstrap_intervals(logits[rows], labels[rows], groups[rows], **options)["accuracy"]
            ends = {"value": right["value"], "low": right["high"], "high": right["low"]}
            rates[name] = Interval.of({end: 1 - share for end, share in ends.items()})
    return rates


def _p_value(difference: float, error: float) -> float | None:
    """Two-sided p-value, normal with the bootstrap's standard error; None if nothing varies."""
    if not (math.isfinite(difference) and math.isfinite(error) and error > 0):
        return None
    return float(2 * scipy.stats.norm.sf(abs(difference) / error))


def _adjusted(entries: list[Slice]) -> list[Slice]:
    """Add `p_adjusted` and `stands_out`; small slices are not tested."""
    tested = [i for i, one in enumerate(entries) if not one.small and one.p is not None]
    if not tested:
        return entries
    adjusted = scipy.stats.false_discovery_control([entries[i].p for i in tested], method="by")
    judged = {
        i: entries[i].model_copy(update={"p_adjusted": float(p), "stands_out": bool(p < 1 - LEVEL)})
        for i, p in zip(tested, adjusted)
    }
    return [judged.get(i, one) for i, one in enumerate(entries)]


def _place(one: Slice) -> tuple:
    high = one.difference[RANKED_BY].high
    return (one.small, high is None, 0.0 if high is None else high, -one.n, one.column, one.value)


def _note(entries: Sequence[Slice]) -> str:
    tested = sum(one.p_adjusted is not None for one in entries)
    if not tested:
        return "no slice is large enough to be tested"
    chance = (1 - LEVEL) * tested
    out = sum(one.stands_out for one in entries)
    stand = f"{out} stand out" if out > 1 else f"{out or 'none'} stands out"
    return (
        f"of {tested} tested slices, about {chance:.1f} would differ from the rest by chance alone at "
        f"{LEVEL:.0%}; {stand} after correction for that"
    )
