"""MixUp and CutMix: a batch of training views becomes one of mixtures, its class ids rows of probabilities.

What is mixed with what, and how much, depends on nothing but the seeds of the views in the batch (which are those of
run, epoch and row), so a resumed run and any number of workers see the same mixtures. Of several processes each mixes
its own share of a batch, and under gradient accumulation each part of one is mixed by itself: other partners than one
large batch would have, the same distribution.

Only batches of `TrainingPhotos` come here: scored photos carry no seed. This module knows no loss; what is refused
here is refused before a photo is read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import CutMix, MixUp

from natix_hf.errors import UserError
from natix_hf.inference.augment import check_augment, needs_whole_photo
from natix_hf.options import off
from natix_hf.training.speed_options import SpeedOptions


class Mixing:
    """Mix a batch with itself, moved on by one place (Zhang et al., 2018; Yun et al., 2019).

    Args:
        mixup_alpha: a whole photo weighs lambda ~ Beta(alpha, alpha), its partner the rest; 0: no MixUp.
        cutmix_alpha: a rectangle of the share 1 - lambda comes from the partner; 0: no CutMix.
        switch_prob: where both are on, the share of batches that get CutMix.
    """

    def __init__(self, classes: int, *, mixup_alpha: float, cutmix_alpha: float, switch_prob: float = 0.5) -> None:
        self.mixup = MixUp(alpha=mixup_alpha, num_classes=classes) if mixup_alpha else None
        self.cutmix = CutMix(alpha=cutmix_alpha, num_classes=classes) if cutmix_alpha else None
        self.switch_prob = switch_prob

    def __call__(self, batch: dict[str, Tensor], seeds: list[int]) -> dict[str, Tensor]:
        """The mixed batch; the global random state is left as it was.

        Args:
            batch: `pixel_values` `(n, [views,] 3, H, W)` float and `labels` `(n,)` class ids.
            seeds: `(n,)`, of the views.

        Returns:
            the batch with mixed `pixel_values`, and `labels` `(n, K)` float whose rows sum to 1.
        """
        digest = hashlib.blake2b(" ".join(map(str, seeds)).encode(), digest_size=8).digest()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int.from_bytes(digest, "big") >> 1)
            cut = self.mixup is None or (self.cutmix is not None and float(torch.rand(())) < self.switch_prob)
            mix = self.cutmix if cut else self.mixup
            pixels = batch["pixel_values"]
            # Views of a photo stand where channels do, so that all of them are mixed alike.
            mixed, labels = mix(pixels.flatten(1, -3), batch["labels"])
        return {**batch, "pixel_values": mixed.view(pixels.shape), "labels": labels}


def mixing(classes: int, args: Any) -> Mixing | None:
    """What `mixup_alpha`, `cutmix_alpha` and `mix_switch_prob` of the training arguments ask for; None for nothing."""
    if not args.mixup_alpha and not args.cutmix_alpha:
        return None
    return Mixing(
        classes,
        mixup_alpha=args.mixup_alpha,
        cutmix_alpha=args.cutmix_alpha,
        switch_prob=args.mix_switch_prob,
    )


def check_views(
    method: str,
    augment: str,
    args: Any,
    *,
    decode_copy: bool = False,
    fixed_views: int = 0,
    prefix_cache_gb: float | None = None,
    challenge_levels: Sequence[float] | None = None,
) -> None:
    """Refuse settings of augmentation and mixing that would be ignored or do something else than they say.

    Args:
        augment: name of the augmentation; `basic`, the default, gives way to `none` where a probe is trained.
        args: `NatixTrainingArguments`.
        decode_copy: whether pre-resized copies are trained on.
        fixed_views, prefix_cache_gb, challenge_levels: as in `NatixTrainer`.

    Raises:
        UserError: one line on the first of them.
    """
    check_augment(augment, challenge_levels)
    mixed = [name for name in ("mixup_alpha", "cutmix_alpha") if getattr(args, name)]
    if fixed_views < 0:
        raise UserError(f"fixed_views: {fixed_views} given, 0 (new views in every epoch) or more expected")
    if prefix_cache_gb is not None and not 0 < prefix_cache_gb < math.inf:
        raise UserError(f"prefix_cache_gb: {prefix_cache_gb} given, a number of gigabytes above 0 expected")
    if method == "probe" and augment not in ("none", "basic") and not fixed_views:
        raise UserError(
            f"augment: {augment} changes the photos, but method probe computes the features of each photo once: "
            "add --augment none, --fixed_views 4 for so many views of each photo, or --method lora or full"
        )
    if method == "probe" and augment == "none" and fixed_views:
        raise UserError(
            "fixed_views: without an augmentation all views of a photo are the same: add --augment basic, "
            "or --fixed_views 0"
        )
    if prefix_cache_gb is not None:
        without = f"leave it out with {off(SpeedOptions, 'prefix_cache_gb')}"
        if method == "probe":
            raise UserError(f"prefix_cache_gb: method is probe, whose features are kept anyway: {without}")
        if mixed:
            raise UserError(
                f"prefix_cache_gb: {mixed[0]} mixes pixels, which are not read again: {without}, or use "
                f"{' '.join(f'--{name} 0' for name in mixed)}"
            )
        if decode_copy:
            raise UserError(
                f"prefix_cache_gb: decode_copy keeps photos that are not read again: {without}, or use "
                "--decode_copy false"
            )
    if method == "probe" and mixed:
        raise UserError(
            f"{mixed[0]}: photos are mixed anew in every batch, but method probe computes the features of each photo "
            f"once: leave {mixed[0]} out with {off(args, *mixed)}, or use --method lora or full"
        )
    if decode_copy and needs_whole_photo(augment):
        raise UserError(
            f"decode_copy: augment {augment} works on whole photos as validators do, not on reduced copies: "
            f"leave it out with {off(SpeedOptions, 'decode_copy')}, or use --augment basic"
        )
