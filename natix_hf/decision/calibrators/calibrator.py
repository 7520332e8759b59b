"""What every calibrator says of itself.

Help and choice read these files: they import numpy and what is built on it only where they compute.
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
    """One way to make probabilities of logits.

    Args:
        fit: see `Fit`.
        told: what it is, in a sentence of the card.
        least_rows, least_of_a_class: rows, all together and of the rarest class, without which it is not fitted.
        step: the part of the way to it that has to lead on held-out rows, see `choice`.
        again: what is fitted on top of it to measure the error of the calibration itself: the same family, so that the
            two together are one of it (steps are moved as vector moves them); None: it has no such error.
    """

    fit: Fit
    told: str
    least_rows: int = 0
    least_of_a_class: int = 0
    step: float = 1.0
    again: str | None = None


NONE = Calibrator(fit=lambda logits, labels, groups: {}, told="none")
