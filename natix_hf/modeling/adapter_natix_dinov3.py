"""Loads an exported adapter, with its own config.json, onto its base: raw DINOv3 or a model of our class.

This file is saved with the weights (for `trust_remote_code` on the Hub), so it imports only torch, transformers and
the files saved beside it; peft is imported when an adapter is loaded. The adapter is merged into the weights, as a run
does before saving, so the logits are those of the run.
"""

import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel, PreTrainedModel
from transformers.utils import cached_file

from .configuration_natix_dinov3 import NatixDinov3Config


def fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    """The blake2b-128 of names, shapes and float32 values, as 32 hexadecimal digits.

    Dtype, device and memory layout of the tensors do not matter.

    Args:
        weights: a state dict. `mask_token` is ignored, because only masked pre-training uses it.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        if not name.endswith("mask_token"):
            tensor = weights[name].detach().cpu().float().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} ".encode())
            digest.update(memoryview(tensor.numpy()).cast("B") if tensor.numel() else b"")
    return digest.hexdigest()


def adapter_fingerprint(weights: Mapping[str, torch.Tensor]) -> str | None:
    """The blake2b-128 of an adapter's LoRA matrices, independent of their names; None if there are none.

    Args:
        weights: a state dict with the names of a file or of a model; other tensors are ignored.
    """
    matrices = [{"": tensor} for name, tensor in weights.items() if ".lora_" in name]
    fingerprints = "".join(sorted(fingerprint(matrix) for matrix in matrices))
    return hashlib.blake2b(fingerprints.encode(), digest_size=16).hexdigest() if matrices else None


def refuse_merged(merged: str | None, weights: Mapping[str, torch.Tensor]) -> None:
    """Refuse an adapter that is already merged into the weights of the model.

    Args:
        merged: `merged_adapter` of the model's config.
        weights: the state dict about to be loaded.

    Raises:
        ValueError: the state dict holds the merged adapter.
    """
    if merged is not None and adapter_fingerprint(weights) == merged:
        raise ValueError(
            "this adapter is already merged into the weights of this model, and would be applied twice: use the model "
            "as it is, or load the adapter onto the base that its adapter_config.json names"
        )


def exported_adapter(name_or_path: Any, adapter_kwargs: Mapping[str, Any] | None) -> str | None:
    """The folder or Hub id of an adapter that was exported with its own config.json, else None.

    Args:
        name_or_path: the argument of `from_pretrained`: the adapter, or its base if `AutoModel` resolved the adapter.
        adapter_kwargs: the keyword arguments that `AutoModel` passes when it has found an adapter.
    """
    adapter = (adapter_kwargs or {}).get("_adapter_model_path")
    if adapter is None and name_or_path is not None and Path(name_or_path).is_dir():
        adapter = name_or_path  # loaded without AutoModel, which also looks on the Hub
    if adapter is None:
        return None
    adapter = str(adapter)
    if _read(adapter, "adapter_config.json", adapter_kwargs) is None:
        return None
    config = _read(adapter, "config.json", adapter_kwargs) or {}
    return adapter if config.get("adapter_base") else None


def _find(name_or_path: str, file: str, adapter_kwargs: Mapping[str, Any] | None) -> str | None:
    """The path of a file in a folder or a Hub repository; None if it does not exist."""
    options = {name: value for name, value in (adapter_kwargs or {}).items() if name in ("revision", "token")}
    try:
        return cached_file(name_or_path, file, _raise_exceptions_for_missing_entries=False, **options)
    except OSError:
        return None


def _read(name_or_path: str, file: str, adapter_kwargs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The content of a JSON file in a folder or a Hub repository; None if it does not exist."""
    path = _find(name_or_path, file, adapter_kwargs)
    if path is None:
        return None
    with open(path, encoding="utf-8") as text:
        return json.load(text)


def _read_weights(path: str) -> dict[str, torch.Tensor]:
    return importlib.import_module("safetensors.torch").load_file(path)


def refuse_merged_file(merged: str | None, adapter: str, adapter_kwargs: Mapping[str, Any] | None = None) -> None:
    """As `refuse_merged`, for an adapter in a folder or a Hub repository."""
    path = _find(adapter, "adapter_model.safetensors", adapter_kwargs) if merged is not None else None
    if path is not None:
        refuse_merged(merged, _read_weights(path))


