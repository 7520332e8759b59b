"""The pictures of a run: how training went, what calibration did, which classes are mistaken for which.

Knows arrays and the Trainer's log only. Figures are drawn without a display and without pyplot's global state, and
written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from natix_hf.documents.learning_rates import LearningRates
from natix_hf.files import replacing
from natix_hf.logits import expected_calibration_error

BLUE, ORANGE, GREY = "#1f6fb4", "#d9730d", "#8a8a8a"
_DPI = 150


def training_curve(log_history: Sequence[Mapping[str, float | None]], path: str | Path, metric: str = "mcc") -> None:
    """Losses and the chosen metric over the steps of training.

    Args:
        log_history: `TrainerState.log_history`: entries with `step` and any of `loss`, `eval_loss`, `eval_<metric>`;
            an `eval_raw_<metric>` is drawn beside it as the score of the weights without averaging.
        metric: which of the logged metrics to draw, without `eval_`.
    """

    def series(key: str) -> tuple[list[float], list[float]]:
        points = [(entry["step"], entry[key]) for entry in log_history if entry.get(key) is not None]
        return [step for step, _ in points], [value for _, value in points]

    figure, (left, right) = new_figure(9.0, 3.4, 2)
    left.plot(*series("loss"), color=GREY, linewidth=1.2, label="train")
    left.plot(*series("eval_loss"), color=BLUE, marker="o", markersize=4, label="val_select")
    left.set(xlabel="step", ylabel="loss (nats)", ylim=(0, None))
    left.legend(frameon=False)
    right.plot(*series(f"eval_{metric}"), color=BLUE, marker="o", markersize=4, label="val_select")
    raw = series(f"eval_raw_{metric}")
    if raw[0]:
        right.plot(*raw, color=ORANGE, marker="s", markersize=3, linestyle="--", label="val_select, raw weights")
        right.legend(frameon=False)
    right.set(xlabel="step", ylabel=metric.replace("_", " ") if "_" in metric else metric.upper())
    save_figure(figure, path)


def reliability(
    probabilities_before: np.ndarray,
    probabilities_after: np.ndarray,
    labels: np.ndarray,
    path: str | Path,
    bins: int = 15,
) -> None:
    """How often the decision is right at each confidence, before and after calibration, and how many photos have it.

    Args:
        probabilities_before, probabilities_after: `(n, classes)`, rows sum to 1.
        labels: `(n,)` class ids.
        bins: equal-width bins on [0, 1], the same as the ECE's.
    """
    figure, (curve, counts) = new_figure(5.0, 5.4, 1, rows=2, height_ratios=(3.2, 1))
    classes = probabilities_before.shape[1]
    curve.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    edges = np.linspace(0, 1, bins + 1)
    for name, probabilities, colour, marker in (
        ("before", probabilities_before, ORANGE, "s"),
        ("after", probabilities_after, BLUE, "o"),
    ):
        confidence = probabilities.max(axis=1)
        right = probabilities.argmax(axis=1) == labels
        bin_of_row = np.minimum((confidence * bins).astype(int), bins - 1)
        size = np.bincount(bin_of_row, minlength=bins)
        used = size > 0
        mean_confidence = np.bincount(bin_of_row, confidence, minlength=bins)[used] / size[used]
        accuracy = np.bincount(bin_of_row, right, minlength=bins)[used] / size[used]
        ece = expected_calibration_error(probabilities, labels, bins)
        curve.plot(mean_confidence, accuracy, color=colour, linewidth=1, alpha=0.6)
        # The area of a point grows with its photos: a lone photo at the bottom is no alarm.
        area = 12 + 160 * size[used] / len(labels)
        curve.scatter(mean_confidence, accuracy, s=area, color=colour, marker=marker, label=f"{name}: ECE {ece:.3f}")
        counts.stairs(size, edges, color=colour, linewidth=1.4)
    # The largest of K probabilities is never below 1/K: the empty part is left out, but for a margin.
    start = 1 / classes - 0.03
    curve.set(xlim=(start, 1.02), ylim=(-0.02, 1.02), ylabel="share of right decisions")
    curve.tick_params(labelbottom=False)
    legend = curve.legend(frameon=False, loc="lower right", title=f"{len(labels)} photos")
    for handle in legend.legend_handles:
        handle.set_sizes([30])
    counts.set(xlim=(start, 1.02), xlabel="confidence", ylabel="photos")
    save_figure(figure, path)


def confusion(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], path: str | Path) -> None:
    """Counts of photos by label (rows) and decision (columns); the shade is the share of the row.

    Args:
        labels, predicted: `(n,)` class ids.
    """
    classes = len(names)
    counts = np.bincount(np.asarray(labels) * classes + predicted, minlength=classes**2).reshape(classes, classes)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(3.6, 1.8 + 0.52 * classes)
    figure, (axes,) = new_figure(side + 0.4, side, 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(classes):
        for column in range(classes):
            if counts[row, column] or classes <= 4:  # a field of zeros only hides the mistakes
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
    """The share of each class's photos that each epoch may draw from, and how hard the photos of each class are.

    Args:
        shares: of each epoch, from 0 to 1.
        difficulty: `(n,)`.
        labels: `(n,)` class ids.
        measure: what the difficulty is, for the axis.
    """
    figure, (left, right) = new_figure(9.0, 3.4, 2)
    left.stairs(shares, np.arange(len(shares) + 1) + 0.5, color=BLUE, linewidth=1.6, baseline=None)
    left.set(xlabel="epoch", ylabel="share of each class that is in", ylim=(0, 1.05))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Each class by its own photos: the share that is at most so hard.
    for label, name in enumerate(names):
        own = np.sort(difficulty[labels == label])
        if len(own):
            right.step(own, np.arange(1, len(own) + 1) / len(own), where="post", label=f"{name} ({len(own)})")
    if measure == "loss":
        right.set_xscale("symlog", linthresh=0.01)
    unit = "loss (nats)" if measure == "loss" else measure
    right.set(xlabel=f"{unit} of the probe on frozen features", ylabel="share of the class", ylim=(0, 1.05))
    right.legend(frameon=False, fontsize=8, ncols=1 + len(names) // 8)
    save_figure(figure, path)


def learning_rates(found: LearningRates, path: str | Path) -> None:
    """The loss over rising learning rates, smoothed and as it was, with the rate that it suggests.

    Args:
        found: the curve.
    """
    figure, (axes,) = new_figure(6.0, 3.6, 1)
    axes.plot(found.rates, found.losses, color=GREY, linewidth=0.8, alpha=0.7, label="each step")
    axes.plot(found.rates, found.smoothed, color=BLUE, linewidth=1.6, label="smoothed")
    if found.suggestion is not None:
        label = f"suggestion: {found.suggestion:.2g}"
        axes.axvline(found.suggestion, color=ORANGE, linestyle="--", linewidth=1.2, label=label)
    # The last steps of a loss that diverges would press all others flat.
    lowest, highest = min(found.smoothed), max(found.smoothed[: 1 + len(found.smoothed) // 2])
    axes.set_ylim(lowest - 0.2 * (highest - lowest) - 0.02, highest + 0.8 * (highest - lowest) + 0.02)
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss of train (nats)")
    axes.legend(frameon=False)
    save_figure(figure, path)


def new_figure(
    width: float, height: float, columns: int, rows: int = 1, height_ratios: Sequence[float] | None = None
) -> tuple[Figure, Sequence[Axes]]:
    """An empty figure of that many inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=height_ratios).ravel()
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write the PNG, whole or not at all."""
    with replacing(path) as temporary:
        # No software version or date inside: the same run gives the same bytes.
        figure.savefig(temporary, dpi=_DPI, metadata={"Software": None})
