"""The interface of our optimizers: what each kind declares.

A kind is a dataclass in its own file, listed in `optimizers.OPTIMIZERS`. Its fields are the options in `optim_args`
("beta1=0.9,beta2=0.95"), with the values of its paper as defaults. adam_beta1, adam_beta2 and adam_epsilon apply to
every AdamW: the vectors of muon, ademamix, schedule_free_adamw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from natix_hf.errors import UserError
from natix_hf.options import AT_LEAST_0, SHARE_BELOW_1, defaults, off

if TYPE_CHECKING:
    import torch
    from torch import nn

    from natix_hf.training.optimizers.parameter_groups import ParameterGroup


@dataclass(frozen=True)
class Optimizer:
    """One kind of optimizer."""

    under_sam: ClassVar[bool] = True  # may be sam_base
    matrices_apart: ClassVar[bool] = False  # its groups are split by `matrix` too, see `parameter_groups`

    @classmethod
    def of(cls, args: Any, name: str) -> Optimizer:
        """Build the optimizer options from `optim_args` and the defaults.

        Args:
            args: `NatixTrainingArguments`.
            name: of the kind, for messages.

        Raises:
            UserError: an unknown option, or a value that is not a number or out of range.
        """
        usual, values = defaults(cls), {}
        for pair in filter(None, (args.optim_args or "").replace(" ", "").split(",")):
            key, _, value = pair.partition("=")
            if key not in usual:
                raise UserError(
                    f"optim_args: {name} has no option {key!r}; it has {', '.join(usual)}: leave it out with "
                    f"{off(args, 'optim_args')}"
                )
            try:
                values[key] = type(usual[key])(value)
            except ValueError:
                raise UserError(f"optim_args: {key}={value}: expected a number, such as {key}={usual[key]}") from None
            bounds = SHARE_BELOW_1 if key.startswith(("beta", "momentum")) else AT_LEAST_0
            if not bounds.holds(values[key]):
                raise UserError(f"optim_args: {key}={value}: expected {bounds.words}, such as {key}={usual[key]}")
        return cls(**values)

    def check(self, args: Any, *, method: str, attn_implementation: str) -> None:
        """Raise `UserError` for options that the optimizer rules out, before any data or weight is read."""

    def check_trained(self, model: nn.Module, args: Any) -> None:
        """Raise `UserError` if there is nothing to train in a model, which may be without weights."""

    def build(self, groups: list[ParameterGroup], args: Any, steps: int) -> torch.optim.Optimizer:
        """Build the torch optimizer for these groups; `steps` is the number of steps in the whole run."""
        raise NotImplementedError

    def passes(self, args: Any) -> Any:
        """See `build_optimizer.extra_passes`; None by default."""
