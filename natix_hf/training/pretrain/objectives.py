"""The two objectives of pretraining, `dino` and `distill`, as modules with their heads.

Each computes targets from whole crops and compares them with the output of the student on masked or smaller crops.
They work on token features; `student.py` computes these and chooses the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional as F

from natix_hf.training.losses.koleo import koleo
from natix_hf.training.pretrain.pretrain_options import PretrainOptions

BUFFERS = "objective.safetensors"
STUDENT_TEMPERATURE = 0.1


class Tokens(NamedTuple):
    """Output of a backbone on crops: class tokens `(n, hidden)` and patches `(n, patches, hidden)`, after the norm."""

    classes: Tensor
    patches: Tensor


class Crops(NamedTuple):
    """A batch: large crops `(views * b, 3, H, W)`, their masks `(views * b, patches)`, small crops or None."""

    large: Tensor
    masks: Tensor
    small: Tensor | None


Encoder = Callable[..., Tokens]  # arguments: pixels, and optionally a mask


class Objective(nn.Module):
    """Heads and loss of one objective.

    Attributes:
        views: number of large crops per photo.
        alone: whether the loss of a photo does not depend on the others, so that gradients of small batches add up to
            those of a large one.
        by_teacher: whether targets come from the moving average, or from the original weights.
    """

    views: ClassVar[int]
    alone: ClassVar[bool]
    by_teacher: ClassVar[bool]

    def mask_share(self, options: PretrainOptions) -> float:
        """Share of the large crops that are masked."""
        raise NotImplementedError

    def local_crops(self, options: PretrainOptions) -> int:
        """Number of small crops per photo."""
        return 0

    def targets(self, encode: Encoder, crops: Crops, temperature: float) -> Any:
        """The targets; `encode` and the heads have the weights of the teacher or the original."""
        raise NotImplementedError

    def loss(self, encode: Encoder, crops: Crops, targets: Any, temperature: float) -> dict[str, Tensor]:
        """`loss`, and its parts for the log; `encode` is that of the student."""
        raise NotImplementedError

    def save(self, point: Path) -> None:
        """Write buffers, such as centres, into a checkpoint."""
        if buffers := dict(self.named_buffers()):
            save_file({name: t.detach().cpu().contiguous() for name, t in buffers.items()}, point / BUFFERS)

    def load(self, point: Path) -> None:
        """Read the buffers from a checkpoint."""
        if dict(self.named_buffers()):
            for name, kept in load_file(point / BUFFERS).items():
                self.get_buffer(name).copy_(kept)


class Distill(Objective):
    """Masked feature distillation: predict the original tokens of a crop from the same crop with masked patches.

    Loss: one minus the cosine, mean over class tokens plus mean over masked patches (as MVP and MaskDistill do it; Wei
    et al., 2022, Peng et al., 2022). Heads are linear and start as the identity, so the student starts at the
    original. Needs no package besides torch.
    """

    views, alone, by_teacher = 1, True, False

    def __init__(self, hidden: int, options: PretrainOptions) -> None:
        super().__init__()
        self.class_head, self.patch_head = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        for head in (self.class_head, self.patch_head):
            nn.init.eye_(head.weight)
            nn.init.zeros_(head.bias)

    def mask_share(self, options: PretrainOptions) -> float:
        return 1.0

    def targets(self, encode: Encoder, crops: Crops, temperature: float) -> Tokens:
        return encode(crops.large)

    def loss(self, encode: Encoder, crops: Crops, targets: Tokens, temperature: float) -> dict[str, Tensor]:
        tokens = encode(crops.large, crops.masks)
        whole = 1 - F.cosine_similarity(self.class_head(tokens.classes).float(), targets.classes.float(), dim=-1)
        patches = 1 - F.cosine_similarity(self.patch_head(tokens.patches).float(), targets.patches.float(), dim=-1)
        masked = crops.masks.float()  # each photo has the same weight, whatever its number of masked patches
        patch = ((patches * masked).sum(dim=1) / masked.sum(dim=1).clamp(min=1)).mean()
        return {"loss": whole.mean() + patch, "class_loss": whole.mean(), "patch_loss": patch}


class DinoTargets(NamedTuple):
    classes: Tensor  # (views * b, prototypes)
    patches: Tensor  # (masked, prototypes)
    entropy: Tensor  # of the class tokens' targets as a share of that of the uniform distribution


class Dino(Objective):
    """DINO between class tokens of crops (Caron et al., 2021) plus iBOT on masked patches (Zhou et al., 2022).

    Losses and heads come from lightly, with other temperatures and a corrected centre for iBOT: that of lightly is NaN
    after a batch without masked patches, and wrong if processes mask different numbers of patches.
    """

    views, alone, by_teacher = 2, False, True

    def __init__(self, hidden: int, options: PretrainOptions) -> None:
        super().__init__()
        from lightly.loss import DINOLoss, IBOTPatchLoss, SIGReg
        from lightly.models.modules.heads import DINOProjectionHead

        many = options.pretrain_prototypes
        self.class_head = DINOProjectionHead(hidden, output_dim=many)
        self.patch_head = DINOProjectionHead(hidden, output_dim=many)
        first, last = options.pretrain_teacher_temperature
        self.class_loss = DINOLoss(
            many, warmup_teacher_temp=first, teacher_temp=last, student_temp=STUDENT_TEMPERATURE
        )
        self.patch_loss = IBOTPatchLoss(many, teacher_temp=last, student_temp=STUDENT_TEMPERATURE)
        self.patch_loss.center = _centre_of_all_processes(many)
        self.spread, self.spread_weight = options.pretrain_spread, options.pretrain_spread_weight
        self.sigreg = SIGReg(gather_distributed=True) if self.spread == "sigreg" else None

    def mask_share(self, options: PretrainOptions) -> float:
        return options.pretrain_mask_share

    def local_crops(self, options: PretrainOptions) -> int:
        return options.pretrain_local_crops

    def targets(self, encode: Encoder, crops: Crops, temperature: float) -> DinoTargets:
        tokens = encode(crops.large)
        classes = self.class_head(tokens.classes).float()
        shares = ((classes - self.class_loss.center[0]) / temperature).softmax(dim=-1)
        entropy = -(shares * shares.clamp(min=1e-12).log()).sum(dim=-1).mean() / math.log(shares.shape[1])
        return DinoTargets(classes, self.patch_head(tokens.patches[crops.masks]).float(), entropy)

    def loss(self, encode: Encoder, crops: Crops, targets: DinoTargets, temperature: float) -> dict[str, Tensor]:
        large = encode(crops.large, crops.masks)
        inner = [self.class_head.layers(large.classes)]
        if crops.small is not None:
            inner.append(self.class_head.layers(encode(crops.small).classes))
        photos = len(crops.large) // self.views
        outputs = [self._prototypes(part).float().split(photos) for part in inner]
        patches = self.patch_head(large.patches[crops.masks]).float()
        bottleneck = inner[0].float().unflatten(0, (self.views, photos))
        with torch.autocast(patches.device.type, enabled=False):  # lightly multiplies probabilities, bf16 rounds them
            class_loss = self.class_loss(
                list(targets.classes.split(photos)),
                [view for part in outputs for view in part],
                teacher_temp=temperature,
            )
            patch_loss = self.patch_loss(targets.patches, patches, crops.masks[:, None], teacher_temp=temperature)
            parts = {"class_loss": class_loss, "patch_loss": patch_loss, "teacher_entropy": targets.entropy}
            loss = class_loss + patch_loss
            if self.spread != "none":
                parts["spread_loss"] = self._spread(bottleneck)
                loss = loss + self.spread_weight * parts["spread_loss"]
        return {"loss": loss, **parts}

    def _prototypes(self, bottleneck: Tensor) -> Tensor:
        return self.class_head.last_layer(F.normalize(bottleneck, dim=-1))

    def _spread(self, bottleneck: Tensor) -> Tensor:
        """How far the bottleneck `(views, b, width)` is from being spread evenly, view by view."""
        if self.sigreg is not None:
            return self.sigreg(bottleneck)
        return torch.stack([koleo(of_all_processes(view)) for view in bottleneck]).mean()


def _centre_of_all_processes(many: int) -> nn.Module:
    from lightly.models.modules.center import Center

    class Centre(Center):
        """The moving mean of targets, all with the same weight on every process; unchanged if there are none."""

        @torch.no_grad()
        def update(self, x: Tensor) -> None:
            total = torch.cat([x.sum(dim=0), x.new_tensor([len(x)])])
            if distributed.is_initialized():
                distributed.all_reduce(total)
            if total[-1] > 0:
                self.center = self.center * self.momentum + (total[:-1] / total[-1]) * (1 - self.momentum)

    return Centre((1, many))


def of_all_processes(rows: Tensor) -> Tensor:
    """The rows of all processes; gradients flow back to each."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return rows
    return torch.cat(all_gather(rows.contiguous()))


OBJECTIVES: dict[str, type[Objective]] = {"dino": Dino, "distill": Distill}
