"""A published adapter, its own config.json beside it, onto the base that it names: raw DINOv3, or a base of our class.

This file travels with the weights (Hub, `trust_remote_code`), so it imports torch, transformers and its siblings only;
peft is asked for when there is an adapter to load. The adapter is folded into the weights, as a run does before it
saves, so that the logits are those of the run. It knows nothing of training.
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
    """The blake2b-128 of names, shapes and float32 values, as 32 hexadecimal digits; how they are stored is no matter.

    Args:
        weights: a state dict. `mask_token` is left out, since only masked pre-training uses it.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        if not name.endswith("mask_token"):
            tensor = weights[name].detach().cpu().float().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} ".encode())
            digest.update(memoryview(tensor.numpy()).cast("B") if tensor.numel() else b"")
    return digest.hexdigest()


def adapter_fingerprint(weights: Mapping[str, torch.Tensor]) -> str | None:
    """The blake2b-128 of the values of an adapter's matrices, whatever they are called; None where there are none.

    Args:
        weights: a state dict, with the names of a file or of a model; what lies beside the matrices is left out.
    """
    matrices = [{"": tensor} for name, tensor in weights.items() if ".lora_" in name]
    whole = "".join(sorted(fingerprint(matrix) for matrix in matrices))
    return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest() if matrices else None


def refuse_merged(merged: str | None, weights: Mapping[str, torch.Tensor]) -> None:
    """Keep an adapter from being added to weights that it is in already.

    Args:
        merged: `merged_adapter` of the model's config.
        weights: what is about to be loaded.

    Raises:
        ValueError: it is that adapter.
    """
    if merged is not None and adapter_fingerprint(weights) == merged:
        raise ValueError(
            "this adapter is merged into the weights of this model already, and would be applied twice: use the model "
            "as it is, or load the adapter onto the base that its adapter_config.json names"
        )


def exported_adapter(name_or_path: Any, adapter_kwargs: Mapping[str, Any] | None) -> str | None:
    """The folder or Hub id of an adapter that was exported with a configuration of its own, else None.

    Args:
        name_or_path: what `from_pretrained` was asked for: the adapter, or its base where `AutoModel` has looked.
        adapter_kwargs: what `AutoModel` hands over when it has found an adapter.
    """
    adapter = (adapter_kwargs or {}).get("_adapter_model_path")
    if adapter is None and name_or_path is not None and Path(name_or_path).is_dir():
        adapter = name_or_path  # asked for without AutoModel, which looks on the Hub too
    if adapter is None:
        return None
    adapter = str(adapter)
    if _read(adapter, "adapter_config.json", adapter_kwargs) is None:
        return None
    config = _read(adapter, "config.json", adapter_kwargs) or {}
    return adapter if config.get("adapter_base") else None


def _find(name_or_path: str, file: str, adapter_kwargs: Mapping[str, Any] | None) -> str | None:
    """The path of a file of a folder or of a repository; None where it isn't there."""
    options = {name: value for name, value in (adapter_kwargs or {}).items() if name in ("revision", "token")}
    try:
        return cached_file(name_or_path, file, _raise_exceptions_for_missing_entries=False, **options)
    except OSError:
        return None


