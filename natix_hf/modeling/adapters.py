"""What of a model is trained: LoRA on the backbone with the whole head beside it, or the head alone.

Calls peft; knows `NatixDinov3ForImageClassification` and nothing of data, optimizers or the place a run is written to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from natix_hf.errors import UserError, one_line
from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification

BLOCKS = "backbone.model.layer"


def freeze_for_probe(model: NatixDinov3ForImageClassification) -> None:
    """Leave only the head trainable."""
    model.backbone.requires_grad_(False)


def add_lora(
    model: NatixDinov3ForImageClassification,
    *,
    lora_r: int = 16,
    lora_alpha: int = 32,
    lora_dropout: float = 0.0,
    lora_target_modules: str | Sequence[str] = "all-linear",
    lora_modules_to_save: Sequence[str] | None = None,
    lora_last_blocks: int | None = None,
    use_rslora: bool = False,
    use_dora: bool = False,
    lora_init: bool | str = True,
) -> PeftModel:
    """LoRA (Hu et al., 2021) on linear layers of the backbone; the head is trained and saved whole.

    Args:
        model: is changed in place.
        lora_r, lora_alpha, lora_dropout: rank, scale (alpha / r), dropout on what the adapters read.
        lora_target_modules: `all-linear` (every linear of the blocks, never the head), names such as `q_proj`, or a
            regular expression on whole module names below `backbone.model.layer.N.`.
        lora_modules_to_save: more modules to train and save whole, beside the head.
        lora_last_blocks: only the last so many blocks; None for all.
        use_rslora, use_dora: rank-stabilised scale (Kalajdzievski, 2023), weight decomposition (Liu et al., 2024).
        lora_init: peft's `init_lora_weights`.

    Raises:
        UserError: no linear layer bears these names, there are fewer blocks than asked for, or peft refuses a value.
    """
    layers = model.config.backbone_config.num_hidden_layers
    last_blocks = layers if lora_last_blocks is None else lora_last_blocks
    if not 1 <= last_blocks <= layers:
        raise UserError(f"lora_last_blocks is {last_blocks}, expected 1 to {layers}, the backbone's blocks")
    # One regular expression instead of names: a bare "all-linear" would have peft wrap the head too.
    numbers = "|".join(str(number) for number in range(layers - last_blocks, layers))
    targets = rf"{re.escape(BLOCKS)}\.(?:{numbers})\.{_inside_block(lora_target_modules)}"
    try:
        re.compile(targets)
    except re.error as error:
        raise UserError(f"lora_target_modules {lora_target_modules!r} is no regular expression: {error}") from None
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not any(re.fullmatch(targets, name) for name in linears):
        there = sorted({name.split(".")[-1] for name in linears if name.startswith(BLOCKS)})
        raise UserError(
            f"lora_target_modules {lora_target_modules!r} matches no linear layer of the blocks: "
            f"use all-linear or some of {', '.join(there)}"
        )
    modules = {name.split(".")[-1] for name, _ in model.named_modules()}
    if unknown := [name for name in lora_modules_to_save or () if name.split(".")[-1] not in modules]:
        raise UserError(f"lora_modules_to_save: the model has no module {unknown[0]!r}; try head, norm or embeddings")
    try:
        config = LoraConfig(
            task_type=None,
            r=lora_r,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            target_modules=targets,
            modules_to_save=["head", *(name for name in lora_modules_to_save or () if name != "head")],
            use_rslora=use_rslora,
            use_dora=use_dora,
            init_lora_weights=lora_init,
        )
        return get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise UserError(f"LoRA options: {one_line(error)}") from None


def _inside_block(targets: str | Sequence[str]) -> str:
    """A regular expression for the names of linears within a block."""
    if targets == "all-linear" or list(targets) == ["all-linear"]:
        return r"(?:attention|mlp)\.\w+_proj"
    if isinstance(targets, str):
        return f"(?:{targets})(?<=_proj)"  # all linears of a block are called so, and nothing else is
    return rf"(?:\w+\.)*(?:{'|'.join(re.escape(name) for name in targets)})"


def merge_lora(peft_model: PeftModel) -> NatixDinov3ForImageClassification:
    """Fold the adapters into the backbone, in place; the trained head stays, with its calibration.

    Save the adapter first: the adapters are gone afterwards.
    """
    model = peft_model.merge_and_unload()
    model.adopt_calibration()
    return model


def load_adapter(
    model: NatixDinov3ForImageClassification, folder: str | Path, *, is_trainable: bool = False
) -> PeftModel:
    """An adapter and its head, calibration included, onto a model from `build_model` with the same base and options.

    Args:
        model: is changed in place.
        folder: holds `adapter_config.json` and `adapter_model.safetensors`.
        is_trainable: leave adapters and head trainable.

    Raises:
        UserError: there is no adapter in the folder, or it is of another shape than the model.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(folder) / name).is_file():
            raise UserError(f"{folder} has no {name}: give the adapter/ folder of a LoRA run")
    try:
        peft_model = PeftModel.from_pretrained(model, str(folder), is_trainable=is_trainable)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the adapter in {folder} doesn't fit the model: {one_line(error)}") from None
    model.adopt_calibration()
    return peft_model
