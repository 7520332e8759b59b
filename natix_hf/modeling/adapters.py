"""Selects the trained parts of a classifier: LoRA adapters on the backbone and the head, or only the head.

Adds, saves, loads and merges the adapters with peft. The caller trains them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from natix_hf.errors import UserError, one_line
from natix_hf.files import read_json, write_json
from natix_hf.modeling.adapter_natix_dinov3 import adapter_fingerprint, fingerprint
from natix_hf.modeling.doran import TRAINED, DoranLinear, check_doran, is_doran, share_first_matrices
from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification

BLOCKS = "backbone.model.layer"

# Initial weights of adapters. pissa and olora move a part of the frozen weights into the adapter; see `save_adapter`.
INITS = ("default", "gaussian", "orthogonal", "olora", "pissa")
NOT_INITS = {
    "pissa_niter": "pissa_niter draws random numbers, so the frozen weights could not be reconstructed: use pissa",
    "eva": "eva needs batches of photos before training: use pissa",
    "corda": "corda needs batches of photos before training: use pissa",
    "lora_ga": "lora_ga needs gradients before training: use pissa",
    "loftq": "loftq is for quantised weights, and these are fp32: use pissa",
}


def plain_model(model: nn.Module) -> nn.Module:
    """The classifier without the peft wrapper; a model without adapters is returned unchanged."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


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
    use_doran: bool = False,
    doran_share: str = "none",
    lora_init: str = "default",
    lora_train_norms: bool = False,
    unfreeze_last_blocks: int = 0,
) -> PeftModel:
    """LoRA (Hu et al., 2021) on linear layers of the backbone; the head is trained and saved in full.

    Args:
        model: is changed in place.
        lora_r, lora_alpha, lora_dropout: rank, scale (alpha / r), dropout on the input of the adapters.
        lora_target_modules: `all-linear` (every linear layer of the blocks, never the head), names such as `q_proj`,
            or a regular expression that matches the whole module name after `backbone.model.layer.N.`.
        lora_modules_to_save: more modules to train and save in full, besides the head.
        lora_last_blocks: adapt only this many last blocks; None for all.
        use_rslora, use_dora: rank-stabilised scale (Kalajdzievski, 2023), weight decomposition (Liu et al., 2024).
        use_doran, doran_share: see `modeling.doran`; with `block`, q_proj and v_proj of a block share first matrices.
        lora_init: `default` (Hu et al.), `gaussian`, `orthogonal`, `olora` (Büyükakyüz, 2024), `pissa` (Meng et al.,
            2024). With each of them training starts from the outputs of the model without adapters.
        lora_train_norms: also train the norms of the adapted blocks and the backbone's last norm.
        unfreeze_last_blocks: train this many last blocks in full, without adapters; `lora_last_blocks` includes them.

    Raises:
        UserError: no linear layer has these names, the model has fewer blocks than requested, or peft refuses a value.
    """
    adapted = _adapted_blocks(model, lora_last_blocks, unfreeze_last_blocks)
    _check_init(lora_init)
    check_doran(use_doran=use_doran, doran_share=doran_share, use_dora=use_dora, lora_init=lora_init)
    base = None if model.device.type == "meta" else fingerprint(model.backbone.state_dict())
    targets = _targets(model, lora_target_modules, adapted)
    whole = _trained_whole(model, lora_modules_to_save or (), adapted, norms=lora_train_norms)
    try:
        config = LoraConfig(
            task_type=None,
            r=lora_r,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            target_modules=targets,
            modules_to_save=whole,
            use_rslora=use_rslora,
            use_dora=use_dora or use_doran,  # DoRAN is saved as DoRA
            init_lora_weights=True if lora_init == "default" else lora_init,
        )
        if use_doran:
            config._register_custom_module({nn.Linear: DoranLinear})  # not saved with the config
        with _renamed_property():
            peft_model = get_peft_model(model, config)
    except (ValueError, TypeError) as error:
        raise UserError(f"LoRA options: {one_line(error)}") from None
    if doran_share == "block":
        share_first_matrices(peft_model)
    _freeze_mask_token(peft_model)
    peft_model.base_fingerprint = base
    peft_model.taken = _matrices(peft_model) if lora_init in ("pissa", "olora") else {}
    return peft_model


