"""Chooses the result of pretraining among its milestones by probes on frozen features, never by the loss.

The original checkpoint is a candidate and is kept unless the interval of the difference shows that a milestone is
better. Probes are fitted on `train` and scored on `val_select`. A forgetting probe scores photos of another kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from natix_hf.documents.figures import Difference
from natix_hf.documents.pretraining import Candidate, MilestoneChoice
from natix_hf.inference.feature_probes import few_labels, neighbour_logits, probe_logits
from natix_hf.report.intervals import group_count, paired_differences
from natix_hf.report.metrics import LOWER_IS_BETTER, classification_metrics

SHARES = {"1%": 0.01, "10%": 0.1, "100%": 1.0}
DRAWS = 5  # of few labels, whose mean is the score
Features = Callable[[Path | None, Any], np.ndarray]  # of a milestone (None: the original) and rows: `(n, dim)`


class Judge:
    """Scores frozen features on one set of labelled rows.

    Args:
        train, judged: rows to fit on and rows to score, with `label` and `group`.
        metric: name of the score.
        positive: id of the positive class.
    """

    def __init__(self, train: Any, judged: Any, metric: str, positive: int) -> None:
        self.train, self.judged, self.metric, self.positive = train, judged, metric, positive
        self.labels, self.wanted = np.array(train["label"][:]), np.array(judged["label"][:])
        self.classes = len(train.features["label"].names)
        self.groups = np.asarray(judged["group"][:], dtype=object)
        own = np.asarray(train["group"][:], dtype=object)
        self.subsets = {
            name: [few_labels(self.labels, own, share, seed) for seed in range(DRAWS if share < 1 else 1)]
            for name, share in SHARES.items()
        }

    def score(self, logits: np.ndarray) -> float:
        """The metric; 0 if it is undefined."""
        return float(np.nan_to_num(classification_metrics(logits, self.wanted, self.positive)[self.metric]))

    def probes(
        self, features: np.ndarray, judged: np.ndarray
    ) -> tuple[dict[str, float | None], dict[str, list[np.ndarray]]]:
        """By share of the labels: the score, and the logits of each draw. None if a class is missing."""
        scores: dict[str, float | None] = dict.fromkeys(self.subsets)
        logits: dict[str, list[np.ndarray]] = {}
        for name, subsets in self.subsets.items():
            if all(rows is not None for rows in subsets):
                logits[name] = [
                    probe_logits(features[rows], self.labels[rows], judged, self.classes) for rows in subsets
                ]
                scores[name] = float(np.mean([self.score(draw) for draw in logits[name]]))
        return scores, logits

    def differences(
        self, ours: dict[str, list[np.ndarray]], theirs: dict[str, list[np.ndarray]], level: float
    ) -> dict[str, Difference]:
        """By share of the labels: our score minus theirs, with its interval over all draws of the share together."""
        differences = {}
        for name, draws in ours.items():
            labels, groups = (np.tile(values, len(draws)) for values in (self.wanted, self.groups))
            logits = np.concatenate(draws), np.concatenate(theirs[name])
            gap = paired_differences(*logits, labels, groups, positive=self.positive, level=level)
            differences[name] = Difference.of(gap[self.metric])
        return differences

    def neighbours(self, features: np.ndarray, judged: np.ndarray) -> float:
        """The score of nearest neighbours."""
        return self.score(neighbour_logits(features, self.labels, judged, self.classes))


def choose(
    milestones: Sequence[Path],
    steps: Sequence[int],
    features: Features,
    judge: Judge,
    *,
    forgetting: Judge | None = None,
    forgetting_name: str | None = None,
    level: float = 0.95,
) -> MilestoneChoice:
    """Probe the original and every milestone, and choose.

    Args:
        milestones: their folders.
        steps: the training step of each milestone.
        features: computes the frozen features of a milestone.
        judge: scores on the data of the run.
        forgetting: scores on a data set of another kind; `forgetting_name` is its name.
        level: confidence level of all intervals together (Bonferroni).
    """
    metric, sign = judge.metric, -1.0 if judge.metric in LOWER_IS_BETTER else 1.0
    level = 1 - (1 - level) / max(1, len(milestones))
    candidates: list[Candidate] = []
    first: dict[str, list[np.ndarray]] = {}
    for place, step in zip([None, *milestones], [0, *steps]):
        own, judged = features(place, judge.train), features(place, judge.judged)
        probes, logits = judge.probes(own, judged)
        beside = judge.differences(logits, first, level) if first else {}
        first = first or logits
        lost = None
        if forgetting is not None:
            lost = forgetting.probes(features(place, forgetting.train), features(place, forgetting.judged))[0]["100%"]
        candidates.append(
            Candidate(
                step=step,
                probes=probes,
                knn=judge.neighbours(own, judged),
                forgetting=lost,
                beside_original=beside,
            )
        )
    best = max(candidates[1:], key=lambda one: (sign * one.probes["100%"], sign * one.knn, -one.step))
    gap, original = best.beside_original["100%"], candidates[0].probes["100%"]
    ends = {name: getattr(gap, name) for name in ("difference", "low", "high")}
    beaten = None not in ends.values() and min(sign * ends["low"], sign * ends["high"]) > 0
    shown = f"{metric} {best.probes['100%']:.3f} against {original:.3f} of the original"
    if None not in ends.values():
        shown += f" ({ends['difference']:+.3f}, {level:.1%} interval {ends['low']:+.3f} to {ends['high']:+.3f})"
    reason = f"the milestone of step {best.step} beats the original: {shown}"
    if not beaten:
        reason = (
            f"the original is kept, because no milestone is clearly better; the best one, of step {best.step}: {shown}"
        )
    return MilestoneChoice(
        metric=metric,
        rows=len(judge.wanted),
        groups=group_count(judge.groups, len(judge.wanted)),
        level=level,
        forgetting_name=forgetting_name,
        candidates=candidates,
        chosen=best.step if beaten else 0,
        reason=reason,
    )


def choice_lines(choice: MilestoneChoice) -> list[str]:
    """The table of candidates as text, and the reason."""
    heads = ["step", *SHARES, "k-NN", *(["forgetting"] if choice.forgetting_name else [])]
    lines = [
        f"{choice.metric} on val_select ({choice.rows} photos, {choice.groups} groups), probes by share of the labels:"
    ]
    lines.append("  ".join(f"{head:>10}" for head in heads))
    for one in choice.candidates:
        values = [*one.probes.values(), one.knn, *([one.forgetting] if choice.forgetting_name else [])]
        cells = ["original" if one.step == 0 else str(one.step), *("-" if v is None else f"{v:.3f}" for v in values)]
        lines.append("  ".join(f"{cell:>10}" for cell in cells))
    return [*lines, choice.reason]
