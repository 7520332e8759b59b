"""Run folders as training leaves them, made without training: random adapters, a random head, a calibration."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from hub_state import Hub

SHAPES = {
    "s": {"use_gated_mlp": False, "hidden_act": "gelu", "intermediate_size": 64},
    "h_plus": {"use_gated_mlp": True, "hidden_act": "silu", "intermediate_size": 72},
}
NAMES = ["None", "Roadwork"]


def write_base(folder: Path, shape: str = "s", **options: Any) -> Path:
    """A random DINOv3 of 2 layers, 32 wide, whose every weight matters, with its image processor (32 px)."""
    from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel

    config = DINOv3ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_register_tokens=4, image_size=32,
        **SHAPES[shape] | options,
    )  # fmt: skip
    backbone = DINOv3ViTModel(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    backbone.save_pretrained(folder)
    DINOv3ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_run(
    run: Path,
    base: str | Path,
    *,
    method: str = "lora",
    resize: str = "squash",
    image_size: int = 32,
    temperature: Any = (1.5, 0.8),
    logit_bias: Any = (0.3, -0.2),
    lora: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """A finished run on `base`; `options` are those of `build_model`."""
    from natix_hf.files import write_json, write_text
    from natix_hf.modeling.adapters import merge_lora, save_adapter
    from natix_hf.modeling.loading import load_model

    model, processor = load_model(
        str(base), NAMES, method=method, image_size=image_size, resize=resize, lora={"lora_r": 4, **(lora or {})},
        **options,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "head" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    plain = model.get_base_model() if method == "lora" else model
    plain.set_calibration(list(temperature), list(logit_bias))
    if method == "lora":
        for config in model.peft_config.values():
            config.base_model_name_or_path = ""
        save_adapter(model, run / "adapter")
        plain = merge_lora(model)
    plain.save_pretrained(run)
    processor.save_pretrained(run)
    recipe = {"model_name_or_path": str(base), "method": method, "image_size": image_size}
    write_text(run / "recipe.yaml", yaml.safe_dump(recipe))
    calibration = {
        "version": 1, "calibrator": "temperature", "fitted_on": "val_calib/fit", "n": 40, "kept": True,
        "temperature": list(temperature), "logit_bias": list(logit_bias), "calibrator_bias": list(logit_bias),
    }  # fmt: skip
    write_json(run / "calibration.json", calibration)
    write_json(run / "run.json", {"status": "finished", "method": method, "positive": 1})
    return run


@pytest.fixture(scope="session")
def make_base() -> Callable[..., Path]:
    """The function that writes a backbone."""
    return write_base


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """The function that writes a run folder."""
    return write_run


@pytest.fixture
def hub(loopback_hub, monkeypatch, tmp_path) -> Hub:
    """The Hub on this machine as this process's Hub and that of its children, with a token that may write."""
    constants = huggingface_hub.constants
    for name, value in (
        ("ENDPOINT", loopback_hub.address),
        (
            "HUGGINGFACE_CO_URL_TEMPLATE",
            loopback_hub.address + constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT),
        ),
        ("HF_HUB_CACHE", str(tmp_path / "hub-cache")),
        ("HF_TOKEN_PATH", str(tmp_path / "no-token")),
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_DISABLE_XET", True),
        ("HF_HUB_DISABLE_PROGRESS_BARS", True),
    ):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", loopback_hub.address)  # was made at import
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    for name, value in loopback_hub.environment(tmp_path / "hub-home").items():
        monkeypatch.setenv(name, value)
    return loopback_hub
