"""What every optimizer of ours says of itself.

A kind is a dataclass whose fields are what `optim_args` may set ("beta1=0.9,beta2=0.95"), with the values of its
paper, in a file of its own, and stands in `optimizers.OPTIMIZERS`. adam_beta1, adam_beta2 and adam_epsilon hold for
AdamW wherever it stands: the vectors of muon, ademamix, schedule_free_adamw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from natix_hf.errors import UserError
from natix_hf.options import defaults, off

if TYPE_CHECKING:
    import torch
    from torch import nn

    from natix_hf.training.optimizers.parameter_groups import ParameterGroup


@dataclass(frozen=True)
class Optimizer:
    """One kind of optimizer."""

    under_sam: ClassVar[bool] = True  # may be sam_base
    matrices_apart: ClassVar[bool] = False  # its groups are divided by `matrix` too, see `parameter_groups`

    @classmethod
    def of(cls, args: Any, name: str) -> Optimizer:
        """With `optim_args` over the defaults.

        Args:
            args: `NatixTrainingArguments`.
            name: the kind's, for messages.

        Raises:
            UserError: an option that the optimizer has not, or no number, or one that is out of range.
        """
        usual = defaults(cls)
        values = dict(usual)
        for pair in (args.optim_args or "").replace(" ", "").split(","):
            key, _, value = pair.partition("=")
            if pair and key not in values:
                raise UserError(
                    f"optim_args: {name} has no option {key!r}; it has {', '.join(values)}: leave it out with "
                    f"{off(args, 'optim_args')}"
                )
            try:
                if pair:
                    values[key] = type(values[key])(value)
            except ValueError:
                raise UserError(f"optim_args: {key}={value}: a number expected, such as {key}={values[key]}") from None
            if not 0 <= values.get(key, 0) < (1 if key.startswith(("beta", "momentum")) else float("inf")):
                raise UserError(f"optim_args: {key}={value}: out of range, the usual value is {usual[key]}")
        return cls(**values)

    def check(self, args: Any, *, method: str, attn_implementation: str) -> None:
        """Raise `UserError` for what does not go with it, before anything is read or loaded."""

    def check_trained(self, model: nn.Module, args: Any) -> None:
        """Raise `UserError` where it would find nothing to do in a model, which may be without weights."""

    def build(self, groups: list[ParameterGroup], args: Any, steps: int) -> torch.optim.Optimizer:
        """The optimizer of these groups, for so many optimizer steps in the whole run."""
        raise NotImplementedError

    def passes(self, args: Any) -> Any:
        """What goes through a batch more than once: None, or a callable that the trainer's step hands its pass to."""
