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
from finished_run import calibration_document, note_steps, write_finished_run
from hub_state import READ, WRITE, Hub

from natix_hf import publish as publish_verb
from natix_hf.errors import command

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
    image_size: int | list[int] = 32,
    temperature: Any = (1.5, 0.8),
    logit_bias: Any = (0.3, -0.2),
    lora: dict[str, Any] | None = None,
    scale: float = 0.3,
    **options: Any,
) -> Path:
    """A finished run on `base` whose adapters have weights of `scale`; `options` are those of `build_model`."""
    from natix_hf.files import write_json, write_text
    from natix_hf.inference.load_model import load_model
    from natix_hf.modeling.adapters import merge_lora, save_adapter

    model, processor = load_model(
        str(base), NAMES, method=method, image_size=image_size, resize=resize, lora={"lora_r": 4, **(lora or {})},
        **options,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "head" in name:
                size = scale if "lora_" in name else 0.3
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
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
    biases = {"logit_bias": list(logit_bias), "calibrator_bias": list(logit_bias)}
    calibration = calibration_document(len(logit_bias), temperature=list(temperature), **biases)
    write_json(run / "calibration.json", calibration)
    write_json(run / "run.json", {"version": 2, "status": "finished", "method": method, "positive": 1})
    note_steps(run)
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
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # is made once in a process
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    for name, value in loopback_hub.environment(tmp_path / "hub-home").items():
        monkeypatch.setenv(name, value)
    return loopback_hub


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, make_base, make_run) -> Path:
    """A finished run with weights, documents, predictions, a gallery and a checkpoint."""
    folder = tmp_path_factory.mktemp("publishing")
    base = make_base(folder / "base")
    run = make_run(folder / "run", base, temperature=(2.0, 2.0), logit_bias=(0.0, 0.0))
    recipe = {"model_name_or_path": str(base), "dataset_name": "me/streets", "image_size": 32, "lora_r": 4}
    write_finished_run(run, **recipe)
    (run / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (run / "checkpoints" / "checkpoint-1" / "optimizer.pt").write_bytes(b"pickle")
    (run / "training_args.bin").write_bytes(b"pickle")
    return run


@pytest.fixture
def proofs(monkeypatch):
    """The proof in this process alone; what was proved, in order, and by whom it would have been."""
    from natix_hf.hub import publish_run as publishing
    from natix_hf.hub.proof import prove
    from natix_hf.hub.proof_photos import Photos
    from natix_hf.scenes.photos import encode, scene

    asked = []

    def alone(run, export, *, clients, online=False, **options):
        asked.append(("pushed" if online else "export", clients))
        return prove(run, export, online=online, clients=(), **options)

    four = Photos("given", [encode(scene(5, index, (160, 90))) for index in range(4)])
    monkeypatch.setattr(publishing, "proof_photos", lambda *_, **__: four)
    monkeypatch.setattr(publishing, "prove", alone)
    return asked


@pytest.fixture
def light(monkeypatch):
    """Exports and proofs that are none, for what happens at the Hub alone."""
    from natix_hf.documents.export import Proof, ProofPhotos, ProvenClient, SameDecisions
    from natix_hf.hub import publish_run as publishing

    def export(run, form, folder, *, dtype, **_):
        folder.mkdir()
        for name in ("model-1.safetensors", "model-2.safetensors", "model.safetensors"):
            (folder / name).write_bytes(name.encode() * 2000)
        for name in ("config.json", *(["modeling_natix_dinov3.py"] if form == "merged" else [])):
            (folder / name).write_text("{}")

    seconds = dict.fromkeys(("import_seconds", "load_seconds"), 0.0)
    seconds |= dict.fromkeys(("photos_per_second", "photos_per_cpu_second"), 1.0)
    same = dict.fromkeys(("pixels", "logits", "probabilities"), 0.0)
    decisions = SameDecisions(same=32, of=32)
    client = ProvenClient(client="none", **{"class": "none"}, versions={}, **seconds, **same, decisions=decisions)
    document = Proof(
        format="stock",
        dtype="fp32",
        model="0" * 32,
        pushed=False,
        photos=ProofPhotos(source="given", n=32, fingerprint="0" * 32),
        labels=["None", "Roadwork"],
        tolerance={"logits": 1e-5},
        clients=[client],
        time="2026-01-01T00:00:00+00:00",
    )
    monkeypatch.setattr(publishing, "export_run", export)
    monkeypatch.setattr(publishing, "proof_photos", lambda *_, **__: None)
    monkeypatch.setattr(publishing, "prove", lambda *_, **__: document)
    monkeypatch.setattr(
        publishing, "write_bundle", lambda run, folder, *_, **__: (folder / "README.md").write_text("# Model")
    )


@pytest.fixture
def no_waiting(monkeypatch):
    """The Hub's client waits a second and more between two tries."""
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda _: None)


@pytest.fixture
def refused(capsys) -> Callable[..., tuple[str, str]]:
    """The function that types `python -m natix_hf.publish WORDS`, and is refused: its one line and the output."""

    def typed(*words: object) -> tuple[str, str]:
        with pytest.raises(SystemExit) as stop:
            command(publish_verb.main, [str(word) for word in words])
        assert stop.value.code == 2
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line.startswith("error: ") or "Traceback" in line]
        assert len(lines) == 1, err
        assert err.rstrip().endswith(lines[0])
        for token in (WRITE, READ):
            assert token not in out + err
        return lines[0].removeprefix("error: "), out

    return typed
