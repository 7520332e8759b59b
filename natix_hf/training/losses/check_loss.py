"""The options of the loss, and their checks before any data is read."""

from __future__ import annotations

import dataclasses
import difflib
import math
from typing import Annotated, Any

from natix_hf.errors import UserError
from natix_hf.options import AT_LEAST_0, composed, off, option
from natix_hf.training.losses import LOSSES
from natix_hf.training.losses.class_weights import given_weights
from natix_hf.training.losses.loss import Loss


def _named(*, features: bool) -> str:
    kinds = {name: kind for name, kind in LOSSES.items() if kind.features is features}
    return ", ".join(f"{name} ({kind.note})" if kind.note else name for name, kind in kinds.items())


@dataclasses.dataclass
class _Sum:
    """The options that do not belong to a single loss."""

    loss: str = option(
        "ce",
        f"loss: a sum such as focal+0.1*supcon of {_named(features=False)}, and of losses on features: "
        f"{_named(features=True)}",
    )
    class_weights: list[str] | None = option(
        None, "balanced (by the inverse share in train), or one number per class in the order of the ids"
    )
    logit_adjustment: Annotated[float, AT_LEAST_0] = option(
        0.0, "tau: add tau times the log of the class shares of train to the logits in training, e.g. 1; 0: off"
    )


LossOptions = composed("LossOptions", (_Sum, *LOSSES.values()))


def loss_terms(loss: str) -> dict[str, float]:
    """The terms of a sum with their weights: `focal+0.1*supcon` is `{"focal": 1.0, "supcon": 0.1}`.

    Raises:
        UserError: an unknown or repeated term, a weight that is not a positive number, or only terms on features.
    """
    terms: dict[str, float] = {}
    for part in loss.split("+"):
        number, star, name = part.rpartition("*")
        number, name = number.strip() if star else "1", name.strip()
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if name not in LOSSES:
            near = difflib.get_close_matches(name, LOSSES, 1)
            guess = f"did you mean '{near[0]}'? " if near else ""
            raise UserError(f"loss {loss}: unknown term '{name}'; {guess}expected one of {', '.join(LOSSES)}")
        if not 0 < weight < math.inf:
            raise UserError(
                f"loss {loss}: weight of {name}: expected a positive number, such as 0.1*{name}; found '{number}'"
            )
        if name in terms:
            raise UserError(f"loss {loss}: {name} is given twice: write it once, with one weight")
        terms[name] = weight
    if all(LOSSES[name].features for name in terms):
        raise UserError(f"loss {loss}: trains the features but not the head: add a term, such as ce+{loss}")
    return terms


def chosen_losses(args: Any) -> dict[str, Loss]:
    """The terms of `args.loss` by name, each with the values of its options."""
    return {name: LOSSES[name].of(args) for name in loss_terms(args.loss)}


def check_loss(args: Any, method: str) -> None:
    """Reject losses and options of losses that cannot work, before any data is read.

    Args:
        args: `NatixTrainingArguments`.

    Raises:
        UserError: names the first of them.
    """
    losses = chosen_losses(args)
    for name, kind in losses.items():
        _check_place(args, method, name, kind)
    for key, used in (("label_smoothing_factor", "smoothing"), ("class_weights", "weights")):
        if getattr(args, key) and not any(getattr(kind, used) for kind in losses.values()):
            able = ", ".join(name for name, kind in LOSSES.items() if getattr(kind, used))
            raise UserError(
                f"{key}: has no effect on loss {args.loss}, only on {able}: leave it out with {off(args, key)}"
            )
    if not 0 <= args.label_smoothing_factor < 1:
        raise UserError(
            f"label_smoothing_factor: expected a number from 0 to below 1, found {args.label_smoothing_factor}"
        )
    for kind in losses.values():
        kind.check(args)
    if args.class_weights:
        given_weights(args.class_weights)


def _check_place(args: Any, method: str, name: str, kind: Loss) -> None:
    """Raise `UserError` if a term does not fit the batches or the method."""
    mixed = [key for key in ("mixup_alpha", "cutmix_alpha") if getattr(args, key)]
    if mixed and not kind.soft_labels:
        able = [name for name, kind in LOSSES.items() if kind.soft_labels and not kind.features]
        raise UserError(
            f"loss {args.loss}: {name} needs one class per photo, but mixed photos have several: "
            f"leave {' and '.join(mixed)} out with {off(args, *mixed)}, or use --loss "
            f"{' or '.join(able)}"
        )
    if args.per_device_train_batch_size < kind.least_rows:
        raise UserError(
            f"loss {args.loss}: {name} compares the photos of a batch with each other: "
            f"expected a per_device_train_batch_size of at least {kind.least_rows}: add --per_device_train_batch_size "
            f"{kind.least_rows}, or use --loss ce"
        )
    if method == "probe" and kind.features:
        raise UserError(
            f"loss {args.loss}: {name} trains the features of the backbone, which method probe does not change: "
            "use --loss ce, or --method lora or full"
        )