def _read(name_or_path: str, file: str, adapter_kwargs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A JSON file of a folder or of a repository; None where it isn't there."""
    path = _find(name_or_path, file, adapter_kwargs)
    if path is None:
        return None
    with open(path, encoding="utf-8") as text:
        return json.load(text)


def _read_weights(path: str) -> dict[str, torch.Tensor]:
    return importlib.import_module("safetensors.torch").load_file(path)


def refuse_merged_file(merged: str | None, adapter: str, adapter_kwargs: Mapping[str, Any] | None = None) -> None:
    """As `refuse_merged`, for an adapter in a folder or a repository."""
    path = _find(adapter, "adapter_model.safetensors", adapter_kwargs) if merged is not None else None
    if path is not None:
        refuse_merged(merged, _read_weights(path))


def refuse_dora_file(adapter: str, adapter_kwargs: Mapping[str, Any] | None = None) -> None:
    """Keep transformers from loading a DoRA adapter: it leaves the magnitudes out, and wrong logits come of it.

    Raises:
        ValueError: the adapter in this folder or repository is one.
    """
    if (_read(adapter, "adapter_config.json", adapter_kwargs) or {}).get("use_dora"):
        raise ValueError(
            f"{adapter} is a DoRA adapter, whose magnitudes transformers does not load: use "
            "peft.PeftModel.from_pretrained(base_model, adapter), or the adapter/ folder of a finished run, which has "
            "a config.json of its own"
        )


def load_exported_adapter(
    model_class: type[PreTrainedModel], adapter: str, adapter_kwargs: Mapping[str, Any] | None = None, **kwargs: Any
) -> PreTrainedModel:
    """Base, adapter and head as one model, folded, in eval mode.

    Args:
        model_class: `NatixDinov3ForImageClassification`.
        adapter: from `exported_adapter`.
        adapter_kwargs: as there.
        kwargs: of `from_pretrained`, for the base.

    Raises:
        ValueError: the adapter's weights are pickled, or the base's are not those that it was trained on.
    """
    weights = _find(adapter, "adapter_model.safetensors", adapter_kwargs)
    if weights is None:
        raise ValueError(f"{adapter} has no adapter_model.safetensors: pickled weights are not read")
    options = {name: value for name, value in (adapter_kwargs or {}).items() if name in ("revision", "token")}
    config = NatixDinov3Config.from_pretrained(adapter, **options)
    base = _read(adapter, "adapter_config.json", adapter_kwargs)["base_model_name_or_path"]
    # What belongs to the adapter's repository or was read from the base does not describe how to load the base.
    for name in ("config", "revision", "adapter_kwargs", "output_loading_info"):
        kwargs.pop(name, None)
    dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype")
    if (_read(base, "config.json", kwargs) or {}).get("model_type") == DINOv3ViTConfig.model_type:
        model = _on_raw_backbone(model_class, config, base, **kwargs)
    else:  # our class's own way would compare the base's calibration with the adapter's
        load = PreTrainedModel.from_pretrained.__func__
        model = load(model_class, base, config=config, dtype=torch.float32, **kwargs)
    expected, found = config.adapter_base, fingerprint(model.backbone.state_dict())
    if found != expected:
        raise ValueError(
            f"the adapter {adapter} was trained on other weights than {base} holds now (fingerprint {expected}, found "
            f"{found}): take the base as it was, or export the run again"
        )
    # From the folder where both of its files are by now: on the Hub peft would look for pickled weights as well.
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
    """A classifier on a DINOv3 as Meta publishes it; its head waits for the adapter's."""
    kwargs = {name: value for name, value in kwargs.items() if name in ("attn_implementation", "token", "cache_dir")}
    backbone = DINOv3ViTModel.from_pretrained(base, config=config.backbone_config, dtype=torch.float32, **kwargs)
    with torch.device("meta"):
        model = model_class(config)
    model.backbone = backbone
    backbone.embeddings.mask_token.requires_grad_(False)
    model.head = type(model.head)(config)
    return model


class AdapterOnDinov3(nn.Module):
    """What `AutoModelForImageClassification` calls for a raw DINOv3: it has no classes, but an adapter of ours may."""

    config_class = DINOv3ViTConfig
    model_class: Any = None  # NatixDinov3ForImageClassification, set where the two are registered

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """The adapter's model; raises `ValueError` where no adapter of ours was asked for."""
        if exported_adapter(pretrained_model_name_or_path, kwargs.get("adapter_kwargs")) is None:
            raise ValueError(
                f"{pretrained_model_name_or_path} is a DINOv3 backbone without classes: train a head on it first "
                "(python -m natix_hf.train), or load an adapter that was exported with its configuration"
            )
        return cls.model_class.from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
