"""`predictions/<split>.parquet` as arrays: a model's logits for the rows of a split, before calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class SavedLogits:
    """Rows of a split.

    Attributes:
        logits: `(n, classes)`; for a model with tiles, the logits from all views; for a cascade of two models, the
            logits of the second.
        label: `(n,)` class ids.
        group: `(n,)` names of the groups; None: each row is a group.
        ids: `(n,)` names of the photos.
        slices: column -> `(n,)` values for the slices.
        source: `(n,)` names of data sets, or None.
        whole: `(n, classes)`; for a model with tiles, the logits from the whole photo only; for a cascade of two
            models, the logits of the first; else None.
    """

    logits: np.ndarray
    label: np.ndarray
    group: np.ndarray | None
    ids: np.ndarray | None = None
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)
    source: np.ndarray | None = None
    whole: np.ndarray | None = None
