"""The calibrators, one file each.

A new one is a file with a `Calibrator` (`calibrator.py` says what it declares) and its line here, between those that
are simpler and those that are more flexible: of equals the first is taken. All rise with the probability that they are
given.
"""

from natix_hf.decision.calibrators.calibrator import NONE, Calibrator
from natix_hf.decision.calibrators.isotonic import ISOTONIC
from natix_hf.decision.calibrators.temperature import TEMPERATURE
from natix_hf.decision.calibrators.vector import VECTOR

CALIBRATORS: dict[str, Calibrator] = {
    "none": NONE,
    "temperature": TEMPERATURE,
    "vector": VECTOR,
    "isotonic": ISOTONIC,
}
