"""`predictions/<split>.parquet` as arrays: what a model said of the rows of a split, before calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class SavedLogits:
    """Rows of a split.

    Attributes:
        logits: `(n, classes)`; of a model that sees tiles those of all views.
        label: `(n,)` class ids.
        group: `(n,)` names, None: each row is its own group.
        ids: `(n,)` names of the photos.
        slices: column -> `(n,)` kinds of photos that figures are broken down by.
        source: `(n,)` names of data sets, where the file has them.
        whole: `(n, classes)`, of a model that sees tiles: the logits of the whole photo alone; of two models that
            answer as a cascade: those of the first, and `logits` those of the second.
    """

    logits: np.ndarray
    label: np.ndarray
    group: np.ndarray | None
    ids: np.ndarray | None = None
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)
    source: np.ndarray | None = None
    whole: np.ndarray | None = None
