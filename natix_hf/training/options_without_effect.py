"""Reports options that a recipe sets but that have no effect, such as `focal_gamma` with the loss `ce`.

This is a warning, not an error: another run of the recipe, or a sweep over `loss`, may use them. Options that a user
would expect to work (`class_weights`, `label_smoothing_factor`) raise an error in their own checks.
"""

from __future__ import annotations

from typing import Any

from natix_hf.options import defaults, idle_line
from natix_hf.training.epoch_kinds import CURRICULA, SAMPLINGS
from natix_hf.training.losses import LOSSES
from natix_hf.training.losses.check_loss import loss_terms
from natix_hf.training.optimizers.sam import SamOptions

WITHOUT_NUMBERS = ("adamw_torch", "adamw_torch_fused", "adafactor")  # transformers does not read their optim_args


def without_effect(args: Any) -> str | None:
    """One line on options that differ from their default and have no effect; None if there are none.

    Args:
        args: `NatixTrainingArguments`.
    """
    terms = loss_terms(args.loss)
    others = {name: kind for name, kind in LOSSES.items() if name not in terms}
    reasons = {key: f"loss {args.loss} has no {name}" for name, kind in others.items() for key in defaults(kind)}
    optimizer = getattr(args.optim, "value", args.optim)
    if optimizer != "sam":
        reasons |= dict.fromkeys(defaults(SamOptions), f"optim is {optimizer}")
    if optimizer in WITHOUT_NUMBERS:
        reasons["optim_args"] = f"optim {optimizer} takes none"
    if not (args.mixup_alpha and args.cutmix_alpha):
        reasons["mix_switch_prob"] = "mixup_alpha and cutmix_alpha are not both on"
    for key, kinds in (("sampling", SAMPLINGS), ("curriculum", CURRICULA)):
        name = getattr(args, key)
        of_other_kinds = defaults(*kinds.values()).keys() - defaults(kinds[name])
        reasons |= dict.fromkeys(sorted(of_other_kinds), f"{key} is {name}")
    return idle_line(args, reasons)
