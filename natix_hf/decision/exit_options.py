"""The recipe's keys about photos that leave a cascade early.

Knows neither what the stages are nor what else a recipe says: `check_exit` is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from natix_hf.errors import UserError
from natix_hf.options import off, option


@dataclass
class ExitOptions:
    """Which photos keep the answer of the first stage.

    Raises:
        UserError: names the key, what was given and what was expected.
    """

    views_exit: list[str] | None = option(
        None,
        "decide photos without their tiles if the whole view is certain enough; risk: find the band of probabilities "
        "that need tiles, with a guarantee; two numbers, e.g. 0.12 0.88: that band, without a guarantee",
    )
    views_exit_alpha: float = option(
        0.01, "views_exit risk: largest share of all photos that are wrong without tiles and would be right with them"
    )
    views_exit_delta: float = option(0.05, "probability that this guarantee fails; with risk it is part of risk_delta")

    def __post_init__(self):
        for name in ("views_exit_alpha", "views_exit_delta"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name):g} given, a number above 0 and below 1 expected")
        exit_of(self)


def exit_of(options: ExitOptions) -> Literal["risk"] | tuple[float, float] | None:
    """What `views_exit` asks for: a band with a promise, a given one, or none.

    Raises:
        UserError: it is neither `risk` nor two rising numbers between 0 and 1.
    """
    given = options.views_exit
    if not given:
        return None
    words = [given] if isinstance(given, str) else [str(word) for word in given]
    if words == ["risk"]:
        return "risk"
    fault = UserError(
        f"views_exit: {' '.join(words)} given, `risk` or two numbers low and high with 0 < low < high < 1 expected, "
        "e.g. --views_exit 0.12 0.88"
    )
    try:
        low, high = (float(word) for word in words)
    except ValueError:
        raise fault from None
    if not 0 < low < high < 1:
        raise fault
    return low, high


def check_exit(
    options: ExitOptions,
    *,
    two_stages: bool,
    risk: str = "none",
    risk_delta: float = 0.1,
    profiles: Sequence[str] = (),
) -> None:
    """Refuse early exits that the rest of a recipe leaves no room for.

    Args:
        options: asked for.
        two_stages: whether there is a dearer answer than the first: `views: tiles`, or a second model.
        risk, risk_delta: of the promise of abstention; `none`: no such promise.
        profiles: challenge profiles under which photos are answered too; `clean` is none.

    Raises:
        UserError: names the key and what to type.
    """
    from natix_hf.decision.cascade import check_deltas

    asked = exit_of(options)
    if asked and not two_stages:
        raise UserError(
            "views_exit: photos leave early only where tiles would be looked at otherwise: add --views tiles, or "
            f"leave it out with {off(options, 'views_exit')}"
        )
    if asked and (sent := [profile for profile in profiles if profile != "clean"]):
        raise UserError(
            f"views_exit: what the whole view alone says of photos as {sent[0]} sends them is not written down: leave "
            f"robustness and calibrate_on out, or early exits with {off(options, 'views_exit')}"
        )
    if asked == "risk" and risk != "none":
        check_deltas(options.views_exit_delta, risk_delta)
