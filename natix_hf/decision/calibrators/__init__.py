"""The calibrators, one file each.

A new one is a file with a `Calibrator` (`calibrator.py` says what it declares) and its line here, between those that
are simpler and those that are more flexible: of equals the first is taken. All rise with the probability that they are
given.
"""

from collections.abc import Sequence

from natix_hf.decision.calibrators.calibrator import NONE, Calibrator
from natix_hf.decision.calibrators.isotonic import ISOTONIC
from natix_hf.decision.calibrators.temperature import TEMPERATURE
from natix_hf.decision.calibrators.vector import VECTOR
from natix_hf.errors import UserError

CALIBRATORS: dict[str, Calibrator] = {
    "none": NONE,
    "temperature": TEMPERATURE,
    "vector": VECTOR,
    "isotonic": ISOTONIC,
}


def check_candidates(candidates: Sequence[str]) -> None:
    """Raise `UserError` for names that no calibrator has, or one that is given twice."""
    text = f"calibrator: {' '.join(candidates) or 'nothing'} given"
    if not candidates or any(name not in CALIBRATORS for name in candidates):
        raise UserError(f"{text}, one or more of {', '.join(CALIBRATORS)} expected")
    if len(set(candidates)) < len(candidates):
        raise UserError(f"{text}: one of them twice, remove it")
