"""MixUp and CutMix: mix the photos of a training batch, and turn class ids into rows of probabilities.

Partners and proportions depend only on the seeds of the views in the batch (from run, epoch and row), so a resumed run
and any number of workers see the same mixtures. Each process, and each micro-batch under gradient accumulation, is
mixed on its own: the partners differ from those in one large batch, the distribution does not.

Only batches of `TrainingPhotos` are mixed: photos in evaluation carry no seed. `check_views` checks the options of
augmentation and mixing before any photo is read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import CutMix, MixUp

from natix_hf.errors import UserError
from natix_hf.files import text_seed
from natix_hf.inference.augment import check_augment, needs_whole_photo
from natix_hf.options import off
from natix_hf.training.speed_options import SpeedOptions


class Mixing:
    """Mix each photo of a batch with its neighbour (Zhang et al., 2018; Yun et al., 2019).

    Args:
        classes: number of classes.
        mixup_alpha: weights are lambda ~ Beta(alpha, alpha) for a photo and 1 - lambda for its partner; 0: no MixUp.
        cutmix_alpha: a rectangle with the share 1 - lambda of the area comes from the partner; 0: no CutMix.
        switch_prob: share of batches that get CutMix if both are on.
    """

    def __init__(self, classes: int, *, mixup_alpha: float, cutmix_alpha: float, switch_prob: float = 0.5) -> None:
        self.mixup = MixUp(alpha=mixup_alpha, num_classes=classes) if mixup_alpha else None
        self.cutmix = CutMix(alpha=cutmix_alpha, num_classes=classes) if cutmix_alpha else None
        self.switch_prob = switch_prob

    def __call__(self, batch: dict[str, Tensor], seeds: list[int]) -> dict[str, Tensor]:
        """Mix a batch; the global random state does not change.

        Args:
            batch: `pixel_values` `(n, [views,] 3, H, W)` float and `labels` `(n,)` class ids.
            seeds: `(n,)` seeds of the views.

        Returns:
            the batch with mixed `pixel_values`, and `labels` `(n, classes)` float with rows that sum to 1.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(text_seed(" ".join(map(str, seeds))))
            cut = self.mixup is None or (self.cutmix is not None and float(torch.rand(())) < self.switch_prob)
            mix = self.cutmix if cut else self.mixup
            pixels = batch["pixel_values"]
            # The views of a photo are treated as channels, so all of them are mixed in the same way.
            mixed, labels = mix(pixels.flatten(1, -3), batch["labels"])
        return {**batch, "pixel_values": mixed.view(pixels.shape), "labels": labels}


def mixing(classes: int, args: Any) -> Mixing | None:
    """The mixing that the training arguments ask for; None if both alphas are 0."""
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
    """Reject settings of augmentation and mixing that would be ignored or misleading.

    Args:
        method: `lora`, `probe` or `full`.
        augment: name of the augmentation; a probe uses `none` in place of `basic`, the default.
        args: `NatixTrainingArguments`.
        decode_copy: whether to train on pre-resized copies.
        fixed_views, prefix_cache_gb, challenge_levels: as in `NatixTrainer`.

    Raises:
        UserError: names the first such setting.
    """
    check_augment(augment, challenge_levels)
    mixed = [name for name in ("mixup_alpha", "cutmix_alpha") if getattr(args, name)]
    if fixed_views < 0:
        raise UserError(f"fixed_views: expected 0 (new views in every epoch) or more, found {fixed_views}")
    if prefix_cache_gb is not None and not 0 < prefix_cache_gb < math.inf:
        raise UserError(f"prefix_cache_gb: expected a number of gigabytes above 0, found {prefix_cache_gb}")
    if method == "probe" and augment not in ("none", "basic") and not fixed_views:
        raise UserError(
            f"augment: {augment} changes the photos, but method probe computes the features of each photo once: "
            "add --augment none, --fixed_views 4 for four views of each photo, or --method lora or full"
        )
    if method == "probe" and augment == "none" and fixed_views:
        raise UserError(
            "fixed_views: without augmentation all views of a photo are the same: add --augment basic, "
            "or --fixed_views 0"
        )
    if prefix_cache_gb is not None:
        without = f"leave it out with {off(SpeedOptions, 'prefix_cache_gb')}"
        if method == "probe":
            raise UserError(f"prefix_cache_gb: method probe caches its features anyway: {without}")
        if mixed:
            raise UserError(
                f"prefix_cache_gb: {mixed[0]} mixes pixels, but training reads cached activations: {without}, or use "
                f"{' '.join(f'--{name} 0' for name in mixed)}"
            )
        if decode_copy:
            raise UserError(
                f"prefix_cache_gb: decode_copy is for photos, but training reads cached activations: {without}, or "
                "use --decode_copy false"
            )
    if method == "probe" and mixed:
        raise UserError(
            f"{mixed[0]}: every batch mixes photos differently, but method probe computes the features of each photo "
            f"once: leave {mixed[0]} out with {off(args, *mixed)}, or use --method lora or full"
        )
    if decode_copy and needs_whole_photo(augment):
        raise UserError(
            f"decode_copy: augment {augment} works on whole photos, not on reduced copies: "
            f"leave it out with {off(SpeedOptions, 'decode_copy')}, or use --augment basic"
        )
