"""Draws PNG figures for which the report page has no chart: confusion matrix, curriculum, learning-rate range test.

`chart_pictures.py` draws the charts of the page. Figures need neither a display nor pyplot, and a file is written
completely or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from natix_hf.documents.learning_rates import LearningRates
from natix_hf.files import replacing
from natix_hf.report.metrics import confusion_counts

BLUE, ORANGE, GREY = "#1f6fb4", "#d9730d", "#8a8a8a"
_DPI = 150


def confusion(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], path: str | Path) -> None:
    """Draw the confusion matrix: number of photos by label (rows) and decision (columns), shaded by share of the row.

    Args:
        labels, predicted: `(n,)` class ids.
    """
    classes = len(names)
    counts = confusion_counts(np.asarray(labels), predicted, classes)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(3.6, 1.8 + 0.52 * classes)
    figure, (axes,) = new_figure(side + 0.4, side, 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(classes):
        for column in range(classes):
            if counts[row, column] or classes <= 4:  # in a large matrix, zeros would hide the mistakes
                colour = "white" if share[row, column] > 0.55 else "black"
                axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=colour, fontsize=9)
    turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if classes > 4 else {}
    axes.set_xticks(range(classes), names, **turn)
    axes.set_yticks(range(classes), names)
    axes.set(xlabel="decision", ylabel="label")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{int(counts.sum())} photos", fontsize=10)
    save_figure(figure, path)


def curriculum(
    shares: Sequence[float],
    difficulty: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    measure: str,
    path: str | Path,
) -> None:
    """Draw the share of each class that each epoch samples from, and the distribution of difficulty in each class.

    Args:
        shares: one per epoch, from 0 to 1.
        difficulty: `(n,)`, larger is harder.
        labels: `(n,)` class ids.
        measure: name of the difficulty measure, for the axis; `loss` is drawn on a logarithmic scale.
    """
    figure, (left, right) = new_figure(9.0, 3.4, 2)
    left.stairs(shares, np.arange(len(shares) + 1) + 0.5, color=BLUE, linewidth=1.6, baseline=None)
    left.set(xlabel="epoch", ylabel="share of each class in use", ylim=(0, 1.05))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    # For each class, the cumulative share of its photos up to each difficulty.
    for label, name in enumerate(names):
        of_class = np.sort(difficulty[labels == label])
        n = len(of_class)
        if n:
            right.step(of_class, np.arange(1, n + 1) / n, where="post", label=f"{name} ({n})")
    if measure == "loss":
        right.set_xscale("symlog", linthresh=0.01)
    unit = "loss (nats)" if measure == "loss" else measure
    right.set(xlabel=f"{unit} of the probe on frozen features", ylabel="share of the class", ylim=(0, 1.05))
    right.legend(frameon=False, fontsize=8, ncols=1 + len(names) // 8)
    save_figure(figure, path)


def learning_rates(test: LearningRates, path: str | Path) -> None:
    """Draw the raw and the smoothed loss over rising learning rates, and the suggested rate.

    Args:
        test: result of the range test.
    """
    figure, (axes,) = new_figure(6.0, 3.6, 1)
    axes.plot(test.rates, test.losses, color=GREY, linewidth=0.8, alpha=0.7, label="each step")
    axes.plot(test.rates, test.smoothed, color=BLUE, linewidth=1.6, label="smoothed")
    if test.suggestion is not None:
        label = f"suggestion: {test.suggestion:.2g}"
        axes.axvline(test.suggestion, color=ORANGE, linestyle="--", linewidth=1.2, label=label)
    # Without this limit, the last steps of a diverging loss would flatten the rest of the curve.
    lowest, highest = min(test.smoothed), max(test.smoothed[: 1 + len(test.smoothed) // 2])
    axes.set_ylim(lowest - 0.2 * (highest - lowest) - 0.02, highest + 0.8 * (highest - lowest) + 0.02)
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss of train (nats)")
    axes.legend(frameon=False)
    save_figure(figure, path)


def new_figure(
    width: float,
    height: float,
    columns: int,
    rows: int = 1,
    height_ratios: Sequence[float] | None = None,
    layout: str | None = "constrained",
) -> tuple[Figure, Sequence[Axes]]:
    """An empty figure of `width` x `height` inches, and its axes row by row; `layout` None: the caller places them."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=height_ratios).ravel()
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write the PNG, completely or not at all."""
    with replacing(path) as temporary:
        # Without software version and date, the same run gives the same bytes.
        figure.savefig(temporary, dpi=_DPI, metadata={"Software": None})
