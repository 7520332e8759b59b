"""Checks the class shares that a recipe expects in use, and compares them with those that training sees.

If the two differ and nothing corrects for it, the probabilities are wrong for the photos that the model is used on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from natix_hf.errors import UserError

# Ratio of the odds of two classes above which a warning is printed: at 2, a probability of 0.5 is really 0.33.
ODDS_LIMIT = 2.0


def check_target_prior(given: Sequence[float]) -> None:
    """Raise `UserError` for numbers that cannot be class shares."""
    shown = " ".join(f"{share:g}" for share in given)
    if not all(0 < share < 1 for share in given):
        raise UserError(f"target_prior: expected shares above 0 and below 1, found {shown}")
    if len(given) > 1 and abs(sum(given) - 1) > 1e-3:
        raise UserError(f"target_prior: expected shares that sum to 1, found {shown} (sum {sum(given):g})")


def class_prior(given: Sequence[float], names: Sequence[str], positive: int) -> np.ndarray:
    """The expected share of each class, `(classes,)`, sum 1.

    Args:
        given: one number per class in the order of the ids; for two classes, that of the positive class is enough.
        names: `(classes,)`.

    Raises:
        UserError: a number is not a share, or there is not one per class.
    """
    check_target_prior(given)
    shares = [given[0] if i == positive else 1 - given[0] for i in range(2)] if len(given) == 1 else list(given)
    if len(shares) != len(names):
        raise UserError(
            f"target_prior: expected {len(names)} shares, one for each of {', '.join(names)}; found {len(given)}"
        )
    return np.array(shares) / np.sum(shares)


def prior_warning(seen: np.ndarray, target: np.ndarray, names: Sequence[str]) -> str | None:
    """One line if the odds of two classes differ by a factor above `ODDS_LIMIT`, else None.

    The logarithm of the factor is the bias that would correct the decision.

    Args:
        seen: `(classes,)` shares that training sees after sampling, weights and adjustment.
        target: `(classes,)` expected shares, above 0.
        names: `(classes,)`.
    """
    seen, target = np.asarray(seen), np.asarray(target)
    occurring = np.flatnonzero(seen > 0)
    ratio = np.log(seen[occurring] / target[occurring])
    over, under = occurring[ratio.argmax()], occurring[ratio.argmin()]
    factor = float(np.exp(ratio.max() - ratio.min()))
    if factor <= ODDS_LIMIT:
        return None
    return (
        f"training sees {seen[over]:.1%} {names[over]} and {seen[under]:.1%} {names[under]}, target_prior says "
        f"{target[over]:.1%} and {target[under]:.1%}: the odds of {names[over]} against {names[under]} are "
        f"{factor:.1f} times the expected ones (no warning up to {ODDS_LIMIT:g} times); sampling: balanced, "
        "class_weights or logit_adjustment change what training sees"
    )
