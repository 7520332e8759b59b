"""The recipe's keys for early exits of a cascade.

The caller of `check_exit` passes what the rest of the recipe says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from natix_hf.errors import UserError
from natix_hf.options import off, option


@dataclass
class ExitOptions:
    """Which photos keep the answer of the first stage.

    Raises:
        UserError: names the key, the value and what was expected.
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
                raise UserError(f"{name}: expected a number above 0 and below 1, found {getattr(self, name):g}")
        exit_of(self)


def exit_of(options: ExitOptions) -> Literal["risk"] | tuple[float, float] | None:
    """What `views_exit` asks for: `risk` (a band with a guarantee), a given band, or None.

    Raises:
        UserError: it is neither `risk` nor two increasing numbers between 0 and 1.
    """
    value = options.views_exit
    if not value:
        return None
    words = [value] if isinstance(value, str) else [str(word) for word in value]
    if words == ["risk"]:
        return "risk"
    fault = UserError(
        f"views_exit: expected `risk` or two numbers low and high with 0 < low < high < 1, found {' '.join(words)}: "
        "use for example --views_exit 0.12 0.88"
    )
    try:
        low, high = (float(word) for word in words)
    except ValueError:
        raise fault from None
    if not 0 < low < high < 1:
        raise fault
    return low, high


def without_exits(run: Path | str) -> str:
    """How to remove the early exits of a run, for messages."""
    return f"remove the exits first with python -m natix_hf.calibrate {run} --views_exit none"


def check_exit(
    options: ExitOptions,
    *,
    two_stages: bool,
    risk: str = "none",
    risk_delta: float = 0.1,
    profiles: Sequence[str] = (),
) -> None:
    """Refuse early exits that contradict the rest of the recipe.

    Args:
        options: the keys about early exits.
        two_stages: whether there is a more expensive second stage: `views: tiles`, or a second model.
        risk, risk_delta: of the abstention guarantee; `none`: no such guarantee.
        profiles: challenge profiles that the recipe also uses; `clean` is none.

    Raises:
        UserError: names the key and what to type.
    """
    from natix_hf.decision.cascade import check_deltas

    requested = exit_of(options)
    if requested and not two_stages:
        raise UserError(
            "views_exit: early exits save tiles, and this recipe has none: add --views tiles, or "
            f"remove the key with {off(options, 'views_exit')}"
        )
    if requested and (sent := [profile for profile in profiles if profile != "clean"]):
        raise UserError(
            f"views_exit: whole-view logits are not stored for the photos of {sent[0]}: remove robustness and "
            f"calibrate_on, or early exits with {off(options, 'views_exit')}"
        )
    if requested == "risk" and risk != "none":
        check_deltas(options.views_exit_delta, risk_delta)
