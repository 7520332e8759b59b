"""The network of pretraining: a DINOv3 backbone of which a part is trained, and the heads of an objective.

Teacher and original are no second backbones. They differ from the student in the trained weights alone, so their
weights are put in place for a moment (`Ema.weights`); a ViT-H/16+ is in memory once.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torchvision.ops import StochasticDepth
from transformers import DINOv3ViTModel

from natix_hf.errors import UserError
from natix_hf.training.ema import Ema
from natix_hf.training.pretrain.objectives import OBJECTIVES, Crops, Tokens
from natix_hf.training.pretrain.pretrain_options import PretrainOptions


class Student(nn.Module):
    """A backbone that is pretrained.

    Args:
        backbone: from `load_backbone`; is changed in place.
        options: what of it is trained, and by which objective.
        seed: for adapters and heads; the global random state is left alone.
    """

    def __init__(self, backbone: DINOv3ViTModel, options: PretrainOptions, seed: int = 0) -> None:
        super().__init__()
        config = backbone.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            free(backbone, options)
            self.objective = OBJECTIVES[options.pretrain_objective](config.hidden_size, options)
        if options.pretrain_drop_path:
            for block in backbone.model.layer:
                block.drop_path = StochasticDepth(options.pretrain_drop_path, "row")
        self.backbone = backbone

    def forward(
        self,
        global_views: Tensor,
        masks: Tensor,
        local_views: Tensor | None = None,
        *,
        targets_by: Ema,
        temperature: float,
        heads_only: bool,
    ) -> dict[str, Tensor]:
        """The loss of a batch, under `loss`, and its parts.

        Args:
            global_views, masks, local_views: as `PretrainCollator` makes them.
            targets_by: the weights that targets are made with: the teacher's or the original's.
            temperature: of the teacher.
            heads_only: leave the backbone without gradients.
        """
        crops = Crops(global_views, masks, local_views)
        training = self.training
        with torch.no_grad(), targets_by.weights():
            self.eval()
            targets = self.objective.targets(self._tokens, crops, temperature)
            self.train(training)
        torch.clear_autocast_cache()  # it holds the teacher's weights in bf16, and the student's have the same place
        return self.objective.loss(self._tokens_alone if heads_only else self._tokens, crops, targets, temperature)

    def _tokens(self, pixels: Tensor, masks: Tensor | None = None) -> Tokens:
        states = self.backbone(pixels, bool_masked_pos=masks).last_hidden_state
        return Tokens(states[:, 0], states[:, 1 + self.backbone.config.num_register_tokens :])

    @torch.no_grad()
    def _tokens_alone(self, pixels: Tensor, masks: Tensor | None = None) -> Tokens:
        return self._tokens(pixels, masks)

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """As in transformers, for the trainer."""
        self.backbone.activation_checkpointing_enable(**kwargs)


def free(backbone: DINOv3ViTModel, options: PretrainOptions) -> None:
    """Make trainable what `pretrain_train` says, and add adapters for `explora` (Khanna et al., 2024).

    LoRA stands on q and v alone: on other linears it degrades unsupervised training. Class token, registers and patch
    embedding stay as they are; the mask token is trained.

    Raises:
        UserError: there are not so many blocks.
    """
    layers, last = backbone.config.num_hidden_layers, options.pretrain_last_blocks
    whole = options.pretrain_train == "full"
    most = layers - 1 if options.pretrain_train == "explora" else layers
    if last > most:
        raise UserError(
            f"pretrain_last_blocks: {last} given, the backbone has {layers} blocks: at most {most} expected with "
            f"pretrain_train: {options.pretrain_train}"
        )
    token = backbone.embeddings.mask_token
    if (
        token.device.type != "meta" and not token.isfinite().all()
    ):  # a checkpoint may hold anything there, nothing but this reads it
        with torch.no_grad():
            token.zero_()
    backbone.requires_grad_(whole)
    if options.pretrain_train == "explora":
        rank = options.lora_rank(backbone.config.hidden_size)
        below = "|".join(map(str, range(layers - last)))
        targets = rf"model\.layer\.(?:{below})\.attention\.[qv]_proj"
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), backbone)
    backbone.embeddings.requires_grad_(False)
    token.requires_grad_(True)
    if whole:
        return
    for number, block in enumerate(backbone.model.layer):
        if number >= layers - last:
            block.requires_grad_(True)
        block.norm1.requires_grad_(True)
        block.norm2.requires_grad_(True)
    backbone.norm.requires_grad_(True)


@torch.no_grad()
def merged_weights(backbone: DINOv3ViTModel) -> dict[str, Tensor]:
    """The backbone's weights by the names of a plain one, adapters added to the layers that they stand on."""
    weights = {
        name.replace(".base_layer.", "."): tensor.detach().cpu().clone()
        for name, tensor in backbone.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in backbone.named_modules():
        if isinstance(module, LoraLayer):
            weights[f"{name}.weight"] += module.get_delta_weight("default").detach().cpu()
    return weights
