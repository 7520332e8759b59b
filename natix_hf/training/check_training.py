"""Checks the options of a training before any photo or weight is read, by calling the check of each topic.

A recipe is checked when it is read. `NatixTrainer` checks its arguments, unless its caller has done so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from natix_hf.training.epoch_kinds import check_curriculum, check_sampling
from natix_hf.training.losses.check_loss import check_loss
from natix_hf.training.mixing import check_views
from natix_hf.training.optimizers.build_optimizer import check_optimizer
from natix_hf.training.probe import check_probe
from natix_hf.training.sharding import check_sharding
from natix_hf.training.tiles import check_tiles
from natix_hf.training.warm_start import check_warm_start

if TYPE_CHECKING:
    from natix_hf.training.training_arguments import NatixTrainingArguments


def check_training(
    args: NatixTrainingArguments,
    *,
    method: str,
    head: str,
    attn_implementation: str,
    augment: str,
    challenge_levels: Sequence[float] | None = None,
    decode_copy: bool = False,
    fixed_views: int = 0,
    prefix_cache_gb: float | None = None,
    use_doran: bool = False,
    tiles: str | None = None,
) -> None:
    """Check that the options fit together.

    Args:
        args: each value in them is checked already.
        method, head, attn_implementation, augment, ...: as in the recipe.
        tiles: `views_aggregate` if the model uses tiles, else None.

    Raises:
        UserError: names the first options that do not fit together.
    """
    speed = {"decode_copy": decode_copy, "fixed_views": fixed_views, "prefix_cache_gb": prefix_cache_gb}
    check_loss(args, method)
    check_sampling(args)
    check_curriculum(args)
    check_views(method, augment, args, challenge_levels=challenge_levels, **speed)
    check_probe(args, method, head=head)
    check_sharding(args, method, prefix_cache_gb=prefix_cache_gb, use_doran=use_doran)
    check_warm_start(args, method, head)
    if tiles is not None:
        check_tiles(args, tiles, prefix_cache_gb=prefix_cache_gb)
    check_optimizer(args, method=method, attn_implementation=attn_implementation)
