"""The losses: a run minimises a weighted sum of terms such as `focal+0.1*supcon`, with one file per term.

Every term is a mean over the rows of a batch, so accumulation and several processes give the gradient of one large
batch. `supcon`, `koleo` and `lcron` compare rows with each other, and see only the rows of one micro-batch on one
process. To add a loss, add a file with a `Loss` (see `loss.py`) and its entry here.
"""

from natix_hf.training.losses.asymmetric import Asymmetric
from natix_hf.training.losses.ce import CrossEntropy
from natix_hf.training.losses.focal import Focal
from natix_hf.training.losses.gatekeeper import Gatekeeper
from natix_hf.training.losses.koleo import KoLeo
from natix_hf.training.losses.lcron import Lcron
from natix_hf.training.losses.loss import Loss
from natix_hf.training.losses.supcon import SupCon

LOSSES: dict[str, type[Loss]] = {
    "ce": CrossEntropy,
    "focal": Focal,
    "asymmetric": Asymmetric,
    "gatekeeper": Gatekeeper,
    "supcon": SupCon,
    "lcron": Lcron,
    "koleo": KoLeo,
}
