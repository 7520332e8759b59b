"""What is refused of a training before a photo is read or a weight is loaded: one pass over what the kinds declare.

A recipe is checked when it is read. `NatixTrainer` checks what Python hands it, unless its caller has done so.
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
    """Raise `UserError`, in one line, for the first thing that does not go together; changes nothing.

    Args:
        args: their own values they have checked themselves.
        method, head, attn_implementation, augment, ...: as a recipe says them.
        tiles: `views_aggregate` where the model sees a photo's tiles.
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
