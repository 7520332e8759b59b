"""Our optimizers, which `optim` may name in addition to those of transformers; one file each.

transformers has two of these names too, for the bitsandbytes (ademamix) and schedulefree (schedule_free_adamw)
versions; here they mean ours. To add an optimizer, add a file with an `Optimizer` (see `optimizer.py`) and its entry
here.
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