def _adapted_blocks(model: NatixDinov3ForImageClassification, last_blocks: int | None, unfrozen_blocks: int) -> range:
    """Numbers of the blocks that get adapters; the blocks above them are trained in full."""
    layers = model.config.backbone_config.num_hidden_layers
    last_blocks = layers if last_blocks is None else last_blocks
    if not 1 <= last_blocks <= layers:
        raise UserError(f"lora_last_blocks: expected 1 to {layers}, the blocks of the backbone; found {last_blocks}")
    if not 0 <= unfrozen_blocks < last_blocks:
        raise UserError(
            f"unfreeze_last_blocks: expected 0 to {last_blocks - 1}, found {unfrozen_blocks}, because one of the "
            f"last {last_blocks} of {layers} blocks must be left to the adapters: method full trains all blocks"
        )
    return range(layers - last_blocks, layers - unfrozen_blocks)


def _check_init(lora_init: str) -> None:
    if lora_init not in INITS:
        reasons = [f": {why}" for name, why in NOT_INITS.items() if str(lora_init).startswith(name)]
        raise UserError(f"lora_init: expected one of {', '.join(INITS)}; found {lora_init}{''.join(reasons)}")


def _trained_whole(
    model: NatixDinov3ForImageClassification, names: Sequence[str], adapted: range, *, norms: bool
) -> list[str]:
    """Full names of the modules to train and save in full: the head, `names`, the blocks above `adapted`, norms."""
    whole = _whole_modules(model, ["head", *names])
    whole += [f"{BLOCKS}.{number}" for number in range(adapted.stop, model.config.backbone_config.num_hidden_layers)]
    if norms:
        whole += [f"{BLOCKS}.{number}.{norm}" for number in adapted for norm in ("norm1", "norm2")] + ["backbone.norm"]
    # peft cannot wrap a module inside one that it has wrapped.
    return [name for name in dict.fromkeys(whole) if not any(name.startswith(f"{other}.") for other in whole)]


def _matrices(peft_model: PeftModel) -> dict[str, torch.Tensor]:
    """Copies of A and B, the part that pissa and olora subtracted from the frozen weights; see `save_adapter`."""
    state = get_peft_model_state_dict(peft_model)
    return {name: tensor.clone() for name, tensor in state.items() if ".lora_A." in name or ".lora_B." in name}


@contextmanager
def _renamed_property() -> Iterator[None]:
    """Silence transformers' warning on a property that it has renamed and that peft still reads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def _freeze_mask_token(model: nn.Module) -> None:
    """Freeze the mask token: it gets no gradient here, and DDP waits for every gradient.

    If peft copies the embeddings to train them, the copy's mask token is trainable again.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("mask_token"):
            parameter.requires_grad_(False)


