"""LoRA and the probe: what trains, and that the head and its calibration survive save, load and merge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForImageClassification, pipeline

from natix_hf.errors import UserError
from natix_hf.modeling.adapters import add_lora, freeze_for_probe, load_adapter, merge_lora
from natix_hf.modeling.checkpoints import build_model, load_processor

NAMES = ["None", "Roadwork"]


@pytest.fixture
def photos() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def trained(model: PeftModel, photos: Tensor) -> PeftModel:
    """A few steps on every trainable weight, then a calibration."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    model.train()
    for _ in range(3):
        model(pixel_values=photos, labels=torch.tensor([0, 1, 0])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.set_calibration([1.7, 1.4], [0.3, -0.2])
    return model.eval()


def adapted(model: PeftModel) -> list[str]:
    """Names of the linears that carry an adapter."""
    suffix = ".lora_A.default.weight"
    return [
        name.removeprefix("base_model.model.").removesuffix(suffix) for name in model.state_dict() if suffix in name
    ]


def test_all_linear_is_every_linear_of_the_blocks_and_never_the_head(tiny_backbone):
    model = add_lora(build_model(str(tiny_backbone), NAMES, head="mlp"))
    parts = ["attention.k_proj", "attention.v_proj", "attention.q_proj", "attention.o_proj"]
    parts += ["mlp.up_proj", "mlp.down_proj"]
    assert sorted(adapted(model)) == sorted(f"backbone.model.layer.{n}.{part}" for n in (0, 1) for part in parts)
    rest = [name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name]
    assert rest
    assert all(".head.modules_to_save.default." in name for name in rest)


@pytest.mark.parametrize(
    ("targets", "last", "expected"),
    [
        (["q_proj", "attention.v_proj"], 1, ["1.attention.q_proj", "1.attention.v_proj"]),
        (["o_proj"], None, ["0.attention.o_proj", "1.attention.o_proj"]),
        (r"mlp\..*", 1, ["1.mlp.down_proj", "1.mlp.up_proj"]),
    ],
)
def test_targets_by_name_by_pattern_and_in_the_last_blocks(targets, last, expected, tiny_backbone):
    model = add_lora(build_model(str(tiny_backbone), NAMES), lora_target_modules=targets, lora_last_blocks=last)
    assert sorted(adapted(model)) == [f"backbone.model.layer.{name}" for name in expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_target_modules": ["query"]}, "q_proj"),
        ({"lora_target_modules": "(mlp"}, "no regular expression"),
        ({"lora_last_blocks": 3}, "expected 1 to 2"),
        ({"lora_r": 0}, "LoRA options"),
        ({"lora_init": "nonsense"}, "LoRA options"),
        ({"lora_modules_to_save": ["neck"]}, "no module 'neck'"),
    ],
)
def test_impossible_lora_options_are_one_line(options, message, tiny_backbone):
    with pytest.raises(UserError, match=message) as caught:
        add_lora(build_model(str(tiny_backbone), NAMES), **options)
    assert "\n" not in str(caught.value)


def test_lora_starts_as_the_model_without_it(tiny_backbone, photos):
    model = build_model(str(tiny_backbone), NAMES)
    before = model(photos).logits
    assert torch.equal(add_lora(model)(pixel_values=photos).logits, before)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}, {"lora_modules_to_save": ["norm"]}])
def test_head_and_logits_are_bit_exact_after_saving_and_loading_an_adapter(options, tiny_backbone, photos, tmp_path):
    model = trained(add_lora(build_model(str(tiny_backbone), NAMES, pooling="cls_mean"), lora_r=4, **options), photos)
    model.save_pretrained(tmp_path)
    fresh = build_model(str(tiny_backbone), NAMES, pooling="cls_mean", seed=99)
    loaded = load_adapter(fresh, tmp_path)
    assert torch.equal(loaded(pixel_values=photos).logits, model(pixel_values=photos).logits)
    assert torch.equal(loaded.head.linear.weight, model.head.linear.weight)
    assert fresh.config.temperature == model.config.temperature


@pytest.mark.parametrize("options", [{}, {"use_dora": True}])
def test_merging_changes_logits_by_less_than_1e_5_and_keeps_the_calibration(options, tiny_backbone, photos, tmp_path):
    model = trained(add_lora(build_model(str(tiny_backbone), NAMES), lora_r=4, **options), photos)
    before, head = model(pixel_values=photos).logits, model.head.linear.weight.clone()
    merged = merge_lora(model)
    torch.testing.assert_close(merged(photos).logits, before, atol=1e-5, rtol=0)
    assert torch.equal(merged.head.linear.weight, head)
    merged.check_calibration()
    merged.save_pretrained(tmp_path)
    load_processor(str(tiny_backbone), 32).save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(photos).logits, merged(photos).logits)
    assert pipeline("image-classification", model=str(tmp_path)).model.config.temperature == pytest.approx([1.7, 1.4])


def test_an_adapter_on_a_run_of_ours_loads_through_the_auto_class_with_its_own_calibration(
    tiny_backbone, photos, tmp_path
):
    build_model(str(tiny_backbone), NAMES).save_pretrained(tmp_path / "run")
    model = trained(add_lora(build_model(str(tmp_path / "run"), NAMES), lora_r=4), photos)
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "adapter")
    assert torch.equal(loaded(photos).logits, model(pixel_values=photos).logits)
    assert loaded.config.temperature == pytest.approx([1.7, 1.4])


def test_an_adapter_that_is_not_there_or_does_not_fit_is_named(tiny_backbone, photos, tmp_path):
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        load_adapter(build_model(str(tiny_backbone), NAMES), tmp_path)
    add_lora(build_model(str(tiny_backbone), NAMES)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="doesn't fit the model") as caught:
        load_adapter(build_model(str(tiny_backbone), [*NAMES, "third"]), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_probe_trains_the_head_alone_on_stored_features(tiny_backbone, photos):
    model = build_model(str(tiny_backbone), NAMES)
    freeze_for_probe(model)
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"head"}
    features = model.extract_features(photos)
    assert not features.requires_grad
    model(features=features, labels=torch.tensor([0, 1, 0])).loss.backward()
    assert model.head.linear.weight.grad.any()


def test_activation_checkpointing_reaches_the_adapters(tiny_backbone, photos: Tensor, tmp_path: Path):
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model = trained(add_lora(build_model(str(tiny_backbone), NAMES), lora_r=4), photos).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(pixel_values=photos, labels=torch.tensor([0, 1, 0])).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    torch.manual_seed(0)
    plain = gradients(False)
    torch.manual_seed(0)
    checkpointed = gradients(True)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)
