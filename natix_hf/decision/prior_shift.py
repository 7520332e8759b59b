"""From the class shares under which a model was calibrated to those under which it works (Saerens et al., 2002).

Label shift: photos of a class look the same in both places, only the classes' shares differ. Then one bias a class
added to calibrated logits is exact, and the new shares can be estimated from photos without labels. Where the photos
themselves look different (another camera, another country) neither holds, and nothing here can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from natix_hf.errors import UserError
from natix_hf.logits import softmax
from natix_hf.resampling import group_numbers, interval_ends, on_resamples

TINY = np.finfo(np.float64).tiny


def prior_bias(seen: Sequence[float], target: Sequence[float]) -> np.ndarray:
    """What is added to calibrated logits so that they hold under other class shares: `log(target / seen)`.

    Args:
        seen: `(classes,)` shares of the rows on which the logits were calibrated.
        target: `(classes,)` shares where the model works.

    Returns:
        `(classes,)` float64.

    Raises:
        UserError: a share that is not above 0, or different numbers of shares.
    """
    seen, target = _shares(seen, "the rows of the calibration"), _shares(target, "target_prior")
    if seen.shape != target.shape:
        raise UserError(f"target_prior: {len(target)} shares given, {len(seen)} expected, one a class")
    return np.log(target) - np.log(seen)


def offset_to(seen: np.ndarray, trained: np.ndarray | None, calibrators: Sequence[str]) -> np.ndarray:
    """What moves logits that belong to the class shares of training to those of the rows, `(classes,)`.

    A temperature cannot undo what sampling did to the odds: without this, target_prior would correct it twice.

    Args:
        seen: shares of the classes among the rows.
        trained: those to which the logits belong; None: the same.
        calibrators: that are asked for; zeros where that is `none` alone.
    """
    if trained is None or not seen.all() or list(calibrators) == ["none"]:
        return np.zeros(len(seen))
    return prior_bias(trained, seen)


def importance_weights(labels: np.ndarray, seen: Sequence[float], target: Sequence[float]) -> np.ndarray:
    """One weight a row, `target / seen` of its class: weighted means over these rows are means under `target`.

    Args:
        labels: `(n,)` class ids.
        seen, target: as for `prior_bias`.

    Returns:
        `(n,)`; their mean is 1 where `seen` are the shares of `labels`.
    """
    return np.exp(prior_bias(seen, target))[np.asarray(labels)]


@dataclass(frozen=True)
class PriorEstimate:
    """Class shares estimated from photos without labels.

    Args:
        prior: `(classes,)`, sums to 1.
        low, high: `(classes,)` percentile interval over resampled groups. It knows how few photos there are, not
            whether the probabilities are calibrated or whether label shift is what happened.
        iterations: EM steps taken.
        converged: whether the last step moved no share by more than the tolerance.
        n, groups: rows and groups that it rests on.
    """

    prior: np.ndarray
    low: np.ndarray
    high: np.ndarray
    iterations: int
    converged: bool
    n: int
    groups: int


def em_step(probabilities: np.ndarray, seen: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """One step of expectation and maximisation: mean posterior of each class under the shares assumed so far.

    Args:
        probabilities: `(n, classes)` calibrated under `seen`; rows sum to 1.
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
    tolerance: float = 1e-7,
    n_boot: int = 300,
    seed: int = 0,
) -> PriorEstimate:
    """The class shares among photos without labels, by EM (Saerens et al., 2002).

    The likelihood has one peak, so that EM ends in the same place wherever it starts; the resamples start at the
    estimate.

    Args:
        calibrated_logits: `(n, classes)`, calibrated under `seen` (without a bias for another prior).
        seen: `(classes,)` shares of the rows of the calibration.
        groups: `(n,)`, resampled as wholes for the interval; None: each row is its own group.
        max_iterations: after so many steps it ends with `converged` False.
        tolerance: largest change of a share in a step that counts as standing still.

    Raises:
        UserError: no rows, logits that are not finite or have another number of classes than `seen`.
    """
    seen = _shares(seen, "the rows of the calibration")
    logits = np.asarray(calibrated_logits, dtype=np.float64)
    if logits.ndim != 2 or len(logits) == 0 or logits.shape[1] != len(seen):
        raise UserError(f"prior: expected logits (n >= 1, {len(seen)}), found shape {logits.shape}")
    if not np.isfinite(logits).all():
        raise UserError("prior: NaN or infinite logits among those that the class shares are estimated from")
    probabilities = softmax(logits)
    prior, converged, iterations = seen, False, 0
    while iterations < max_iterations and not converged:
        found = em_step(probabilities, seen, prior)
        converged, prior, iterations = bool(np.abs(found - prior).max() <= tolerance), found, iterations + 1
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
    """EM on many weightings of the same rows at once, stepped together until each stands still to 1e-5.

    Args:
        probabilities: `(n, classes)` calibrated under `seen`.
        seen, start: `(classes,)`; EM begins at `start`.
        weights: `(b, n)` how much each row counts.
        max_iterations: at most so many steps.

    Returns:
        `(b, classes)` shares.
    """
    weights = weights / weights.sum(axis=1, keepdims=True)
    priors = np.repeat(start[None], len(weights), axis=0)
    moving = np.arange(len(weights))
    for _ in range(max_iterations):
        ratio = priors[moving] / seen  # (moving, classes)
        # Weights over each row's normaliser: (moving, n); the posterior itself is never held.
        # The floor is met by rows of weight 0 alone: a resample that lost a class gives it the share 0.
        scaled = weights[moving] / np.maximum(ratio @ probabilities.T, TINY)
        found = ratio * (scaled @ probabilities)
        change = np.abs(found - priors[moving]).max(axis=1)
        priors[moving] = found
        moving = moving[change > 1e-5]  # a percentile needs no more digits
        if not len(moving):
            break
    return priors


def _shares(given: Sequence[float], what: str) -> np.ndarray:
    shares = np.asarray(given, dtype=np.float64)
    if shares.ndim != 1 or len(shares) < 2 or not np.isfinite(shares).all() or (shares <= 0).any():
        text = " ".join(f"{share:g}" for share in np.ravel(shares))
        raise UserError(f"{what}: class shares {text} found, one number above 0 for each class expected")
    return shares / shares.sum()
