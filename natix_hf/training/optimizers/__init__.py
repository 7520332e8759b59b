"""The optimizers that `optim` may name beside transformers' own, one file each.

transformers knows two of the names too, and means bitsandbytes' (ademamix) and another package's (schedule_free_adamw)
by them. A new optimizer is a file with an `Optimizer` (`optimizer.py` says what it declares) and its line here.
"""

from natix_hf.training.optimizers.ademamix import AdEMAMix
from natix_hf.training.optimizers.lion import Lion
from natix_hf.training.optimizers.muon import Muon
from natix_hf.training.optimizers.optimizer import Optimizer
from natix_hf.training.optimizers.sam import Sam
from natix_hf.training.optimizers.schedule_free_adamw import ScheduleFreeAdamW
from natix_hf.training.optimizers.sophia import Sophia

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sam": Sam,
    "sophia": Sophia,
    "muon": Muon,
    "ademamix": AdEMAMix,
    "schedule_free_adamw": ScheduleFreeAdamW,
    "lion": Lion,
}