def refuse_dora_file(adapter: str, adapter_kwargs: Mapping[str, Any] | None = None) -> None:
    """Refuse a DoRA adapter: transformers does not load the magnitudes, so the logits would be wrong.

    Raises:
        ValueError: the folder or Hub repository holds a DoRA adapter.
    """
    if (_read(adapter, "adapter_config.json", adapter_kwargs) or {}).get("use_dora"):
        raise ValueError(
            f"{adapter} is a DoRA adapter, and transformers does not load its magnitudes: use "
            "peft.PeftModel.from_pretrained(base_model, adapter), or the adapter/ folder of a finished run, which has "
            "its own config.json"
        )


def load_exported_adapter(
    model_class: type[PreTrainedModel], adapter: str, adapter_kwargs: Mapping[str, Any] | None = None, **kwargs: Any
) -> PreTrainedModel:
    """Base, adapter and head as one merged model in eval mode.

    Args:
        model_class: `NatixDinov3ForImageClassification`.
        adapter: folder or Hub id, from `exported_adapter`.
        adapter_kwargs: as in `exported_adapter`.
        kwargs: arguments of `from_pretrained` for the base.

    Raises:
        ValueError: the adapter's weights are pickled, or the base has other weights than the adapter was trained on.
    """
    weights = _find(adapter, "adapter_model.safetensors", adapter_kwargs)
    if weights is None:
        raise ValueError(
            f"{adapter}: no adapter_model.safetensors, and pickled weights are not read: save the adapter again"
        )
    options = {name: value for name, value in (adapter_kwargs or {}).items() if name in ("revision", "token")}
    config = NatixDinov3Config.from_pretrained(adapter, **options)
    base = _read(adapter, "adapter_config.json", adapter_kwargs)["base_model_name_or_path"]
    # These arguments refer to the adapter's repository or to a config that was already read, not to loading the base.
    for name in ("config", "revision", "adapter_kwargs", "output_loading_info"):
        kwargs.pop(name, None)
    dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype")
    if (_read(base, "config.json", kwargs) or {}).get("model_type") == DINOv3ViTConfig.model_type:
        model = _on_raw_backbone(model_class, config, base, **kwargs)
    else:  # our class's from_pretrained would compare the base's calibration with the adapter's config
        load = PreTrainedModel.from_pretrained.__func__
        model = load(model_class, base, config=config, dtype=torch.float32, **kwargs)
    expected, base_fingerprint = config.adapter_base, fingerprint(model.backbone.state_dict())
    if base_fingerprint != expected:
        raise ValueError(
            f"{adapter}: base {base}: expected the fingerprint {expected}, found {base_fingerprint}, because the "
            "adapter was trained on other weights: use the original base, or export the run again"
        )
    # Both files are in this local folder now. For a Hub id peft would also look for pickled weights.
    folder = str(Path(weights).parent)
    model = importlib.import_module("peft").PeftModel.from_pretrained(model, folder).merge_and_unload()
    model.requires_grad_(True)
    model.check_calibration()
    model.config.merged_adapter = adapter_fingerprint(_read_weights(weights))
    model.name_or_path = model.config.name_or_path = adapter
    return model.to(dtype).eval()


def _on_raw_backbone(
    model_class: type[PreTrainedModel], config: NatixDinov3Config, base: str, **kwargs: Any
) -> PreTrainedModel:
    """A classifier on a DINOv3 backbone as published by Meta; the adapter provides the weights of the head."""
    kwargs = {name: value for name, value in kwargs.items() if name in ("attn_implementation", "token", "cache_dir")}
    backbone = DINOv3ViTModel.from_pretrained(base, config=config.backbone_config, dtype=torch.float32, **kwargs)
    with torch.device("meta"):
        model = model_class(config)
    model.backbone = backbone
    backbone.embeddings.mask_token.requires_grad_(False)
    model.head = type(model.head)(config)
    return model


class AdapterOnDinov3(nn.Module):
    """The class that `AutoModelForImageClassification` calls for a raw DINOv3 backbone, the base of an adapter."""

    config_class = DINOv3ViTConfig
    model_class: Any = None  # NatixDinov3ForImageClassification, set by `registration.register`

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """The model of an exported adapter; raises `ValueError` without one, because the backbone has no classes."""
        if exported_adapter(pretrained_model_name_or_path, kwargs.get("adapter_kwargs")) is None:
            raise ValueError(
                f"{pretrained_model_name_or_path} is a DINOv3 backbone without classes: train a head on it first "
                "(python -m natix_hf.train), or load an adapter that was exported with its configuration"
            )
        return cls.model_class.from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
