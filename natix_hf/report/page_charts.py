"""Draws the charts of a report from arrays and documents.

The charts are training, reliability, ranking, threshold, risk and coverage, cost, and robustness.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import sklearn.metrics

from natix_hf.documents.calibration import ThresholdChoice
from natix_hf.documents.cascade import cost_text
from natix_hf.documents.robustness import Robustness
from natix_hf.documents.selective import CascadeFigures
from natix_hf.logits import ECE_BINS, confidence_gaps, expected_calibration_error
from natix_hf.report.charts import TABLE_ROWS, Axis, Chart, Table, evenly, number, table_of_curves
from natix_hf.report.robustness import sent_text
from natix_hf.report.summary import figure_text

BEFORE_AFTER = ("orange", "blue")  # colours before and after calibration
DRAWN = 400  # most points of a curve; more would be less than a pixel apart
UNIT = (0.0, 1.0)

Series = tuple[list[float], list[float]]  # steps and values


def training_charts(log_history: Sequence[Mapping[str, float | None]]) -> list[Chart]:
    """Losses and MCC over the steps of training.

    Args:
        log_history: `TrainerState.log_history`.
    """

    train, held_out = _series(log_history, "loss"), _series(log_history, "eval_loss")
    score, raw = _series(log_history, "eval_mcc"), _series(log_history, "eval_raw_mcc")
    steps = Axis("training step", 0, max([*train[0], *held_out[0], *score[0]], default=0))
    charts = []
    if train[0] or held_out[0]:
        charts.append(_loss_chart(train, held_out, steps))
    if score[0]:
        charts.append(_score_chart(score, raw, steps))
    return charts


def _series(log_history: Sequence[Mapping[str, float | None]], key: str) -> Series:
    points = [(entry["step"], entry[key]) for entry in log_history if entry.get(key) is not None]
    return [step for step, _ in points], [value for _, value in points]


def _loss_chart(train: Series, held_out: Series, steps: Axis) -> Chart:
    last_train, last_held_out = (number(values[-1] if values else None) for _, values in (train, held_out))
    chart = Chart(
        "Loss during training",
        f"Loss in nats over {steps.high} steps. The last value on train is {last_train}, on val_select "
        f"{last_held_out}.",
        steps,
        Axis("loss (nats)", 0, 1.05 * float(np.nanmax([*train[1], *held_out[1]]))),
        note="The loss is the error that training reduces. If it falls on train but rises on val_select, the "
        "model learns the training photos by heart.",
    )
    chart.line(*train, "gray", "train")
    chart.line(*held_out, "blue", "val_select")
    for step, value in zip(*held_out):
        chart.dot(step, value, "blue", f"val_select at step {step}: {number(value)}", 3.5)
    chart.table = _table_of_series({"train": train, "val_select": held_out})
    return chart


def _score_chart(score: Series, raw: Series, steps: Axis) -> Chart:
    best = int(np.argmax(score[1]))
    chart = Chart(
        "MCC on val_select",
        f"MCC over {steps.high} steps. The highest value is {number(max(score[1]))} at step {score[0][best]}.",
        steps,
        Axis("MCC", min([0.0, *score[1], *raw[1]]), 1.0),
        note="The checkpoint was chosen by this curve, so its best value is too optimistic.",
    )
    chart.line(*raw, "orange dash", "raw weights")
    chart.line(*score, "blue", "averaged weights, which are kept" if raw[0] else "val_select")
    for step, value in zip(*score):
        chart.dot(step, value, "blue", f"step {step}: {number(value)}", 3.5)
    chart.table = _table_of_series({"MCC": score, "raw weights": raw} if raw[0] else {"MCC": score})
    return chart


def _table_of_series(series: Mapping[str, Series]) -> Table:
    steps = sorted({step for xs, _ in series.values() for step in xs})
    columns = [dict(zip(*pair)) for pair in series.values()]
    picked = [steps[i] for i in evenly(len(steps), TABLE_ROWS)]
    heads = ["step", *(name.replace("_", " ") for name in series)]
    return Table(heads, [[str(step), *(number(of.get(step)) for of in columns)] for step in picked])


class _Bins(NamedTuple):
    """Number, mean confidence and share of right decisions of the photos in each confidence bin, each `(bins,)`."""

    size: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float

    @classmethod
    def of(cls, probabilities: np.ndarray, labels: np.ndarray) -> _Bins:
        confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
        _, bin_of_row = confidence_gaps(probabilities, labels)
        size = np.bincount(bin_of_row, minlength=ECE_BINS)
        sums = [np.bincount(bin_of_row, column, minlength=ECE_BINS) for column in (confidence, right)]
        ece = expected_calibration_error(probabilities, labels)
        return cls(size, *(column / np.maximum(size, 1) for column in sums), ece)


def reliability_chart(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> Chart:
    """Share of right decisions by confidence, before and after calibration; `below` counts the photos of each bin.

    Args:
        before, after: `(n, classes)` probabilities, rows sum to 1.
        labels: `(n,)` class ids.
    """
    start = max(0.0, 1 / before.shape[1] - 0.5 / ECE_BINS)
    confidence = Axis("confidence", start, 1.0)
    series = {"before": _Bins.of(before, labels), "after": _Bins.of(after, labels)}
    chart = Chart(
        "Reliability",
        f"Share of right decisions against confidence for {len(labels)} photos. ECE {series['before'].ece:.4f} before "
        f"and {series['after'].ece:.4f} after calibration. A calibrated model is on the diagonal.",
        confidence,
        Axis("share of right decisions", *UNIT),
        readout=False,
        note="Confidence is the probability of the decided class. Each dot is a bin of photos with similar "
        "confidence; a larger dot has more photos. On the dashed line, confidence equals the share of right "
        f"decisions; ECE is the mean distance from it. {len(labels)} photos in {ECE_BINS} bins of equal width.",
    )
    chart.line([start, 1], [start, 1], "gray dash thin")
    for (name, binned), style in zip(series.items(), BEFORE_AFTER):
        size, mean, accuracy, ece = binned
        used = np.flatnonzero(size)
        chart.line(mean[used], accuracy[used], f"{style} thin", f"{name}: ECE {ece:.4f}")
        for i in used:
            text = f"{name}: {size[i]} photos, confidence {mean[i]:.3f}, right {accuracy[i]:.3f}"
            chart.dot(mean[i], accuracy[i], style, text, 3 + 6 * np.sqrt(size[i] / len(labels)))
    chart.below = _photos_by_confidence(series, confidence)
    heads = ["bin", "photos before", "right before", "photos after", "right after"]
    chart.table = Table(heads, [*_reliability_rows([*series.values()])])
    return chart


def _photos_by_confidence(series: Mapping[str, _Bins], confidence: Axis) -> Chart:
    top = max(int(binned.size.max()) for binned in series.values())
    chart = Chart(
        "Photos by confidence",
        "Number of photos in each confidence bin, before and after calibration; the table lists the numbers.",
        confidence,
        Axis("photos", 0, top, counts=True),
        height=160,
        readout=False,
    )
    for (name, binned), style, shift in zip(series.items(), BEFORE_AFTER, (0.0, 0.42)):
        for i in np.flatnonzero(binned.size):
            left = max(confidence.low, i / ECE_BINS + 0.08 / ECE_BINS + shift / ECE_BINS)
            right = min(1.0, i / ECE_BINS + 0.5 / ECE_BINS + shift / ECE_BINS)
            if right > left:
                chart.bar(left, right, binned.size[i], style, f"{name}: {binned.size[i]} photos")
    return chart


def _reliability_rows(series: Sequence[_Bins]) -> Iterator[list[str]]:
    for i in np.flatnonzero(sum(binned.size for binned in series)):
        cells = [[str(one.size[i]), number(one.accuracy[i] if one.size[i] else None)] for one in series]
        yield [f"{i / ECE_BINS:.2f} to {(i + 1) / ECE_BINS:.2f}", *itertools.chain(*cells)]


def ranking_charts(score: np.ndarray, is_positive: np.ndarray, decided: np.ndarray, name: str) -> list[Chart]:
    """ROC and precision-recall curve of the positive class against the rest, with the point of the decisions.

    Args:
        score: `(n,)` values that rank the photos, e.g. log odds.
        is_positive, decided: `(n,)` booleans; both classes must occur.
        name: of the positive class.
    """
    false, true, _ = sklearn.metrics.roc_curve(is_positive, score)
    precision, recall, _ = sklearn.metrics.precision_recall_curve(is_positive, score)
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    fpr, tpr = np.mean(decided[~is_positive]), np.mean(decided[is_positive])
    counts = f"{positives} photos of {name}, {negatives} others."
    roc = Chart(
        "Photos found and false alarms (ROC)",
        f"True-positive rate against false-positive rate. Decisions: {tpr:.4f} against {fpr:.4f}. {counts}",
        Axis("false-positive rate", *UNIT),
        Axis("true-positive rate", *UNIT),
        note=f"True-positive rate: share of the photos of {name} that are found. False-positive rate: share of the "
        f"other photos that are taken for {name}. The curve shows all thresholds, the dot the decisions of the model, "
        f"the dashed line guessing. {counts}",
    )
    roc.line([0, 1], [0, 1], "gray dash thin")
    keep = evenly(len(false), DRAWN)
    roc.line(false[keep], true[keep], "blue", "true-positive rate", key=False)
    roc.dot(fpr, tpr, "orange", f"decisions: false-positive rate {fpr:.4f}, true-positive rate {tpr:.4f}", 5.5)
    roc.table = table_of_curves("false-positive rate", false, true_positive_rate=true)
    curve = Chart(
        "Precision and recall",
        f"Precision against recall at a share of {name} of {positives / len(score):.3f}. {counts}",
        Axis("recall", *UNIT),
        Axis("precision", *UNIT),
        note=f"Recall: share of the photos of {name} that are found. Precision: share of correct ones among those "
        f"that are taken for {name}. Precision depends on how common {name} is; here it is "
        f"{100 * positives / len(score):.1f}\u00a0% of the photos (dashed line). {counts}",
    )
    curve.line(UNIT, [positives / len(score)] * 2, "gray dash thin")
    recall, precision = recall[::-1], precision[::-1]
    keep = evenly(len(recall), DRAWN)
    curve.line(recall[keep], precision[keep], "blue", "precision", key=False)
    if decided.any():
        at = float(np.mean(is_positive[decided]))
        curve.dot(tpr, at, "orange", f"decisions: recall {tpr:.4f}, precision {at:.4f}", 5.5)
    curve.table = table_of_curves("recall", recall, precision=precision)
    return [roc, curve]


def threshold_chart(choice: ThresholdChoice, rows: str) -> Chart:
    """The metric at every threshold, with the best threshold and its interval.

    Args:
        choice: how the threshold was chosen.
        rows: name of the rows that it was chosen on.
    """
    x, y = choice.curve.threshold, choice.curve.value
    measures = choice.measures.upper() if choice.measures == "mcc" else choice.measures
    low, high = min([0.0, *y]), max([1.0, *y]) if choice.measures != "cost" else max(y)
    best, value = choice.threshold, choice.value
    chart = Chart(
        f"{measures} by threshold",
        f"{measures} at every threshold on {choice.n} photos in {choice.groups} groups. Best {value:.4f} at "
        f"{best:.4f} (interval {choice.low:.4f} to {choice.high:.4f}); {choice.at_half:.4f} at 0.5.",
        Axis("threshold on the probability", *UNIT),
        Axis(measures, low, high),
        note="A photo is decided as positive if its probability reaches the threshold. The best value is "
        f"{number(value)} ({number(choice.value_low)} to {number(choice.value_high)}) at {best:.3f}; at 0.5 it is "
        f"{number(choice.at_half)}. The band is the interval of the best threshold. It was chosen on the {choice.n} "
        f"photos in {choice.groups} groups of {rows} that are shown here.",
    )
    chart.band([choice.low, choice.high], [low, low], [high, high], "orange")
    chart.line([0.5, 0.5], [low, high], "gray dash thin")
    chart.line(x, y, "blue", measures, key=False)
    chart.dot(best, value, "orange", f"best: {value:.4f} at threshold {best:.4f}", 5.5)
    chart.mark(best, value, f"{best:.3f}")
    chart.table = table_of_curves("threshold", x, **{measures: y})
    return chart


def risk_coverage_chart(coverage: Sequence[float], risk: Sequence[float], note: str) -> Chart:
    """Risk-coverage curve: share of wrong decisions among the most confident photos, by the share of photos decided.

    Args:
        coverage: rising shares of all photos.
        risk: share of wrong decisions at each coverage.
        note: text below the chart, with area and number of photos.
    """
    coverage, risk = np.asarray(coverage, float), np.asarray(risk, float)
    top = max(0.01, 1.15 * float(np.nanmax(risk)))
    chart = Chart(
        "Errors by share of photos decided",
        "Share of wrong decisions (risk) against the share of photos decided (coverage), most confident first; "
        f"{risk[-1]:.4f} if all are decided.",
        Axis("share of photos decided", *UNIT),
        Axis("share of wrong decisions", 0, top),
        note=note,
    )
    keep = evenly(len(coverage), DRAWN)
    chart.band(coverage[keep], np.zeros(len(keep)), risk[keep], "blue")
    chart.line(coverage[keep], risk[keep], "blue", "wrong", key=False)
    chart.table = table_of_curves("share decided", coverage, wrong=risk)
    return chart


def cost_chart(figures: CascadeFigures, rows: str) -> Chart:
    """Share of wrong answers of a cascade against the mean cost of a photo, for all bands.

    Dots mark the band in use and each stage alone.

    Args:
        figures: of the cascade.
        rows: name of the rows that the figures are computed from.
    """
    curve, cost, error = figures.curve, figures.mean_cost, figures.error
    ends = {
        "first stage alone": (figures.cost[0], figures.error_of_first.value),
        "second stage alone": (sum(figures.cost), figures.error_of_second.value),
    }
    cascade_text = f"{error.value:.4f} at {cost_text(cost.value)} {figures.cost_in} per photo"
    chart = Chart(
        "Errors by cost",
        f"Share of wrong answers against {figures.cost_in} per photo: the cascade {cascade_text}, "
        + ", ".join(f"{name} {wrong:.4f} at {price:.4g}" for name, (price, wrong) in ends.items())
        + ".",
        Axis(f"{figures.cost_in} per photo, on average", 0, sum(figures.cost)),
        Axis("share of wrong answers", 0, max(0.01, 1.15 * max(*curve.error, error.high))),
        note="The curve shows all possible bands. The orange dot is the band in use, with the interval of its error: "
        f"{cascade_text}. The gray dots are the stages alone. {error.n} photos in {error.groups} groups of {rows}, "
        "which were not used to choose a band.",
    )
    chart.line([cost.value, cost.value], [error.low, error.high], "orange")
    chart.line(curve.cost, curve.error, "blue", "wrong", key=False)
    for name, (price, wrong) in ends.items():
        chart.dot(price, wrong, "gray", f"{name}: {wrong:.4f} at {price:.4g} {figures.cost_in}")
    chart.dot(cost.value, error.value, "orange", f"cascade: {cascade_text}", 5.5)
    chart.mark(cost.value, error.value, cost_text(cost.value))
    chart.table = table_of_curves(
        f"{figures.cost_in} per photo",
        curve.cost,
        answered_by_first_stage=curve.early,
        wrong=curve.error,
        lost=curve.loss,
    )
    return chart


def robustness_chart(document: Robustness) -> Chart | None:
    """MCC by level for each profile; None if no profile has several levels."""
    profiles = [
        (entry.profile, [case for case in entry.cases if case.level is not None and case.distortion is None])
        for entry in document.profiles
    ]
    profiles = [(profile, cases) for profile, cases in profiles if len(cases) > 1]
    if not profiles:
        return None
    values = [case.metrics["mcc"] for _, cases in profiles for case in cases]
    sent = sent_text(document.profiles)
    highest = max(case.level for _, cases in profiles for case in cases)
    chart = Chart(
        "MCC by challenge level",
        "MCC at each level of the challenge profiles: "
        + "; ".join(
            f"{name} " + ", ".join(f"{case.level}: {figure_text(case.metrics['mcc'].value)}" for case in cases)
            for name, cases in profiles
        ),
        Axis("level", 0, highest, counts=True),
        Axis("MCC", min(0.0, *(value.low or 0.0 for value in values)), 1.0),
        note=f"A higher level means stronger changes to the photos. {document.n} photos in {document.groups} groups; "
        f"bands are {100 * document.level:g}\u00a0% intervals.{f' How the photos were sent: {sent}.' if sent else ''}",
    )
    for (name, cases), style in zip(profiles, ("blue", "orange", "good", "gray")):
        level = [case.level for case in cases]
        figures = [case.metrics["mcc"] for case in cases]
        chart.band(level, [figure.low for figure in figures], [figure.high for figure in figures], style)
        chart.line(level, [figure.value for figure in figures], style, name)
    return chart
