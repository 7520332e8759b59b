"""Draws the charts of a report from arrays and documents.

The charts are training, reliability, ranking, threshold, risk and coverage, cost, and robustness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import sklearn.metrics

from natix_hf.documents.calibration import ThresholdChoice
from natix_hf.documents.cascade import cost_text
from natix_hf.documents.robustness import Robustness
from natix_hf.documents.selective import CascadeFigures
from natix_hf.logits import expected_calibration_error
from natix_hf.report.charts import Chart, Table, number, table_of_curves
from natix_hf.report.robustness import sent_text
from natix_hf.report.summary import figure_text

BINS = 15  # as for the ECE
DRAWN = 400  # most points of a curve; more would be less than a pixel apart
UNIT = (0.0, 1.0)


def training_charts(log_history: Sequence[Mapping[str, float | None]], metric: str = "mcc") -> list[Chart]:
    """Losses over the steps of training, and the metric that chose the checkpoint.

    Args:
        log_history: `TrainerState.log_history`.
        metric: name without `eval_`.
    """

    def series(key: str) -> tuple[list[float], list[float]]:
        points = [(entry["step"], entry[key]) for entry in log_history if entry.get(key) is not None]
        return [step for step, _ in points], [value for _, value in points]

    def table(**named: tuple[list[float], list[float]]) -> Table:
        steps = sorted({step for xs, _ in named.values() for step in xs})
        picked = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, min(25, len(steps))).round().astype(int))]
        values = {name: dict(zip(*pair)) for name, pair in named.items()}
        rows = [[str(step), *(number(of.get(step)) for of in values.values())] for step in picked]
        return Table(["step", *(name.replace("_", " ") for name in named)], rows)

    loss, held, score = series("loss"), series("eval_loss"), series(f"eval_{metric}")
    raw = series(f"eval_raw_{metric}")
    charts, title = [], metric.upper() if "_" not in metric else metric.replace("_", " ")
    last = max([step for xs, _ in (loss, held, score) for step in xs], default=0)
    if loss[0] or held[0]:
        top = float(np.nanmax([*loss[1], *held[1]]))
        chart = Chart(
            "Loss during training",
            f"Loss in nats over {last} steps. The last value on train is {number(_last(loss))}, on val_select "
            f"{number(_last(held))}.",
            **{"x": (0, last), "y": (0, 1.05 * top), "x_label": "training step", "y_label": "loss (nats)"},
            note="The loss is the error that training reduces. If it falls on train but rises on val_select, the "
            "model learns the training photos by heart.",
        )
        chart.line(*loss, "gray", "train")
        chart.line(*held, "blue", "val_select")
        for x, y in zip(*held):
            chart.dot(x, y, "blue", f"val_select at step {x}: {number(y)}", 3.5)
        chart.table = table(train=loss, val_select=held)
        charts.append(chart)
    if score[0]:
        lowest = min([*score[1], *raw[1]])
        chart = Chart(
            f"{title} on val_select",
            f"{title} over {last} steps. The highest value is {number(max(score[1]))} at step "
            f"{score[0][int(np.argmax(score[1]))]}.",
            **{"x": (0, last), "y": (min(0.0, lowest), 1.0), "x_label": "training step", "y_label": title},
            note="The checkpoint was chosen by this curve, so its best value is too optimistic.",
        )
        chart.line(*raw, "orange dash", "raw weights")
        chart.line(*score, "blue", "averaged weights, which are kept" if raw[0] else "val_select")
        for x, y in zip(*score):
            chart.dot(x, y, "blue", f"step {x}: {number(y)}", 3.5)
        chart.table = table(**{title: score, **({"raw weights": raw} if raw[0] else {})})
        charts.append(chart)
    return charts


def reliability_chart(before: np.ndarray, after: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Chart:
    """Share of right decisions by confidence, before and after calibration; `below` counts the photos of each bin.

    Args:
        before, after: `(n, classes)` probabilities, rows sum to 1.
        labels: `(n,)` class ids.
        bins: number of equal-width bins on [0, 1].
    """
    start = max(0.0, 1 / before.shape[1] - 0.5 / bins)
    drawn = {"before": (before, "orange"), "after": (after, "blue")}
    parts, rows = {}, {}
    for name, (probabilities, _) in drawn.items():
        confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
        bin_of_row = np.minimum((confidence * bins).astype(int), bins - 1)
        size = np.bincount(bin_of_row, minlength=bins)
        mean = np.bincount(bin_of_row, confidence, minlength=bins) / np.maximum(size, 1)
        accuracy = np.bincount(bin_of_row, right, minlength=bins) / np.maximum(size, 1)
        parts[name] = size, mean, accuracy
        rows[name] = expected_calibration_error(probabilities, labels, bins)
    chart = Chart(
        "Reliability",
        f"Share of right decisions against confidence for {len(labels)} photos. ECE {rows['before']:.4f} before and "
        f"{rows['after']:.4f} after calibration. A calibrated model is on the diagonal.",
        **{"x": (start, 1.0), "y": UNIT, "x_label": "confidence", "y_label": "share of right decisions"},
        readout=False,
        note="Confidence is the probability of the decided class. Each dot is a bin of photos with similar "
        "confidence; a larger dot has more photos. On the dashed line, confidence equals the share of right "
        f"decisions; ECE is the mean distance from it. {len(labels)} photos in {bins} bins of equal width.",
    )
    chart.line([start, 1], [start, 1], "gray dash thin")
    for name, (_, style) in drawn.items():
        size, mean, accuracy = parts[name]
        used = np.flatnonzero(size)
        chart.line(mean[used], accuracy[used], f"{style} thin", f"{name}: ECE {rows[name]:.4f}")
        for i in used:
            text = f"{name}: {size[i]} photos, confidence {mean[i]:.3f}, right {accuracy[i]:.3f}"
            chart.dot(mean[i], accuracy[i], style, text, 3 + 6 * np.sqrt(size[i] / len(labels)))
    top = max(int(size.max()) for size, _, _ in parts.values())
    chart.below = Chart(
        "Photos by confidence",
        "Number of photos in each confidence bin, before and after calibration; the table lists the numbers.",
        **{"x": (start, 1.0), "y": (0, top), "x_label": "confidence", "y_label": "photos"},
        height=160,
        readout=False,
        count_y=True,
    )
    for name, (_, style) in drawn.items():
        size, half = parts[name][0], 0.5 / bins
        for i in np.flatnonzero(size):
            left = max(start, i / bins + 0.08 / bins + (name == "after") * 0.42 / bins)
            right = min(1.0, i / bins + half + (name == "after") * 0.42 / bins)
            if right > left:
                chart.below.bar(left, right, size[i], style, f"{name}: {size[i]} photos")
    chart.table = Table(
        ["bin", "photos before", "right before", "photos after", "right after"],
        [
            [
                f"{i / bins:.2f} to {(i + 1) / bins:.2f}",
                *(
                    t
                    for size, _, share in parts.values()
                    for t in (str(size[i]), number(share[i] if size[i] else None))
                ),
            ]
            for i in range(bins)
            if any(size[i] for size, _, _ in parts.values())
        ],
    )
    return chart


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
        **{"x": UNIT, "y": UNIT, "x_label": "false-positive rate", "y_label": "true-positive rate"},
        note=f"True-positive rate: share of the photos of {name} that are found. False-positive rate: share of the "
        f"other photos that are taken for {name}. The curve shows all thresholds, the dot the decisions of the model, "
        f"the dashed line guessing. {counts}",
    )
    roc.line([0, 1], [0, 1], "gray dash thin")
    keep = _thinned(len(false))
    roc.line(false[keep], true[keep], "blue", "true-positive rate", key=False)
    roc.dot(fpr, tpr, "orange", f"decisions: false-positive rate {fpr:.4f}, true-positive rate {tpr:.4f}", 5.5)
    roc.table = table_of_curves("false-positive rate", false, true_positive_rate=true)
    curve = Chart(
        "Precision and recall",
        f"Precision against recall at a share of {name} of {positives / len(score):.3f}. {counts}",
        **{"x": UNIT, "y": UNIT, "x_label": "recall", "y_label": "precision"},
        note=f"Recall: share of the photos of {name} that are found. Precision: share of correct ones among those "
        f"that are taken for {name}. Precision depends on how common {name} is; here it is "
        f"{100 * positives / len(score):.1f}\u00a0% of the photos (dashed line). {counts}",
    )
    curve.line(UNIT, [positives / len(score)] * 2, "gray dash thin")
    recall, precision = recall[::-1], precision[::-1]
    keep = _thinned(len(recall))
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
        **{"x": UNIT, "y": (low, high), "x_label": "threshold on the probability", "y_label": measures},
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
        **{"x": UNIT, "y": (0, top), "x_label": "share of photos decided", "y_label": "share of wrong decisions"},
        note=note,
    )
    keep = _thinned(len(coverage))
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
    ends = {"first stage alone": (figures.cost[0], figures.error_of_first.value)}
    ends["second stage alone"] = sum(figures.cost), figures.error_of_second.value
    cascade_text = f"{error.value:.4f} at {cost_text(cost.value)} {figures.cost_in} per photo"
    top = max(0.01, 1.15 * max(*curve.error, error.high))
    chart = Chart(
        "Errors by cost",
        f"Share of wrong answers against {figures.cost_in} per photo: the cascade {cascade_text}, "
        + ", ".join(f"{name} {wrong:.4f} at {price:.4g}" for name, (price, wrong) in ends.items())
        + ".",
        **{"x": (0, sum(figures.cost)), "y": (0, top), "x_label": f"{figures.cost_in} per photo, on average"},
        y_label="share of wrong answers",
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
    styles = ("blue", "orange", "good", "gray")
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
        x=(0, highest),
        y=(min(0.0, *(v.low or 0.0 for v in values)), 1.0),
        x_label="level",
        y_label="MCC",
        count_x=True,
        note=f"A higher level means stronger changes to the photos. {document.n} photos in {document.groups} groups; "
        f"bands are {100 * document.level:g}\u00a0% intervals.{f' How the photos were sent: {sent}.' if sent else ''}",
    )
    for (name, cases), style in zip(profiles, styles):
        level = [case.level for case in cases]
        figures = [case.metrics["mcc"] for case in cases]
        chart.band(level, [figure.low for figure in figures], [figure.high for figure in figures], style)
        chart.line(level, [figure.value for figure in figures], style, name)
    return chart


def _thinned(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(DRAWN, count)).round().astype(int))


def _last(series: tuple[list[float], list[float]]) -> float | None:
    return series[1][-1] if series[1] else None
