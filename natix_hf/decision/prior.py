"""Class shares: those that a recipe expects where the model will work, beside those that training saw.

Knows arrays only. That the two differ is no fault, but the probabilities of the model then belong to a world that is
not the one it works in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from natix_hf.errors import UserError

# How far the odds of two classes may be off before it is worth a line: at twice, a probability of 0.5 is one of 0.33.
ODDS_LIMIT = 2.0


def check_target_prior(given: Sequence[float]) -> None:
    """Raise `UserError` for numbers that are no class shares, whatever the classes are."""
    text = f"target_prior: {' '.join(f'{share:g}' for share in given)} given"
    if not all(0 < share < 1 for share in given):
        raise UserError(f"{text}, shares above 0 and below 1 expected")
    if len(given) > 1 and abs(sum(given) - 1) > 1e-3:
        raise UserError(f"{text}, their sum is {sum(given):g}: shares of the classes that sum to 1 expected")


def class_prior(given: Sequence[float], names: Sequence[str], positive: int) -> np.ndarray:
    """The expected share of each class, `(classes,)`, sum 1.

    Args:
        given: one number a class in the order of their ids; of two classes that of the positive one is enough.
        names: `(classes,)`.

    Raises:
        UserError: no shares, or another number of them than of classes.
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
    """One line with figures where the odds of two classes differ by more than `ODDS_LIMIT` times, else None.

    The factor is also how far the decision is off: its logarithm is the bias that would have to be added.

    Args:
        seen: `(classes,)` shares that training sees, after sampling, weights and adjustment.
        target: `(classes,)` shares expected, above 0.
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
        f"{factor:.1f} times those expected (up to {ODDS_LIMIT:g} times is let pass); sampling: balanced, "
        "class_weights or logit_adjustment change what training sees"
    )