def _whole_modules(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Full names of the modules with these names; peft would also match `patch_embeddings` for `embeddings`."""
    module_names = [name for name, _ in model.named_modules()]
    full_names = {name: [full for full in module_names if full == name or full.endswith(f".{name}")] for name in names}
    if unknown := [name for name in names if not full_names[name]]:
        raise UserError(f"lora_modules_to_save: the model has no module {unknown[0]!r}: try head, norm or embeddings")
    return [full for name in names for full in full_names[name]]


def _targets(model: nn.Module, wanted: str | Sequence[str], numbers: Sequence[int]) -> str:
    """A regular expression for the linear layers to adapt; with "all-linear" peft would also wrap the head."""
    targets = rf"{re.escape(BLOCKS)}\.(?:{'|'.join(map(str, numbers))})\.{_inside_block(wanted)}"
    try:
        re.compile(targets)
    except re.error as error:
        raise UserError(f"lora_target_modules: {wanted!r} is not a regular expression: {error}") from None
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not any(re.fullmatch(targets, name) for name in linears):
        block_linears = sorted({name.split(".")[-1] for name in linears if name.startswith(BLOCKS)})
        raise UserError(
            f"lora_target_modules: {wanted!r} matches no linear layer of the blocks: "
            f"use all-linear or some of {', '.join(block_linears)}"
        )
    return targets


def _inside_block(targets: str | Sequence[str]) -> str:
    """A regular expression for the names of linear layers inside a block."""
    if targets == "all-linear" or list(targets) == ["all-linear"]:
        return r"(?:attention|mlp)\.\w+_proj"
    if isinstance(targets, str):
        return f"(?:{targets})(?<=_proj)"  # the suffix of all linear layers of a block, and of nothing else
    return rf"(?:\w+\.)*(?:{'|'.join(re.escape(name) for name in targets)})"


def save_adapter(peft_model: PeftModel, folder: str | Path) -> None:
    """Write an adapter that loads onto the published checkpoint, for every `lora_init`.

    PiSSA and OLoRA train `W - s B0 A0 + s B A`. To load such an adapter, `W` must be decomposed again. Other machines
    round differently, and `transformers` and peft's fast loading skip this step: wrong logits without a warning. This
    function writes `W + s (B A - B0 A0)` instead, an ordinary adapter of twice the rank (like peft's conversion).
    DoRAN is written as the equivalent DoRA adapter.

    Args:
        peft_model: from `add_lora`.
        folder: where `adapter_config.json` and `adapter_model.safetensors` are written.
    """
    folder = Path(folder)
    peft_model.save_pretrained(folder)
    if not (peft_model.taken or is_doran(peft_model)):
        return
    weights = _published(load_file(folder / "adapter_model.safetensors"), peft_model.taken)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    if not peft_model.taken:
        return
    config = read_json(folder / "adapter_config.json")
    # Keeps the scale, which is alpha / r, or alpha / sqrt(r) if rank-stabilised.
    scale = 2**0.5 if config["use_rslora"] else 2
    config |= {"r": 2 * config["r"], "lora_alpha": scale * config["lora_alpha"], "init_lora_weights": True}
    write_json(folder / "adapter_config.json", config)


def _published(weights: dict[str, torch.Tensor], taken: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of an adapter for the published checkpoint; see `save_adapter`."""
    weights = {name: tensor for name, tensor in weights.items() if TRAINED not in name}
    for name, initial in taken.items():
        trained, initial = weights[name], initial.to(weights[name])
        weights[name] = (
            torch.cat([trained, initial], dim=0) if ".lora_A." in name else torch.cat([trained, -initial], dim=1)
        )
    return weights


def merge_lora(peft_model: PeftModel) -> NatixDinov3ForImageClassification:
    """Merge the adapters into the backbone in place; the trained head keeps its calibration.

    Save the adapter first: merging removes it from the model. The config records its fingerprint, so that it cannot be
    applied a second time.
    """
    merged = adapter_fingerprint(_published(get_peft_model_state_dict(peft_model), peft_model.taken))
    model = peft_model.merge_and_unload()
    model.config.merged_adapter = merged
    model.adopt_calibration()
    return model


def load_adapter(model: NatixDinov3ForImageClassification, folder: str | Path) -> PeftModel:
    """Load an adapter and its head, with the calibration; nothing of it is trainable.

    Args:
        model: from `build_model` with the same base and options; is changed in place.
        folder: holds `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        UserError: the folder has no adapter, or its shapes do not fit the model.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(folder) / name).is_file():
            raise UserError(f"{folder} has no {name}: give the adapter/ folder of a LoRA run")
    try:
        with _renamed_property():
            peft_model = PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{folder}: the adapter does not fit the model: {one_line(error)}") from None
    model.adopt_adapter()
    peft_model.taken = {}
    return peft_model
