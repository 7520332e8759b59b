"""One temperature for all classes, fitted on logits that the model never trained on (Guo et al., 2017).

Works on arrays. The caller decides which rows to use, whether the result is worth keeping, and where it goes.

Plain maximum likelihood fails on few or perfectly separated rows in three ways. Each has a remedy:

- Noise moves T. So `log T` has a normal prior around 0 (T = 1, unchanged logits) with standard deviation `PRIOR_SD`.
  `tests/bench/calibration_small.py` shows what this costs if T is far from 1, and what it saves if T is 1.
- Photos of one group are alike, so they carry less information. The likelihood is divided by the design effect: how
  much more the scores of whole groups vary than those of as many independent rows.
- Without a mistake the likelihood grows without bound as T falls, and the first mistake on new photos is then very
  expensive. So the fit adds one imaginary mistake of average confidence to the n real rows (the rule of succession);
  its weight decreases as 1/n.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.optimize
import scipy.special

from natix_hf.errors import UserError
from natix_hf.logits import checked, softmax
from natix_hf.resampling import group_numbers

BOUNDS = (0.05, 20.0)  # of T; a fit outside of them means that the logits are broken
PRIOR_SD = 0.35  # of log T: two in three temperatures lie between 0.70 and 1.42; T = 2 is two standard deviations away


def fit_temperature(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Find the most probable temperature by a bounded search over log T in float64.

    Args:
        logits: `(n, classes)` uncalibrated logits.
        labels: `(n,)` class ids in [0, classes).
        groups: `(n,)`; None: each row is a group.
    """
    logits, labels = checked_rows(logits, labels)
    n, classes = logits.shape
    true_logit = logits[np.arange(n), labels]
    # The imaginary mistake is spread over all rows and their wrong classes; its total weight is one row.
    wrong_logit = (logits.sum(axis=1) - true_logit) / (classes - 1)
    alike = design_effect(logits, labels, groups)

    def objective(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        log_normaliser = scipy.special.logsumexp(logits / temperature, axis=1)
        real = np.sum(log_normaliser - true_logit / temperature)
        imaginary = np.mean(log_normaliser - wrong_logit / temperature)
        return float(real / alike + imaginary + (log_temperature / PRIOR_SD) ** 2 / 2)

    minimum = scipy.optimize.minimize_scalar(
        objective, bounds=tuple(np.log(BOUNDS)), method="bounded", options={"xatol": 1e-8}
    )
    return float(np.exp(minimum.x))


def design_effect(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> float:
    """Number of rows that carry the information of one independent row (Kish, 1965), at least 1.

    It is the variance of the score summed over groups, divided by the variance of the rows' scores. The score is the
    derivative of the log likelihood by log T at T = 1.

    Args:
        logits: `(n, classes)`.
        labels: `(n,)` class ids.
        groups: `(n,)`; None: each row is a group.
    """
    expected = (softmax(logits) * logits).sum(axis=1)
    score = expected - logits[np.arange(len(labels)), labels]
    score -= score.mean()
    rows = float((score**2).sum())
    sums = np.bincount(group_numbers(groups, len(labels)), score)
    return max(1.0, float((sums**2).sum()) / rows) if rows > 0 else 1.0


def checked_rows(
    logits: np.ndarray, labels: np.ndarray, what: str = "calibration", names: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`logits.checked` for rows to fit on; also refuses probabilities in place of logits."""
    if len(logits) == 0:
        raise UserError(f"{what}: no rows to fit it on; give val_calib a larger share in split_ratios")
    logits, labels = checked(logits, labels, what, names)
    if ((logits >= 0) & (logits <= 1)).all() and np.allclose(logits.sum(axis=1), 1.0, atol=1e-4):
        raise UserError(
            f"{what}: expected logits, found probabilities (all {len(logits)} rows lie in [0, 1] and sum to 1): "
            "give what the model gives before its softmax, or the logarithm of the probabilities"
        )
    return logits, labels
