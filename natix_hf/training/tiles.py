"""What training knows of a photo's tiles: how many of their logits count, and what does not go with them."""

from __future__ import annotations

from typing import Any

from natix_hf.errors import UserError
from natix_hf.options import off
from natix_hf.training.losses.check_loss import chosen_losses
from natix_hf.training.speed_options import SpeedOptions


def tiles_top_k(model: Any) -> int | None:
    """Of so many tiles a classifier averages the largest logits, class by class; None where it sees no tiles."""
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
    """What a step needs beside weights and optimizer, told before it starts, and how to need less.

    Args:
        kept: bytes that a step on one photo keeps for its backward pass, in fp32.
        photos: in a step.
        views: of a photo.
        checkpointing: whether activations are computed anew in place of being kept.
    """
    less = ["fewer photos", "--views_train sampled"] + ["--activation_checkpointing true"] * (not checkpointing)
    return (
        f"memory: {photos * views} views in a step ({photos} photos, {views} views of each) keep "
        f"{photos * kept / 1e9:.2g} GB of activations in fp32{' with checkpointing' * checkpointing}; "
        f"{', '.join(less[:-1])} or {less[-1]} need less"
    )


def check_tiles(args: Any, aggregate: str, *, prefix_cache_gb: float | None) -> None:
    """Refuse what cannot be done with tiles, before anything is read.

    Args:
        args: `NatixTrainingArguments`.
        aggregate: `views_aggregate` of the recipe.

    Raises:
        UserError: one line on the first of them.
    """
    if prefix_cache_gb is not None:
        raise UserError(
            "prefix_cache_gb: activations of every tile would take many times the room of the photos: leave it out "
            f"with {off(SpeedOptions, 'prefix_cache_gb')}, or use --views whole"
        )
    if on_features := [name for name, loss in chosen_losses(args).items() if loss.features]:
        raise UserError(
            f"loss {args.loss}: {on_features[0]} compares one feature vector a photo, and with tiles it has many: "
            "use --loss ce, or --views whole"
        )
    if args.cutmix_alpha:
        raise UserError(
            "cutmix_alpha: a rectangle of one photo would stand at another place in every tile: leave it out with "
            f"{off(args, 'cutmix_alpha')}, or use --mixup_alpha"
        )
    if aggregate == "attention":
        for key, asked in (("probe_heads", "grid"), ("warm_start", "probe")):
            if getattr(args, key) == asked:
                raise UserError(
                    f"{key}: {asked} trains linear heads, and views_aggregate: attention has more to train: leave it "
                    f"out with {off(args, key)}, or use --views_aggregate top_k"
                )
