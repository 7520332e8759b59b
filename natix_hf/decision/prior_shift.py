"""Moves calibrated logits to other class shares, and estimates these shares (Saerens et al., 2002).

The assumption is label shift: photos of a class look the same in both places, and only the class shares differ. Then
one bias per class, added to calibrated logits, is exact, and the new shares can be estimated from photos without
labels. If the photos themselves look different (another camera, another country), neither holds, and this module
cannot detect it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from natix_hf.errors import UserError
from natix_hf.logits import softmax
from natix_hf.resampling import group_numbers, interval_ends, on_resamples

TINY = np.finfo(np.float64).tiny
TOLERANCE = 1e-7  # largest change of a share in an EM step that counts as converged


def prior_bias(seen: Sequence[float], target: Sequence[float]) -> np.ndarray:
    """Bias that moves calibrated logits to other class shares: `log(target / seen)`.

    Args:
        seen: `(classes,)` shares of the rows on which the logits were calibrated.
        target: `(classes,)` shares where the model is used.

    Returns:
        `(classes,)` float64.

    Raises:
        UserError: a share that is not above 0, or a different number of shares.
    """
    seen, target = _shares(seen, "the rows of the calibration"), _shares(target, "target_prior")
    if seen.shape != target.shape:
        raise UserError(f"target_prior: expected {len(seen)} shares, one per class; found {len(target)}")
    return np.log(target) - np.log(seen)


def offset_to(seen: np.ndarray, trained: np.ndarray | None, calibrators: Sequence[str]) -> np.ndarray:
    """Bias `(classes,)` that moves logits from the class shares of training to those of the rows.

    A temperature cannot undo the effect of sampling on the odds; without this bias, target_prior would correct it
    twice.

    Args:
        seen: shares of the classes among the rows.
        trained: shares that the logits are for; None: the same.
        calibrators: requested ones; for `none` alone the result is zeros.
    """
    if trained is None or not seen.all() or list(calibrators) == ["none"]:
        return np.zeros(len(seen))
    return prior_bias(trained, seen)


def importance_weights(labels: np.ndarray, seen: Sequence[float], target: Sequence[float]) -> np.ndarray:
    """Weight of each row, `target / seen` of its class. Weighted means over the rows are means under `target`.

    Args:
        labels: `(n,)` class ids.
        seen, target: as for `prior_bias`.

    Returns:
        `(n,)`; the mean is 1 if `seen` are the shares of `labels`.
    """
    return np.exp(prior_bias(seen, target))[np.asarray(labels)]


@dataclass(frozen=True)
class PriorEstimate:
    """Class shares estimated from photos without labels.

    Args:
        prior: `(classes,)`, sums to 1.
        low, high: `(classes,)` percentile interval over resampled groups. It reflects the number of photos, but not
            errors of the calibration or a shift other than label shift.
        iterations: EM steps taken.
        converged: whether the last step changed no share by more than `TOLERANCE`.
        n, groups: number of rows and groups.
    """

    prior: np.ndarray
    low: np.ndarray
    high: np.ndarray
    iterations: int
    converged: bool
    n: int
    groups: int


def em_step(probabilities: np.ndarray, seen: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """One EM step: the mean posterior of each class under the current shares.

    Args:
        probabilities: `(n, classes)` calibrated at the class shares `seen`; rows sum to 1.
        seen, prior: `(classes,)`.

    Returns:
        `(classes,)` new shares.
    """
    posterior = probabilities * (prior / seen)
    return (posterior / posterior.sum(axis=1, keepdims=True)).mean(axis=0)


def estimate_prior(
    calibrated_logits: np.ndarray,
    seen: Sequence[float],
    groups: np.ndarray | None = None,
    *,
    max_iterations: int = 2000,
    n_boot: int = 300,
    seed: int = 0,
) -> PriorEstimate:
    """Estimate class shares of photos without labels by EM (Saerens et al., 2002).

    The likelihood has one maximum, so EM finds it from any start; the resamples start at the estimate.

    Args:
        calibrated_logits: `(n, classes)`, calibrated at the class shares `seen` (without a bias for another prior).
        seen: `(classes,)` shares of the rows of the calibration.
        groups: `(n,)`, resampled for the interval; None: each row is a group.
        max_iterations: after this many steps it returns with `converged` False.

    Raises:
        UserError: no rows; logits that are not finite; another number of classes than in `seen`.
    """
    seen = _shares(seen, "the rows of the calibration")
    logits = np.asarray(calibrated_logits, dtype=np.float64)
    if logits.ndim != 2 or len(logits) == 0 or logits.shape[1] != len(seen):
        raise UserError(f"prior: expected logits (n >= 1, {len(seen)}), found shape {logits.shape}")
    if not np.isfinite(logits).all():
        raise UserError("prior: expected finite logits to estimate the class shares from, found NaN or infinity")
    probabilities = softmax(logits)
    prior, converged, iterations = seen, False, 0
    while iterations < max_iterations and not converged:
        new = em_step(probabilities, seen, prior)
        converged, prior, iterations = bool(np.abs(new - prior).max() <= TOLERANCE), new, iterations + 1
    group_of_row = group_numbers(groups, len(logits))
    n_groups = int(group_of_row.max()) + 1

    def again(times: np.ndarray) -> np.ndarray:  # (b, groups) -> (b, classes)
        return resampled_priors(probabilities, seen, prior, times[:, group_of_row], max_iterations)

    draws = on_resamples(again, n_groups, n_boot, seed, width=logits.size)
    low, high = np.transpose([interval_ends(share) for share in draws.T])
    return PriorEstimate(prior, low, high, iterations, converged, len(logits), n_groups)


def resampled_priors(
    probabilities: np.ndarray, seen: np.ndarray, start: np.ndarray, weights: np.ndarray, max_iterations: int = 2000
) -> np.ndarray:
    """EM on many weightings of the same rows at once, until each has converged to 1e-5.

    Args:
        probabilities: `(n, classes)` calibrated under `seen`.
        seen, start: `(classes,)`; EM starts at `start`.
        weights: `(b, n)` weight of each row.
        max_iterations: maximum number of steps.

    Returns:
        `(b, classes)` shares.
    """
    weights = weights / weights.sum(axis=1, keepdims=True)
    priors = np.repeat(start[None], len(weights), axis=0)
    moving = np.arange(len(weights))
    for _ in range(max_iterations):
        ratio = priors[moving] / seen  # (moving, classes)
        # Weights divided by each row's normaliser: (moving, n). The posterior itself is never stored.
        # Only rows of weight 0 reach the floor: a resample without a class gives it the share 0.
        scaled = weights[moving] / np.maximum(ratio @ probabilities.T, TINY)
        new = ratio * (scaled @ probabilities)
        change = np.abs(new - priors[moving]).max(axis=1)
        priors[moving] = new
        moving = moving[change > 1e-5]  # a percentile needs no more digits
        if not len(moving):
            break
    return priors


def _shares(given: Sequence[float], what: str) -> np.ndarray:
    shares = np.asarray(given, dtype=np.float64)
    if shares.ndim != 1 or len(shares) < 2 or not np.isfinite(shares).all() or (shares <= 0).any():
        text = " ".join(f"{share:g}" for share in np.ravel(shares))
        raise UserError(f"{what}: expected class shares, one number above 0 for each class; found {text}")
    return shares / shares.sum()
