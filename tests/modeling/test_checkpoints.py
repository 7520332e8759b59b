"""Checkpoints that can't be used are refused in one line; those that can come with every tensor in its place."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DINOv3ViTModel, ViTConfig, ViTModel

from natix_hf.errors import UserError
from natix_hf.inference.classify import load_classifier
from natix_hf.modeling.checkpoints import build_model, load_backbone, load_processor
from natix_hf.photos.geometry import Squash

NAMES = ["None", "Roadwork"]


@pytest.fixture
def checkpoint(tiny_backbone: Path, tmp_path: Path) -> Path:
    """A copy of the tiny backbone that a test may spoil."""
    return Path(shutil.copytree(tiny_backbone, tmp_path / "checkpoint"))


@pytest.fixture
def run_folder(tiny_backbone: Path, tmp_path: Path) -> Path:
    """A finished run's model: two classes, calibrated, with its image processor."""
    model = build_model(str(tiny_backbone), NAMES, pooling="cls_mean", seed=7)
    model.set_calibration(1.5, [0.25, -0.25])
    model.save_pretrained(tmp_path / "run")
    load_processor(str(tiny_backbone), Squash(32)).save_pretrained(tmp_path / "run")
    return tmp_path / "run"


def refusal(call, *args, **kwargs) -> str:
    """The message of the `UserError` that the call raises, which must be one line."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-natix", "a/b/c", "builtin:unknown"])
def test_a_path_that_is_not_there_is_named(name):
    message = refusal(load_backbone, name)
    assert repr(name) in message
    assert "no such file or folder" in message


def test_a_file_in_place_of_a_folder_is_named(checkpoint):
    assert "is a file" in refusal(load_backbone, str(checkpoint / "model.safetensors"))


def test_a_name_that_no_hub_can_have_is_neither_folder_nor_model(checkpoint):
    assert "neither a folder here nor a model on the Hub" in refusal(load_backbone, "not a name!")


def test_offline_a_hub_id_says_that_the_network_is_missing():
    message = refusal(load_backbone, "facebook/dinov3-vits16-pretrain-lvd1689m")
    assert "not in the Hub's cache" in message
    assert "HF_HUB_OFFLINE" in message


def test_a_folder_without_config_and_one_with_a_broken_config_are_named(checkpoint):
    (checkpoint / "config.json").write_text("{")
    assert "is not JSON" in refusal(load_backbone, str(checkpoint))
    (checkpoint / "config.json").unlink()
    assert "no config.json" in refusal(load_backbone, str(checkpoint))


def test_a_checkpoint_that_is_not_dinov3_is_named_with_its_type(tmp_path):
    ViTModel(
        ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    ).save_pretrained(tmp_path)
    for call in (load_backbone, lambda name: build_model(name, NAMES), lambda name: load_processor(name, Squash(32))):
        message = refusal(call, str(tmp_path))
        assert "'vit', not a DINOv3 ViT" in message


@pytest.mark.parametrize("architecture", ["resnet50", "vit_small_patch14_dinov2", "convnext_tiny.dinov3_lvd1689m"])
def test_a_timm_checkpoint_that_is_not_a_dinov3_vit_is_named(architecture, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture, "pretrained_cfg": {}}))
    assert repr(architecture) in refusal(load_backbone, str(tmp_path))


def test_pickled_weights_are_refused(checkpoint):
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    message = refusal(load_backbone, str(checkpoint))
    assert "only pickled weights (pytorch_model.bin)" in message
    (checkpoint / "pytorch_model.bin").unlink()
    assert "no weights" in refusal(load_backbone, str(checkpoint))


def test_missing_unexpected_and_misshapen_tensors_are_named(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    weights["layer.0.surplus.weight"] = weights.pop("layer.1.attention.q_proj.weight")
    weights["norm.bias"] = torch.zeros(7)
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    message = refusal(load_backbone, str(checkpoint))
    assert "1 missing (model.layer.1.attention.q_proj.weight)" in message
    assert "1 unexpected" in message
    assert "surplus" in message
    assert "1 mismatched (norm.bias)" in message


def test_a_head_without_backbone_never_trains_on_a_random_one(run_folder):
    weights = load_file(run_folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k.startswith("head.")}, run_folder / "model.safetensors")
    message = refusal(build_model, str(run_folder), NAMES, pooling="cls_mean")
    assert "41 missing (backbone.embeddings.cls_token" in message
    assert "and 33 more" in message


def test_a_truncated_file_is_named(checkpoint):
    content = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "can't be read" in refusal(load_backbone, str(checkpoint))


def test_a_run_folder_gives_its_backbone(run_folder, tiny_backbone):
    expected = DINOv3ViTModel.from_pretrained(tiny_backbone).state_dict()
    backbone = load_backbone(str(run_folder))
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_a_run_folder_gives_its_head_without_the_old_calibration(run_folder, tiny_backbone):
    model = build_model(str(run_folder), NAMES, pooling="cls_mean", head_dropout=0.5, seed=1)
    old = build_model(str(tiny_backbone), NAMES, pooling="cls_mean", seed=7)
    assert torch.equal(model.head.linear.weight, old.head.linear.weight)
    assert model.head.temperature.tolist() == [1.0, 1.0]
    assert model.head.dropout.p == 0.5
    model.check_calibration()


def test_a_run_with_another_number_or_order_of_classes_is_refused(run_folder):
    message = refusal(build_model, str(run_folder), ["a", "b", "c"], pooling="cls_mean")
    assert "the model has 2 classes (None, Roadwork), the data has 3 (a, b, c)" in message
    assert "another order" in refusal(build_model, str(run_folder), NAMES[::-1], pooling="cls_mean")


def test_a_run_whose_classes_have_other_names_is_refused_unless_its_head_is_to_go_on(run_folder):
    message = refusal(build_model, str(run_folder), ["quiet", "works"], pooling="cls_mean")
    assert "None, Roadwork, the data's quiet, works" in message
    assert "(None -> quiet, Roadwork -> works): add --reuse_head true" in message
    assert "(Roadwork -> Works)" in refusal(build_model, str(run_folder), ["None", "Works"], pooling="cls_mean")
    model = build_model(str(run_folder), ["quiet", "works"], pooling="cls_mean", reuse_head=True)
    assert model.config.label2id == {"quiet": 0, "works": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named_before_anything_is_trained(checkpoint, run_folder, value):
    for folder, name in ((checkpoint, "layer.1.attention.q_proj.weight"), (run_folder, "head.linear.weight")):
        weights = load_file(folder / "model.safetensors")
        weights[name][0, :3] = value
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        message = refusal(build_model, str(folder), NAMES, pooling="cls_mean")
        assert re.search(rf"its weights hold NaN or infinite values \(3 in (model\.)?{re.escape(name)}\)", message)
    assert "its weights hold NaN" in refusal(load_classifier, str(run_folder))


def test_a_run_with_other_features_is_refused(run_folder):
    message = refusal(build_model, str(run_folder), NAMES)
    assert "trained with pooling 'cls_mean', the recipe says 'cls'" in message


def test_impossible_model_options_are_one_line(tiny_backbone):
    assert "feature_layers: expected 1 to 2, the backbone's layers; found 3" in refusal(
        build_model, str(tiny_backbone), NAMES, feature_layers=3
    )


def test_the_processor_takes_mean_and_std_of_the_checkpoint_and_our_size(checkpoint):
    settings = json.loads((checkpoint / "preprocessor_config.json").read_text())
    settings["image_mean"] = [0.43, 0.411, 0.296]
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(settings))
    processor = load_processor(str(checkpoint), Squash(64))
    assert list(processor.image_mean) == [0.43, 0.411, 0.296]
    assert (processor.size["height"], processor.size["width"]) == (64, 64)
    (checkpoint / "preprocessor_config.json").unlink()
    assert "no preprocessor_config.json" in refusal(load_processor, str(checkpoint), Squash(64))


def test_a_checkpoint_of_the_released_layout_loads_whole():
    folder = Path(__file__).resolve().parents[3] / "shared" / "backbones" / "dinov3-vits16-like"
    if not folder.is_dir():
        pytest.skip("the stand-in checkpoint is not here")
    model = build_model(str(folder), NAMES)
    state = model.backbone.state_dict()
    stored = load_file(folder / "model.safetensors")  # in float16
    assert len(stored) == len(state)
    for name, tensor in stored.items():
        assert torch.equal(state[re.sub(r"^layer\.", "model.layer.", name)], tensor.float()), name
    assert model(torch.zeros(1, 3, 224, 224)).logits.isfinite().all()
