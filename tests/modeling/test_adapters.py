"""LoRA and the probe: what trains, and that the head and its calibration survive save, load and merge."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForImageClassification, pipeline

from natix_hf.errors import UserError
from natix_hf.inference.load_model import load_model, sketch_model
from natix_hf.modeling.adapters import add_lora, freeze_for_probe, load_adapter, merge_lora, save_adapter
from natix_hf.modeling.checkpoints import build_model, load_processor
from natix_hf.photos.geometry import Squash

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
        ({"lora_target_modules": "(mlp"}, "not a regular expression"),
        ({"lora_last_blocks": 3}, "lora_last_blocks: expected 1 to 2, the blocks of the backbone; found 3"),
        ({"lora_r": 0}, "LoRA options"),
        ({"lora_init": "nonsense"}, "lora_init: expected one of default, gaussian.*; found nonsense"),
        ({"lora_init": "pissa_niter_4"}, "draws random numbers"),
        ({"lora_init": "loftq"}, "quantised"),
        ({"lora_init": "orthogonal", "lora_r": 3}, "LoRA options"),
        ({"unfreeze_last_blocks": 2}, "unfreeze_last_blocks: expected 0 to 1, found 2"),
        ({"unfreeze_last_blocks": -1}, "unfreeze_last_blocks: expected .*, found -1"),
        ({"unfreeze_last_blocks": 1, "lora_last_blocks": 1}, "expected 0 to 0, found 1"),
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


# Every way that a recipe can shape adapters, some of them together.
WAYS = [
    {},
    {"lora_target_modules": ["q_proj", "v_proj"]},
    {"use_rslora": True},
    {"use_dora": True},
    {"lora_init": "gaussian"},
    {"lora_init": "orthogonal"},
    {"lora_init": "olora"},
    {"lora_init": "pissa"},
    {"lora_init": "pissa", "use_rslora": True},
    {"lora_init": "pissa", "use_dora": True},
    {"lora_last_blocks": 1},
    {"lora_train_norms": True},
    {"lora_train_norms": True, "lora_last_blocks": 1, "lora_modules_to_save": ["norm"]},
    {"lora_modules_to_save": ["norm", "embeddings"]},
    {"lora_modules_to_save": ["norm1", "patch_embeddings", "embeddings"], "unfreeze_last_blocks": 1},
    {"unfreeze_last_blocks": 1},
    {"unfreeze_last_blocks": 1, "lora_init": "pissa", "lora_train_norms": True},
]


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_every_kind_of_adapter_starts_saves_loads_and_merges_right(options, tiny_backbone, photos, tmp_path):
    """Bit-equal after save and load; after a merge, and as the ordinary LoRA that a run ships, within 1e-5."""
    plain = build_model(str(tiny_backbone), NAMES)(photos).logits
    model = add_lora(build_model(str(tiny_backbone), NAMES), lora_r=4, **options).eval()
    torch.testing.assert_close(model(pixel_values=photos).logits, plain, atol=1e-5, rtol=0)
    trained(model, photos)
    after = model(pixel_values=photos).logits
    assert (after - plain).abs().max() > 1e-2
    model.save_pretrained(tmp_path / "kept")
    loaded = load_adapter(build_model(str(tiny_backbone), NAMES, seed=99), tmp_path / "kept")
    assert torch.equal(loaded(pixel_values=photos).logits, after)
    save_adapter(model, tmp_path / "shipped")
    shipped = load_adapter(build_model(str(tiny_backbone), NAMES, seed=99), tmp_path / "shipped")
    torch.testing.assert_close(shipped(pixel_values=photos).logits, after, atol=1e-5, rtol=0)
    assert shipped.peft_config["default"].init_lora_weights not in ("pissa", "olora")
    torch.testing.assert_close(merge_lora(shipped)(photos).logits, after, atol=1e-5, rtol=0)
    merged = merge_lora(model)
    torch.testing.assert_close(merged(photos).logits, after, atol=1e-5, rtol=0)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "merged")
    assert torch.equal(again(photos).logits, merged(photos).logits)


@pytest.mark.parametrize("init", ["olora", "pissa"])
def test_a_shipped_adapter_loads_where_nothing_is_decomposed_anew(init, tiny_backbone, photos, tmp_path):
    """transformers and peft's quick loading leave that out: what PiSSA itself saves comes out wrong there."""
    build_model(str(tiny_backbone), NAMES).save_pretrained(tmp_path / "base")
    model = trained(add_lora(build_model(str(tmp_path / "base"), NAMES), lora_r=4, lora_init=init), photos)
    after = model(pixel_values=photos).logits
    save_adapter(model, tmp_path / "shipped")
    quick = PeftModel.from_pretrained(
        build_model(str(tmp_path / "base"), NAMES), tmp_path / "shipped", low_cpu_mem_usage=True
    )
    torch.testing.assert_close(quick(pixel_values=photos).logits, after, atol=1e-5, rtol=0)
    client = AutoModelForImageClassification.from_pretrained(tmp_path / "shipped")
    torch.testing.assert_close(client(photos).logits, after, atol=1e-5, rtol=0)


def trainable(model: torch.nn.Module) -> set[str]:
    """Names of what is trained, without peft's own parts and the head."""
    names = {name for name, p in model.named_parameters() if p.requires_grad and ".head." not in name}
    return {name.removeprefix("base_model.model.").replace("modules_to_save.default.", "") for name in names}


