"""One temperature for all classes, fitted on logits that the model never trained on (Guo et al., 2017).

Works on arrays. The caller decides which rows to use, whether the result is worth keeping, and where it goes.

Plain maximum likelihood goes wrong on few or perfectly separated rows, in three ways, each with its remedy:

- Any noise moves T: `log T` has a normal prior around 0 (T = 1, the logits as they are) with standard deviation
  `PRIOR_SD`. `tests/bench/calibration_small.py` shows what this costs where T is far from 1, and saves where it is 1.
- Photos of one group are alike, and there is less to learn from them: the likelihood is divided by the design effect,
  how much more the scores of whole groups vary than those of as many independent rows would.
- Without a mistake the likelihood grows for ever as T falls, and the first mistake on new photos then costs everything
  that was gained: the fit sees one imaginary mistake of average confidence beside the n real rows (the rule of
  succession); its weight fades as 1/n.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.optimize
import scipy.special

from natix_hf.errors import UserError
from natix_hf.logits import checked, softmax
from natix_hf.resampling import group_numbers

BOUNDS = (0.05, 20.0)  # of T; a fit that leaves them says that the logits are broken, not that the model is that wrong
PRIOR_SD = 0.35  # of log T: two temperatures in three within 0.70 and 1.42, T = 2 is two standard deviations off


def fit_temperature(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> float:
    """The most probable temperature, by a bounded search over log T in float64.

    Args:
        logits: `(n, classes)` uncalibrated logits.
        labels: `(n,)` class ids in [0, classes).
        groups: `(n,)`; None: each row is its own group.
    """
    logits, labels = checked_rows(logits, labels)
    n, classes = logits.shape
    true_logit = logits[np.arange(n), labels]
    # The imaginary mistake is spread over all rows and their wrong classes: altogether it weighs as one row.
    wrong_logit = (logits.sum(axis=1) - true_logit) / (classes - 1)
    alike = design_effect(logits, labels, groups)

    def objective(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        log_normaliser = scipy.special.logsumexp(logits / temperature, axis=1)
        real = np.sum(log_normaliser - true_logit / temperature)
        imaginary = np.mean(log_normaliser - wrong_logit / temperature)
        return float(real / alike + imaginary + (log_temperature / PRIOR_SD) ** 2 / 2)

    found = scipy.optimize.minimize_scalar(
        objective, bounds=tuple(np.log(BOUNDS)), method="bounded", options={"xatol": 1e-8}
    )
    return float(np.exp(found.x))


def design_effect(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> float:
    """How many rows weigh as one independent row (Kish, 1965), at least 1.

    The variance of the sums over groups of the score, the derivative of the log likelihood by log T at T = 1, over
    that of the rows.

    Args:
        logits: `(n, classes)`.
        labels: `(n,)` class ids.
        groups: `(n,)`; None: each row is its own group.
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
    """`logits.checked` for rows that something is fitted on; probabilities in place of logits are refused too."""
    if len(logits) == 0:
        raise UserError(f"{what}: no rows to fit it on; give val_calib a larger share in split_ratios")
    logits, labels = checked(logits, labels, what, names)
    if ((logits >= 0) & (logits <= 1)).all() and np.allclose(logits.sum(axis=1), 1.0, atol=1e-4):
        raise UserError(
            f"{what}: probabilities given where logits are expected (all {len(logits)} rows lie in [0, 1] and "
            "sum to 1); give what the model gives before its softmax, or the logarithm of the probabilities"
        )
    return logits, labels
