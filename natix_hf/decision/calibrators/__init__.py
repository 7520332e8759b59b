"""The calibrators, one file each, ordered from simple to flexible: of equally good ones the first is chosen.

To add one, write a file with a `Calibrator` (`calibrator.py` describes it) and add its line here. Each must be
increasing in the probability that it is given.
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
    """Raise `UserError` for an unknown or repeated name."""
    text = f"calibrator: {' '.join(candidates) or 'nothing'} given"
    if not candidates or any(name not in CALIBRATORS for name in candidates):
        raise UserError(f"{text}, one or more of {', '.join(CALIBRATORS)} expected")
    if len(set(candidates)) < len(candidates):
        raise UserError(f"{text}: one of them twice, remove it")
