"""Draws the grid of a probe's heads as heat maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle

from natix_hf.report.figures import ORANGE, new_figure, save_figure

Value = float | str | None  # a setting of a head, or one of its scores


def heat_map(heads: Sequence[Mapping[str, Value]], chosen: Mapping[str, Value], path: str | Path) -> None:
    """Draw MCC and NLL of every head, with a frame around the chosen head.

    Columns are learning rates, and rows are the other settings.

    Args:
        heads: each with `pooling, layers, learning_rate, weight_decay, mcc, log_loss`; a score of None (a head that
            diverged) leaves its cell blank.
        chosen: settings of the chosen head.
    """
    rates = sorted({head["learning_rate"] for head in heads})
    kinds = list(dict.fromkeys(map(_kind, heads)))
    tables = {name: np.full((len(kinds), len(rates)), np.nan) for name in ("mcc", "log_loss")}
    for head in heads:
        place = kinds.index(_kind(head)), rates.index(head["learning_rate"])
        for name, table in tables.items():
            if head[name] is not None:
                table[place] = head[name]
    # Wide enough for titles and colour bars even with few heads.
    figure, axes = new_figure(max(6.4, 2.6 + 0.52 * 2 * len(rates)), max(2.6, 1.9 + 0.34 * len(kinds)), 2)
    row, column = kinds.index(_kind(chosen)), rates.index(chosen["learning_rate"])
    labels = [f"{pooling}, last {layers}, decay {decay:g}" for pooling, layers, decay in kinds]
    titles = {"mcc": ("MCC on val_select", "viridis"), "log_loss": ("NLL on val_select", "viridis_r")}
    for panel, (name, (title, colours)) in zip(axes, titles.items()):
        table = tables[name]
        known = table[~np.isnan(table)]
        # Without the quantile, the loss of a diverged head would give all others the same shade.
        low, high = (known.min(), np.quantile(known, 0.9) if name == "log_loss" else known.max())
        image = panel.imshow(table, cmap=colours, aspect="auto", vmin=low, vmax=max(high, low + 0.01))
        figure.colorbar(image, ax=panel, fraction=0.05, pad=0.02)
        panel.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=ORANGE, linewidth=2.5))
        panel.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates], rotation=60, fontsize=8)
        panel.set_yticks(range(len(kinds)), labels if panel is axes[0] else [""] * len(kinds), fontsize=8)
        panel.set_xlabel("learning rate (for 256 photos a step)", fontsize=9)
        panel.set_title(title, fontsize=10)
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    save_figure(figure, path)


def _kind(head: Mapping[str, Value]) -> tuple[Value, ...]:
    return head["pooling"], head["layers"], head["weight_decay"]