def test_unfrozen_blocks_are_trained_whole_with_adapters_below(tiny_backbone):
    model = build_model(str(tiny_backbone), NAMES)
    block = {f"backbone.model.layer.1.{name}" for name, _ in model.backbone.model.layer[1].named_parameters()}
    found = trainable(add_lora(model, unfreeze_last_blocks=1))
    assert {name for name in found if ".lora_" not in name} == block
    assert all(name.startswith("backbone.model.layer.0.") for name in found - block)


def test_trained_norms_are_those_of_the_adapted_blocks_and_the_last_one(tiny_backbone):
    norms = {f"{name}.{part}" for name in ("norm1", "norm2") for part in ("weight", "bias")}
    last = {"backbone.norm.weight", "backbone.norm.bias"}
    found = trainable(add_lora(build_model(str(tiny_backbone), NAMES), lora_train_norms=True, lora_last_blocks=1))
    assert {n for n in found if ".lora_" not in n} == last | {f"backbone.model.layer.1.{name}" for name in norms}


@pytest.mark.filterwarnings("error::FutureWarning")
def test_adapters_are_added_and_loaded_without_warnings_that_users_cannot_act_on(tiny_backbone, tmp_path):
    save_adapter(add_lora(build_model(str(tiny_backbone), NAMES)), tmp_path)
    load_adapter(build_model(str(tiny_backbone), NAMES), tmp_path)


def test_the_mask_token_is_never_trained(tiny_backbone, photos):
    """It gets no gradient, and several processes would wait for one."""
    model = add_lora(build_model(str(tiny_backbone), NAMES), lora_modules_to_save=["embeddings"])
    model(pixel_values=photos, labels=torch.tensor([0, 1, 0])).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_unfrozen_blocks_work_with_features_of_several_layers_and_activation_checkpointing(tiny_backbone, photos):
    model = trained(add_lora(build_model(str(tiny_backbone), NAMES, feature_layers=2), unfreeze_last_blocks=1), photos)
    before = model(pixel_values=photos).logits
    model.activation_checkpointing_enable()
    model.train()(pixel_values=photos, labels=torch.tensor([0, 1, 0])).loss.backward()
    torch.testing.assert_close(merge_lora(model.eval())(photos).logits, before, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "full", "lora": {"unfreeze_last_blocks": 1}}, "unfreeze_last_blocks is for adapters"),
        ({"method": "probe", "lora": {"lora_train_norms": True}}, "lora_train_norms is for adapters"),
        ({"lora": {"lora_last_blocks": 3}}, "expected 1 to 2, the blocks of the backbone; found 3"),
        ({"lora": {"unfreeze_last_blocks": 5}}, "expected 0 to 1, found 5"),
        ({"lora": {"lora_target_modules": ["query"]}}, "matches no linear layer"),
    ],
)
def test_a_sketch_without_weights_finds_the_faults_of_the_model(options, message, tiny_backbone, tmp_path):
    """The checkpoint's weights are not there, and are not missed."""
    (tmp_path / "config.json").write_bytes((tiny_backbone / "config.json").read_bytes())
    with pytest.raises(UserError, match=message):
        sketch_model(str(tmp_path), **options)
    with pytest.raises(UserError, match=message):
        load_model(str(tiny_backbone), NAMES, image_size=32, **options)


@pytest.mark.parametrize("lora", [{"lora_init": "pissa", "lora_r": 4}, {"unfreeze_last_blocks": 1}])
def test_a_sketch_trains_what_the_model_trains(lora, tiny_backbone):
    for method in ("lora", "full", "probe"):
        options = {"method": method, "lora": lora if method == "lora" else {}}
        model, _ = load_model(str(tiny_backbone), NAMES, image_size=32, **options)
        sketch = sketch_model(str(tiny_backbone), **options)
        assert trainable(sketch) == trainable(model)
        assert {p.device.type for p in sketch.parameters() if not p.requires_grad} <= {"meta"}


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
    load_processor(str(tiny_backbone), Squash(32)).save_pretrained(tmp_path)
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


@pytest.mark.parametrize("way", ["transformers", "peft"])
def test_an_adapter_takes_no_calibration_from_a_calibrated_base(tiny_backbone, photos, tmp_path, way):
    base = build_model(str(tiny_backbone), NAMES)
    base.save_pretrained(tmp_path / "plain")
    model = trained(add_lora(build_model(str(tmp_path / "plain"), NAMES), lora_r=4), photos)
    model.save_pretrained(tmp_path / "adapter")
    knots = [[[0.0, 1.0], [0.4, 0.6]]] * len(NAMES)
    base.set_calibration(3.0, 0.5, knots, {"positive": 1, "threshold": 0.3, "abstain_band": [0.2, 0.9]})
    base.save_pretrained(tmp_path / "base")
    if way == "peft":
        base = AutoModelForImageClassification.from_pretrained(tmp_path / "base")
        loaded = load_adapter(base, tmp_path / "adapter").get_base_model()
    else:
        about = tmp_path / "adapter" / "adapter_config.json"
        text = about.read_text()
        assert str(tmp_path / "plain") in text
        about.write_text(text.replace(str(tmp_path / "plain"), str(tmp_path / "base")))
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "adapter")
    assert torch.equal(loaded.eval()(photos).logits, model.eval()(pixel_values=photos).logits)
    assert (loaded.config.isotonic, loaded.config.decision) == (None, None)
    assert loaded.config.temperature == pytest.approx([1.7, 1.4])


def test_an_adapter_that_is_not_there_or_does_not_fit_is_named(tiny_backbone, photos, tmp_path):
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        load_adapter(build_model(str(tiny_backbone), NAMES), tmp_path)
    add_lora(build_model(str(tiny_backbone), NAMES)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="does not fit the model") as caught:
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
