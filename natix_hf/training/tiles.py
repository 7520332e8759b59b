"""Training on tiles: how many tile logits are averaged, the memory of a step, and options that tiles rule out."""

from __future__ import annotations

from typing import Any

from natix_hf.errors import UserError
from natix_hf.options import off
from natix_hf.training.losses.check_loss import chosen_losses
from natix_hf.training.speed_options import SpeedOptions


def tiles_top_k(model: Any) -> int | None:
    """Number of tiles whose largest logits the classifier averages, per class; None without tiles."""
    return None if model.config.views is None else model.head.tiles.top_k


def checkpointed(kept: int, blocks: int, tokens: int, hidden: int) -> int:
    """Bytes that a step with activation checkpointing keeps: the inputs of all blocks, and one block computed anew.

    Args:
        kept: bytes without checkpointing, in fp32.
        blocks: of the backbone, all alike.
        tokens: that pass it.
        hidden: numbers of a token.
    """
    return 4 * blocks * tokens * hidden + kept // blocks


def memory_line(kept: int, photos: int, views: int, checkpointing: bool) -> str:
    """One line on the activation memory of a step, printed before training, and how to reduce it.

    Args:
        kept: bytes kept for the backward pass of one photo, in fp32.
        photos: per step.
        views: per photo.
        checkpointing: whether activations are recomputed instead of kept.
    """
    less = ["take fewer photos", "--views_train sampled"] + ["--activation_checkpointing true"] * (not checkpointing)
    return (
        f"memory: {photos * views} views per step ({photos} photos, {views} views each) keep "
        f"{photos * kept / 1e9:.2g} GB of activations in fp32{' with checkpointing' * checkpointing}; to use less "
        f"memory, {', '.join(less[:-1])} or {less[-1]}"
    )


def check_tiles(args: Any, aggregate: str, *, prefix_cache_gb: float | None) -> None:
    """Reject options that do not work with tiles, before any data is read.

    Args:
        args: `NatixTrainingArguments`.
        aggregate: `views_aggregate` of the recipe.

    Raises:
        UserError: names the first such option.
    """
    if prefix_cache_gb is not None:
        raise UserError(
            "prefix_cache_gb: activations of every tile would take many times the space of the photos: leave it out "
            f"with {off(SpeedOptions, 'prefix_cache_gb')}, or use --views whole"
        )
    if on_features := [name for name, loss in chosen_losses(args).items() if loss.features]:
        raise UserError(
            f"loss {args.loss}: {on_features[0]} compares one feature vector per photo, and tiles have many: "
            "use --loss ce, or --views whole"
        )
    if args.cutmix_alpha:
        raise UserError(
            "cutmix_alpha: a rectangle of one photo would be in a different place in every tile: leave it out with "
            f"{off(args, 'cutmix_alpha')}, or use --mixup_alpha"
        )
    if aggregate == "attention":
        for key, linear_only in (("probe_heads", "grid"), ("warm_start", "probe")):
            if getattr(args, key) == linear_only:
                raise UserError(
                    f"{key}: {linear_only} trains only linear heads, and views_aggregate: attention has other weights "
                    f"too: leave it out with {off(args, key)}, or use --views_aggregate top_k"
                )
