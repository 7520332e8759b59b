"""Measures the effect of guides in pretraining: how well a probe predicts their columns, and the worst slice.

Probes on frozen features are fitted on `train` and scored on `val_select`, like those for the classes. The results do
not affect the choice of the milestone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from natix_hf.data.splits.slicing import kinds_of_rows
from natix_hf.documents.figures import Difference, Interval
from natix_hf.documents.pretraining import Candidate, GuidedColumn, GuideProbe, MilestoneChoice, WorstSlice
from natix_hf.inference.feature_probes import probe_logits
from natix_hf.report.intervals import bootstrap_intervals, group_count, paired_differences
from natix_hf.report.slices import FEW_GROUPS, FEW_ROWS


class GuideJudge:
    """Judges frozen features by the columns of guides; the original comes first.

    Args:
        train, judged: rows with `label`, `group` and the columns.
        words: column -> `spurious` or `informative`.
        positive: class that a score of one class speaks of.
    """

    def __init__(self, train: Any, judged: Any, words: Mapping[str, str], positive: int) -> None:
        self.labels, self.positive = np.array(judged["label"][:]), positive
        self.groups = np.asarray(judged["group"][:], dtype=object)
        self.values = {column: np.asarray(kinds_of_rows(judged, column), dtype=object) for column in words}
        self.fitted: dict[str, np.ndarray] = {}  # kinds of the rows of train, -1 without a value
        self.wanted: dict[str, np.ndarray] = {}  # of the judged ones, -1 also for a kind that train has not
        self.columns: dict[str, GuidedColumn] = {}
        self.first: dict[str, np.ndarray] = {}
        for column, word in words.items():
            own = kinds_of_rows(train, column)
            place = {kind: number for number, kind in enumerate(sorted(set(own) - {None}))}
            self.fitted[column] = np.array([place.get(kind, -1) for kind in own])
            self.wanted[column] = np.array([place.get(kind, -1) for kind in self.values[column]])
            there = self.wanted[column] >= 0
            kinds = len(np.unique(self.wanted[column][there]))
            self.columns[column] = GuidedColumn(
                word=word,
                rows=int(there.sum()),
                groups=group_count(self.groups[there], int(there.sum())) if there.any() else 0,
                kinds=kinds,
                chance=1 / kinds if kinds > 1 else None,
            )

    def judge(self, features: np.ndarray, judged: np.ndarray, logits: np.ndarray, level: float) -> dict[str, Any]:
        """The fields of a `Candidate` that speak of guides.

        Args:
            features, judged: `(n, dim)` of the rows of train and of the judged ones.
            logits: `(n, classes)` of the class probe, of the judged rows.
            level: of the intervals.
        """
        found = {}
        for column, told in self.columns.items():
            if told.chance is None:
                continue
            fitted, there = self.fitted[column], self.wanted[column] >= 0
            known, wanted, groups = fitted >= 0, self.wanted[column][there], self.groups[there]
            said = probe_logits(features[known], fitted[known], judged[there], int(fitted.max()) + 1)
            figures = bootstrap_intervals(said, wanted, groups, level=level)
            names = ("accuracy", "balanced_accuracy", "auroc")
            beside = {}
            if column in self.first:
                gap = paired_differences(said, self.first[column], wanted, groups, level=level)
                beside["beside_original"] = Difference.of(gap["balanced_accuracy"])
            self.first.setdefault(column, said)
            found[column] = GuideProbe(**{name: Interval.of(figures[name]) for name in names}, **beside)
        return {"guides": found, "worst_slice": self._worst(logits, level)}

    def _worst(self, logits: np.ndarray, level: float) -> WorstSlice | None:
        """The slice with the lowest balanced accuracy; those that are small or lack a class are left out."""
        found = []
        for column, values in self.values.items():
            for value in sorted(set(values) - {None}):
                rows = values == value
                n, groups = int(rows.sum()), group_count(self.groups[rows], int(rows.sum()))
                if n < FEW_ROWS or groups < FEW_GROUPS or len(set(self.labels[rows])) < logits.shape[1]:
                    continue
                figures = bootstrap_intervals(
                    logits[rows], self.labels[rows], self.groups[rows], positive=self.positive, level=level
                )
                score = Interval.of(figures["balanced_accuracy"])
                found.append(WorstSlice(column=column, value=value, n=n, groups=groups, balanced_accuracy=score))
        return min(found, key=lambda one: one.balanced_accuracy.value, default=None)


def guide_lines(choice: MilestoneChoice, best: Candidate) -> list[str]:
    """What guides did, a sentence for each, from the original to the best milestone; nothing where there are none."""
    if not choice.guides:
        return []
    original, lines = choice.candidates[0], []
    for column, told in choice.guides.items():
        if told.chance is None:
            lines.append(
                f"{column} ({told.word}): not measured: val_select has {told.kinds} of the values that train has, two "
                "are needed"
            )
            continue
        before, after = original.guides[column], best.guides[column]
        gap = after.beside_original
        interval = f" ({gap.low:+.2f} to {gap.high:+.2f})" if gap.low is not None else ""
        lines.append(
            f"{column} ({told.word}): predicted at {before.balanced_accuracy.value:.2f} before, "
            f"{after.balanced_accuracy.value:.2f} after (chance {told.chance:.2f}); balanced accuracy of a probe, "
            f"difference {gap.difference:+.2f}{interval}"
        )
    lines.append(f"worst slice of the class probe: {slice_text(original)} before, {slice_text(best)} after")
    if not choice.chosen:
        lines.append(f"after: the milestone of step {best.step}; the original, which is kept, is as before")
    return lines


def slice_text(one: Candidate) -> str:
    """A candidate's worst slice in a few words."""
    worst = one.worst_slice
    if worst is None:
        return f"none of {FEW_ROWS} photos in {FEW_GROUPS} groups with all classes"
    score = worst.balanced_accuracy
    return f"{worst.column} = {worst.value} {score.value:.2f} ({score.low:.2f} to {score.high:.2f})"
