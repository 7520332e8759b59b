"""Logits and their probabilities: checks, softmax, likelihood and calibration error.

Works on arrays; every room may use it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.special

from natix_hf.errors import UserError

ECE_BINS = 15


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities `(n, classes)` in float64 from logits `(n, classes)`; rows sum to 1."""
    return scipy.special.softmax(np.asarray(logits, dtype=np.float64), axis=1)


def nll(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Negative log likelihood of each row in nats, `(n,)`, from logits `(n, classes)` and class ids `(n,)`."""
    return -scipy.special.log_softmax(logits, axis=1)[np.arange(len(labels)), labels]


def checked(
    logits: np.ndarray, labels: np.ndarray, what: str = "logits", names: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Logits `(n, classes)` as float64 and labels `(n,)` as int64.

    Args:
        what: start of each message.
        names: `(n,)` names of the rows in messages; by default row numbers.

    Raises:
        UserError: there are no rows or fewer than two classes, a logit is NaN or infinite, or a label is out of range.
    """
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)

    def called(row: int) -> str:
        return f"row {row}" if names is None else names[row]

    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise UserError(
            f"{what}: expected logits (n >= 1, classes >= 2) and labels (n,), found {logits.shape} and {labels.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        raise UserError(
            f"{what}: {len(bad)} of {len(logits)} rows have NaN or infinite logits (the first is {called(bad[0])}); "
            "training has diverged or ran in fp16: train again with a lower learning_rate, in bf16 or fp32"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= logits.shape[1]))
    if len(outside):
        raise UserError(
            f"{what}: label {labels[outside[0]]} of {called(outside[0])} is not in 0..{logits.shape[1] - 1}, "
            "the classes of the model: check label_names"
        )
    return logits, labels.astype(np.int64)


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy over equal-width confidence bins (Guo et al., 2017).

    Args:
        probabilities: `(n, classes)`, rows sum to 1; the confidence is the largest of a row.
        labels: `(n,)` class ids.
        bins: number of bins on [0, 1].

    Raises:
        ValueError: if `n == 0` or a row does not sum to 1.
    """
    probabilities, labels = checked(probabilities, labels, "expected_calibration_error")
    if not np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-4):
        raise ValueError("expected_calibration_error: a row of probabilities does not sum to 1; were these logits?")
    gaps, bin_of_row = confidence_gaps(probabilities, labels, bins)
    return float(np.abs(np.bincount(bin_of_row, weights=gaps, minlength=bins)).sum() / len(labels))


def confidence_gaps(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS
) -> tuple[np.ndarray, np.ndarray]:
    """Confidence minus correctness `(n,)` and the confidence bin `(n,)` of each row, the parts that ECE sums."""
    confidence = probabilities.max(axis=1)
    gaps = confidence - (probabilities.argmax(axis=1) == labels)
    return gaps, np.minimum((confidence * bins).astype(np.int64), bins - 1)
