"""Class shares: those that the recipe expects in use, and those that training sees.

They may differ, but then the probabilities of the model are not right for the photos that it will be used on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from natix_hf.errors import UserError

# Ratio of the odds of two classes above which a warning is printed: at 2, a probability of 0.5 is really 0.33.
ODDS_LIMIT = 2.0


def check_target_prior(given: Sequence[float]) -> None:
    """Raise `UserError` for numbers that cannot be class shares."""
    text = f"target_prior: {' '.join(f'{share:g}' for share in given)} given"
    if not all(0 < share < 1 for share in given):
        raise UserError(f"{text}, shares above 0 and below 1 expected")
    if len(given) > 1 and abs(sum(given) - 1) > 1e-3:
        raise UserError(f"{text}, their sum is {sum(given):g}: shares of the classes that sum to 1 expected")


def class_prior(given: Sequence[float], names: Sequence[str], positive: int) -> np.ndarray:
    """The expected share of each class, `(classes,)`, sum 1.

    Args:
        given: one number per class in the order of the ids; for two classes the positive one's is enough.
        names: `(classes,)`.

    Raises:
        UserError: these are no shares, or not one per class.
    """
    check_target_prior(given)
    shares = [given[0] if i == positive else 1 - given[0] for i in range(2)] if len(given) == 1 else list(given)
    if len(shares) != len(names):
        raise UserError(
            f"target_prior: {len(given)} number{'s' * (len(given) > 1)} given, {len(names)} expected, one for each of "
            f"{', '.join(names)}"
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
    there = np.flatnonzero(seen > 0)
    ratio = np.log(seen[there] / target[there])
    much, little = there[ratio.argmax()], there[ratio.argmin()]
    factor = float(np.exp(ratio.max() - ratio.min()))
    if factor <= ODDS_LIMIT:
        return None
    return (
        f"training sees {seen[much]:.1%} {names[much]} and {seen[little]:.1%} {names[little]}, target_prior says "
        f"{target[much]:.1%} and {target[little]:.1%}: the odds of {names[much]} against {names[little]} are "
        f"{factor:.1f} times the expected ones (no warning up to {ODDS_LIMIT:g} times); sampling: balanced, "
        "class_weights or logit_adjustment change what training sees"
    )
