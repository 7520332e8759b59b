"""Metrics on photos that challenge profiles distort, compared with the clean photos: `robustness.json`.

Every comparison is paired: the same rows and the same resamples of groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from natix_hf.documents.figures import Difference, Interval
from natix_hf.documents.reward import RewardEntry
from natix_hf.documents.robustness import Case, Latency, ProfileFigures, Robustness
from natix_hf.report.intervals import bootstrap_intervals, intervals_beside, measured_on
from natix_hf.report.summary import difference_text, figure_and_interval


@dataclass(frozen=True)
class Sent:
    """Logits of all rows under one distortion.

    Args:
        level: of the profile; None: all levels.
        distortion, severity: a single distortion applied to level 0; None: the level's own mix.
        logits: `(n, classes)`, in the order of the clean logits.
    """

    level: int | None
    distortion: str | None
    severity: int | None
    logits: np.ndarray


def robustness_document(
    clean: np.ndarray,
    profiles: Mapping[str, Sequence[Sent]],
    labels: np.ndarray,
    groups: np.ndarray | None,
    *,
    label_names: Sequence[str],
    positive: int = 1,
    how_sent: Mapping[str, str] | None = None,
    latency: Latency | None = None,
    split: str = "val_test",
    n_boot: int = 1000,
    seed: int = 0,
) -> Robustness:
    """Compute `robustness.json`.

    Args:
        clean: `(n, classes)` logits of the clean photos, calibrated as the model gives them.
        profiles: dated name of a profile -> its levels, level 0 first, and then its single distortions. Two kinds of
            cases are added: all levels together, since they are sent equally often, and severity 0 of each
            distortion, which is level 0.
        labels: `(n,)` class ids.
        groups: `(n,)`; None: each row is a group.
        how_sent: profile -> how it processed the photos, which is reported with its metrics.
        latency: result of `latency_document`.
    """
    options = {"positive": positive, "n_boot": n_boot, "seed": seed}
    measured = []
    for profile, ways in profiles.items():
        levels = [way.logits for way in ways if way.distortion is None]
        every_way = [Sent(None, None, None, np.concatenate(levels)), *ways] if len(levels) > 1 else ways
        figures = intervals_beside(clean, [way.logits for way in every_way], labels, groups, **options)
        cases = []
        for way, (intervals, differences) in zip(every_way, figures, strict=True):
            case = _case(way, intervals, differences)
            if way is ways[0]:
                plain = case
            if way.distortion not in (None, *(other.distortion for other in cases)):
                cases.append(plain.model_copy(update={"distortion": way.distortion, "severity": 0}))
            cases.append(case)
        how = {} if how_sent is None else {"sent": how_sent[profile]}
        measured.append(ProfileFigures(profile=profile, **how, cases=cases))
    return Robustness(
        **measured_on(split, len(labels), groups, positive_label=label_names[positive], resamples=n_boot),
        clean=Interval.each(bootstrap_intervals(clean, labels, groups, **options)),
        profiles=measured,
        latency=latency,
    )


def _case(way: Sent, intervals: dict, differences: dict) -> Case:
    return Case(
        level=way.level,
        distortion=way.distortion,
        severity=way.severity,
        n=len(way.logits),
        metrics=Interval.each(intervals),
        difference=Difference.each(differences),
    )


def case_text(case: Case) -> str:
    """How the photos of a case were changed."""
    if case.distortion is not None:
        return f"{case.distortion}, severity {case.severity}"
    return "all levels" if case.level is None else f"level {case.level}"


def sent_text(profiles: Sequence[ProfileFigures | RewardEntry]) -> str:
    """How the photos were sent, with the profiles in brackets; an empty string if no profile says it."""
    names: dict[str, dict[str, None]] = {}
    for profile in profiles:
        if profile.sent:
            names.setdefault(profile.sent, {})[profile.profile] = None
    return "; ".join(f"{sent} ({', '.join(of_profiles)})" for sent, of_profiles in names.items())


def latency_document(seconds: Sequence[float], cores: int, threads: int, limit: float) -> Latency:
    """Summarise the time that a photo takes.

    Args:
        seconds: for each photo, from its bytes to the logits, one at a time.
        cores: of the machine.
        threads: used by the model.
        limit: seconds that a client may take.
    """
    taken = np.asarray(seconds, dtype=np.float64)
    return Latency(
        n=len(taken),
        device="cpu",
        cores=cores,
        threads=threads,
        limit=limit,
        over_limit=int((taken > limit).sum()),
        mean=float(taken.mean()),
        p50=float(np.quantile(taken, 0.5)),
        p99=float(np.quantile(taken, 0.99)),
        max=float(taken.max()),
    )


def robustness_lines(document: Robustness, metric: str = "mcc") -> list[str]:
    """The printed lines of `robustness.json`: the metric on clean photos and on each level of a profile, latency."""
    clean = document.clean[metric]
    lines = [
        f"{metric.upper()} on {document.split} ({document.n} photos, {document.groups} groups): clean "
        f"{figure_and_interval(clean)}"
    ]
    for profile in document.profiles:
        for case in profile.cases:
            if case.distortion is not None:
                continue
            lines.append(
                f"  {profile.profile} {case_text(case)}: {figure_and_interval(case.metrics[metric])}, "
                f"change from clean {difference_text(case.difference[metric])}"
            )
    if sent := sent_text(document.profiles):
        lines.append(f"  sent: {sent}")
    if latency := document.latency:
        limit = f"the limit of {latency.limit:g} s"
        verdict = f"{latency.over_limit} over {limit}" if latency.over_limit else f"all within {limit}"
        lines.append(
            f"latency on this CPU ({latency.cores} cores, {latency.threads} threads; {latency.n} photos one "
            f"by one): p50 {latency.p50:.2f} s, p99 {latency.p99:.2f} s, {verdict}"
        )
    return lines
