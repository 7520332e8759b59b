"""The network of pretraining: a partly trained DINOv3 backbone, and the heads of an objective.

Teacher and original are not separate backbones. They differ from the student only in the trained weights, which are
swapped in when needed (`Ema.weights`), so a ViT-H/16+ is in memory only once.
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
from natix_hf.modeling.evaluation_mode import evaluating
from natix_hf.training.ema import Ema
from natix_hf.training.pretrain.objectives import OBJECTIVES, Crops, Tokens
from natix_hf.training.pretrain.pretrain_options import PretrainOptions


class Student(nn.Module):
    """A backbone in pretraining, with its heads.

    Args:
        backbone: from `load_backbone`; changed in place.
        options: the trained part of the backbone, and the objective.
        seed: for adapters and heads; the global random state does not change.
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
        """The loss of a batch, as `loss`, and its parts.

        Args:
            global_views, masks, local_views: from `PretrainCollator`.
            targets_by: the weights for the targets, of the teacher or of the original.
            temperature: of the teacher.
            heads_only: compute no gradients for the backbone.
        """
        crops = Crops(global_views, masks, local_views)
        with torch.no_grad(), targets_by.weights(), evaluating(self):
            targets = self.objective.targets(self._tokens, crops, temperature)
        torch.clear_autocast_cache()  # it holds bf16 copies of the teacher, at the addresses of the student
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
    """Make the weights of `pretrain_train` trainable, and add adapters for `explora` (Khanna et al., 2024).

    LoRA is only on q and v: on other linear layers it degrades unsupervised training. Class token, registers and patch
    embedding are frozen; the mask token is trained.

    Raises:
        UserError: the backbone has too few blocks.
    """
    layers, last = backbone.config.num_hidden_layers, options.pretrain_last_blocks
    whole = options.pretrain_train == "full"
    most = layers - 1 if options.pretrain_train == "explora" else layers
    if last > most:
        raise UserError(
            f"pretrain_last_blocks: expected at most {most} with pretrain_train: {options.pretrain_train}, found "
            f"{last}; the backbone has {layers} blocks"
        )
    token = backbone.embeddings.mask_token
    # The token may be arbitrary in a checkpoint, because only pretraining uses it.
    if token.device.type != "meta" and not token.isfinite().all():
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
    """The weights of the backbone with the names of a plain one, with adapters merged into their layers."""
    weights = {
        name.replace(".base_layer.", "."): tensor.detach().cpu().clone()
        for name, tensor in backbone.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in backbone.named_modules():
        if isinstance(module, LoraLayer):
            weights[f"{name}.weight"] += module.get_delta_weight("default").detach().cpu()
    return weights
