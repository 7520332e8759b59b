"""Declares what a calibrator is.

`--help` reads the files of the calibrators too, so they import numpy only inside functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import numpy as np


class Fitted(TypedDict, total=False):
    """The fields of a `Calibration` that a calibrator sets."""

    temperature: np.ndarray
    calibrator_bias: np.ndarray
    isotonic: tuple[tuple[np.ndarray, np.ndarray], ...]


# Of logits `(n, classes)`, class ids `(n,)` and groups `(n,)` or None.
Fit = Callable[["np.ndarray", "np.ndarray", "np.ndarray | None"], Fitted]


@dataclass(frozen=True)
class Calibrator:
    """One way to turn logits into probabilities.

    Args:
        fit: see `Fit`.
        description: words for the card, such as `a temperature`.
        least_rows, least_of_a_class: minimum number of rows in total and of the rarest class.
        step: how far to move from the identity to this calibrator when it is compared on held-out rows, see `choice`.
        again: calibrator that is fitted on top of it to estimate the calibration error. It is of the same family, so
            that both together are one of that family (for isotonic: vector). None: there is no such error.
    """

    fit: Fit
    description: str
    least_rows: int = 0
    least_of_a_class: int = 0
    step: float = 1.0
    again: str | None = None


NONE = Calibrator(fit=lambda logits, labels, groups: {}, description="none")
