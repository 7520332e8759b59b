"""The options of pretraining on photos without labels."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from natix_hf.errors import UserError
from natix_hf.options import ABOVE_0, AT_LEAST_0, AT_LEAST_1, SHARE, SHARE_BELOW_1, Bounds, check_bounds, option

SMALL_HIDDEN_SIZE = 384  # of a ViT-S, whose blocks are too narrow for rank 64
EXTRA = 'pip install "natix_hf[pretrain]"'
TWO_SHARES = Bounds(lambda number: 0 < number <= 1, "two shares above 0 and at most 1, the smaller first")


@dataclass
class PretrainOptions:
    """The photos, the objective, and the trained part of the network."""

    _argument_group_name: ClassVar[str] = "pretraining"

    unlabelled_name: list[str] | None = option(
        None, "photos without labels, in addition to train: folders, tables, Hub ids, or NAME=PLACE"
    )
    unlabelled_by_folder: bool = option(
        False, "each sub-folder of unlabelled_name is one video: no batch holds two of its frames"
    )
    pretrain_objective: Literal["dino", "distill"] = option(
        "dino",
        "dino: DINO on the class token and iBOT on masked patches, with multi-crop; distill: predict the original's "
        "features from a masked photo, safer and a third of the cost",
    )
    pretrain_train: Literal["explora", "last_blocks", "full"] = option(
        "explora",
        "explora: LoRA on q and v, the last blocks and norms in full; last_blocks: last blocks and norms; full: all",
    )
    pretrain_lora_r: Annotated[int | None, AT_LEAST_1] = option(
        None, "explora: rank of the adapters; default: 64, or 16 for a ViT-S"
    )
    pretrain_last_blocks: Annotated[int, AT_LEAST_1] = option(1, "number of last blocks to train in full")
    pretrain_heads_share: Annotated[float, SHARE_BELOW_1] = option(
        0.4, "share of the steps, at the start, that train only the heads of the objective"
    )
    pretrain_heads_lr_ratio: Annotated[float, ABOVE_0] = option(
        10.0, "learning rate of the heads, which start from scratch, as a multiple of learning_rate"
    )
    pretrain_ramp_share: Annotated[float, SHARE_BELOW_1] = option(
        0.04, "share of the steps, after these, in which the backbone's learning rate rises to its constant value"
    )
    pretrain_momentum: Annotated[float, SHARE_BELOW_1] = option(
        0.994, "decay of the moving average that becomes the result (dino: the teacher), rising to 1"
    )
    pretrain_teacher_temperature: Annotated[list[float], ABOVE_0] = option(
        [0.04, 0.07], "dino: temperature of the teacher at the start and after the ramp"
    )
    pretrain_prototypes: Annotated[int, AT_LEAST_1] = option(8192, "dino: number of outputs of each head")
    pretrain_spread: Literal["sigreg", "koleo", "none"] = option(
        "sigreg", "dino: loss that spreads the features of a batch, on the bottleneck of the head"
    )
    pretrain_spread_weight: Annotated[float, AT_LEAST_0] = option(
        0.05, "dino: weight of pretrain_spread; 0.1 is usual for koleo"
    )
    pretrain_global_scale: Annotated[list[float], TWO_SHARES] = option(
        [0.4, 1.0], "areas of the large crops as shares of the photo"
    )
    pretrain_local_scale: Annotated[list[float], TWO_SHARES] = option(
        [0.1, 0.4], "dino: areas of the small crops as shares; a crop of a twentieth can miss a traffic cone"
    )
    pretrain_local_crops: Annotated[int, AT_LEAST_0] = option(8, "dino: number of small crops of each photo")
    pretrain_local_size: Annotated[int, AT_LEAST_1] = option(96, "dino: side of the small crops in pixels")
    pretrain_mask_share: Annotated[float, SHARE] = option(0.5, "dino: share of the large crops that are masked")
    pretrain_mask_ratio: Annotated[list[float], TWO_SHARES] = option(
        [0.1, 0.5], "lowest and highest share of masked patches"
    )
    pretrain_drop_path: Annotated[float, SHARE_BELOW_1] = option(
        0.1, "stochastic depth: rate at which blocks are dropped in training"
    )
    pretrain_milestones: Annotated[int, AT_LEAST_1] = option(
        6, "number of models kept, evenly spaced after the heads' steps; a probe chooses among them and the original"
    )
    pretrain_guard_steps: Annotated[int, AT_LEAST_1] = option(50, "steps between checks of the guard")
    pretrain_guard_photos: Annotated[int, Bounds(lambda n: n >= 8, "at least 8")] = option(
        256, "photos that the guard looks at"
    )
    forgetting_name: str | None = option(
        None, "labelled data set of another kind; a probe on it measures what the network has forgotten"
    )

    def __post_init__(self) -> None:
        check_bounds(self, PretrainOptions)
        for key in ("pretrain_global_scale", "pretrain_local_scale", "pretrain_mask_ratio"):
            pair = getattr(self, key)
            if len(pair) != 2 or pair[0] > pair[1]:
                raise UserError(f"{key}: expected {TWO_SHARES.words}, found {' '.join(map(str, pair))}")
        if len(self.pretrain_teacher_temperature) != 2:
            raise UserError("pretrain_teacher_temperature: expected two numbers, at the start and after the ramp")
        if self.pretrain_heads_share + self.pretrain_ramp_share >= 1:
            raise UserError(
                f"pretrain_heads_share {self.pretrain_heads_share:g} and pretrain_ramp_share "
                f"{self.pretrain_ramp_share:g} leave no steps at the full rate: use smaller values"
            )
        if self.pretrain_objective == "dino" and importlib.util.find_spec("lightly") is None:
            raise UserError(
                f"pretrain_objective: dino takes its losses from lightly, which is not installed: {EXTRA}, or use "
                "--pretrain_objective distill"
            )

    def lora_rank(self, hidden_size: int) -> int:
        """The rank of the adapters on a backbone of this width."""
        return self.pretrain_lora_r or (16 if hidden_size <= SMALL_HIDDEN_SIZE else 64)
