"""The pictures of how decisions fall: metric by threshold, risk and coverage, ROC and precision-recall curve.

The same curves as on the report page, as PNG for the card. Knows arrays and documents only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import sklearn.metrics

from natix_hf.documents.calibration import ThresholdChoice
from natix_hf.documents.cascade import cost_text
from natix_hf.documents.selective import CascadeFigures, Selective
from natix_hf.report.figures import BLUE, GREY, ORANGE, new_figure, save_figure
from natix_hf.report.summary import figure_text, interval_text


def threshold_figure(choice: ThresholdChoice, rows: str, path: str | Path) -> None:
    """The metric at every threshold, the best one and its interval.

    Args:
        choice: of the threshold.
        rows: where its photos come from, such as `val_calib/fit`.
    """
    figure, (axes,) = new_figure(5.4, 3.8, 1)
    measures = choice.measures.upper() if choice.measures == "mcc" else choice.measures
    axes.axvspan(choice.low, choice.high, color=ORANGE, alpha=0.15, linewidth=0, label="its interval")
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":")
    axes.plot(choice.curve.threshold, choice.curve.value, color=BLUE, linewidth=1.6)
    best = f"best: {figure_text(choice.value)} at {choice.threshold:.3f}"
    axes.plot([choice.threshold], [choice.value], "o", color=ORANGE, label=best)
    axes.set(xlim=(0, 1), xlabel="threshold on the probability", ylabel=measures)
    axes.set_title(f"{choice.n} photos in {choice.groups} groups of {rows}", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower center")
    save_figure(figure, path)


def risk_coverage_figure(document: Selective, path: str | Path) -> None:
    """Share of wrong decisions over the share of photos decided, the most confident first."""
    figure, (axes,) = new_figure(5.4, 3.8, 1)
    coverage, risk = document.curve.coverage, document.curve.risk
    axes.fill_between(coverage, risk, color=BLUE, alpha=0.12, linewidth=0)
    axes.plot(coverage, risk, color=BLUE, linewidth=1.6)
    area = f"AURC {figure_text(document.aurc.value)} ({interval_text(document.aurc)})"
    axes.set_title(f"{area}, {document.n} photos in {document.groups} groups", fontsize=10)
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="share of photos decided", ylabel="share of wrong decisions")
    save_figure(figure, path)


def cost_figure(figures: CascadeFigures, rows: str, path: str | Path) -> None:
    """Share of wrong answers of a cascade against the cost of a photo, over all bands, and the band in use.

    Args:
        figures: of the cascade.
        rows: where its photos come from, such as `val_test`.
    """
    figure, (axes,) = new_figure(5.4, 3.8, 1)
    cost, error = figures.mean_cost, figures.error
    axes.plot(figures.curve.cost, figures.curve.error, color=BLUE, linewidth=1.6)
    used = f"band in use: {figure_text(error.value)} at {cost_text(cost.value)}"
    axes.plot([cost.value] * 2, [error.low, error.high], color=ORANGE, linewidth=1.2)
    axes.plot([cost.value], [error.value], "o", color=ORANGE, label=used)
    axes.plot([figures.cost[0]], [figures.error_of_first.value], "o", color=GREY, label="first stage alone")
    axes.plot([sum(figures.cost)], [figures.error_of_second.value], "s", color=GREY, label="second stage alone")
    axes.set(xlim=(0, None), ylim=(0, None), xlabel=f"{figures.cost_in} a photo", ylabel="share of wrong answers")
    axes.set_title(f"{error.n} photos in {error.groups} groups of {rows}", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def ranking_figure(
    score: np.ndarray, is_positive: np.ndarray, decided: np.ndarray, name: str, path: str | Path
) -> None:
    """ROC and precision-recall curve of the positive class against the rest; dots where the decisions fall.

    Args:
        score: `(n,)` that ranks the photos.
        is_positive, decided: `(n,)` booleans; both classes must occur.
        name: of the positive class.
    """
    figure, (roc, curve) = new_figure(9.0, 3.9, 2)
    false, true, _ = sklearn.metrics.roc_curve(is_positive, score)
    precision, recall, _ = sklearn.metrics.precision_recall_curve(is_positive, score)
    positives, share = int(is_positive.sum()), float(is_positive.mean())
    roc.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    roc.plot(false, true, color=BLUE, linewidth=1.6)
    hit = float(decided[is_positive].mean())
    roc.plot([float(decided[~is_positive].mean())], [hit], "o", color=ORANGE)
    roc.set(xlabel="false-positive rate", ylabel="true-positive rate")
    curve.axhline(share, color=GREY, linewidth=1, linestyle=":")
    curve.plot(recall, precision, color=BLUE, linewidth=1.6)
    if decided.any():
        curve.plot([hit], [float(is_positive[decided].mean())], "o", color=ORANGE)
    curve.set(xlabel="recall", ylabel="precision")
    for axes in (roc, curve):
        axes.set_title(f"{positives} photos of {name}, {len(score) - positives} others", fontsize=10)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    save_figure(figure, path)
