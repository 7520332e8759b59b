"""The calibrators, one file each, ordered from simple to flexible: of equally good ones the first is chosen.

To add one, write a file with a `Calibrator` (`calibrator.py` describes it) and add its line here. Each must be
increasing in the probability that it is given.
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
