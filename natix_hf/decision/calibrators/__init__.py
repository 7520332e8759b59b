"""The calibrators, one file each, from simple to flexible. Of equally good ones the first is chosen.

To add one, write a file with a `Calibrator` (`calibrator.py` describes it) and add a line here. A calibrated
probability must increase with the probability before calibration.
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
    shown = " ".join(candidates) or "nothing"
    if not candidates or any(name not in CALIBRATORS for name in candidates):
        raise UserError(f"calibrator: expected one or more of {', '.join(CALIBRATORS)}; found {shown}")
    if len(set(candidates)) < len(candidates):
        raise UserError(f"calibrator: {shown}: a name is given twice, remove one")
