"""The classifier: features, head, calibration, and what saving and loading may not change."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, DINOv3ViTConfig, DINOv3ViTModel

import natix_hf  # noqa: F401  (registers the model)
from natix_hf.decision.calibration import Calibration
from natix_hf.modeling.adapters import add_lora, merge_lora
from natix_hf.modeling.checkpoints import build_model, load_backbone
from natix_hf.modeling.configuration_natix_dinov3 import NatixDinov3Config
from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification

NAMES = ["None", "Roadwork"]
SHAPES = {
    "S": {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 192},
    "S+": {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 192, "use_gated_mlp": True},
    "H+": {"hidden_size": 80, "num_attention_heads": 5, "intermediate_size": 320, "use_gated_mlp": True},
}


@pytest.fixture
def photos() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_checkpoint_of_each_shape_becomes_a_classifier_with_its_own_features(shape, tmp_path, photos):
    hidden_act = "silu" if SHAPES[shape].get("use_gated_mlp") else "gelu"
    config = DINOv3ViTConfig(num_hidden_layers=3, num_register_tokens=4, hidden_act=hidden_act, **SHAPES[shape])
    stock = DINOv3ViTModel(config).eval()
    stock.save_pretrained(tmp_path)
    model = build_model(str(tmp_path), NAMES)
    expected = stock(photos).pooler_output
    assert torch.equal(model.extract_features(photos), expected)
    assert torch.equal(model(photos).logits, model(features=expected).logits)


@pytest.mark.parametrize(
    ("pooling", "layers"), [("cls", 1), ("mean", 1), ("cls_mean", 1), ("mean", 2), ("cls_mean", 2)]
)
def test_pooling_equals_the_formula_on_the_stock_outputs(pooling, layers, tiny_backbone, photos):
    model = build_model(str(tiny_backbone), NAMES, pooling=pooling, feature_layers=layers)
    outputs = load_backbone(str(tiny_backbone))(photos, output_hidden_states=True)
    states = [model.backbone.norm(state) for state in outputs.hidden_states[-layers:]]
    assert torch.equal(states[-1], outputs.last_hidden_state)
    parts = {"cls": lambda s: [s[:, 0]], "mean": lambda s: [s[:, 5:].mean(1)]}
    parts["cls_mean"] = lambda s: parts["cls"](s) + parts["mean"](s)
    expected = torch.cat([part for state in states for part in parts[pooling](state)], dim=-1)
    features = model.extract_features(photos)
    assert features.shape == (3, model.feature_size)
    assert torch.equal(features, expected)


def test_loss_is_the_plain_cross_entropy_for_ids_and_for_probabilities(tiny_backbone, photos):
    model = build_model(str(tiny_backbone), NAMES)
    labels = torch.tensor([0, 1, 1])
    outputs = model(photos, labels=labels)
    torch.testing.assert_close(outputs.loss, nn.functional.cross_entropy(outputs.logits, labels))
    soft = nn.functional.one_hot(labels, 2).float()
    torch.testing.assert_close(model(photos, labels=soft).loss, outputs.loss)


def test_forward_takes_photos_or_features_and_returns_intermediate_outputs_on_request(tiny_backbone, photos):
    model = build_model(str(tiny_backbone), NAMES, attn_implementation="eager")
    with pytest.raises(ValueError, match="exactly one of pixel_values, features and prefix_states"):
        model()
    assert model(photos).hidden_states is None
    outputs = model(photos, output_hidden_states=True, output_attentions=True)
    assert len(outputs.hidden_states) == 3
    assert outputs.attentions[0].shape == (3, 2, 9, 9)  # (batch, heads, tokens, tokens)
    assert torch.equal(model(photos, return_dict=False)[0], outputs.logits)


def test_linear_head_starts_from_xavier_and_zero_and_only_the_seed_decides(tiny_backbone):
    torch.manual_seed(5)
    expected_state = torch.get_rng_state()
    head = build_model(str(tiny_backbone), NAMES, seed=3).head
    bound = (6 / (32 + 2)) ** 0.5
    assert head.linear.weight.abs().max() <= bound
    assert head.linear.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.25)
    assert not head.linear.bias.any()
    assert torch.equal(torch.get_rng_state(), expected_state)
    assert torch.equal(head.linear.weight, build_model(str(tiny_backbone), NAMES, seed=3).head.linear.weight)
    assert not torch.equal(head.linear.weight, build_model(str(tiny_backbone), NAMES, seed=4).head.linear.weight)


def test_a_residual_head_starts_as_its_linear_layer_and_learns_the_rest(tiny_backbone, photos):
    model = build_model(str(tiny_backbone), NAMES, head="residual", head_hidden_size=5)
    linear, residual = model.head.linear, model.head.hidden
    assert residual.up.weight.shape == (5, 32)
    features = model.extract_features(photos).detach()
    assert torch.equal(model(photos).logits, linear(features))
    model(features=features, labels=torch.tensor([0, 1, 0])).loss.backward()
    assert residual.down.weight.grad.any()
    with torch.no_grad():
        residual.down.weight.normal_()
        residual.down.bias.normal_()
    inner = torch.nn.functional.gelu(features @ residual.up.weight.T + residual.up.bias)
    expected = features + inner @ residual.down.weight.T + residual.down.bias
    torch.testing.assert_close(model(photos).logits, linear(expected))


def test_calibration_is_applied_last_and_written_to_head_and_config(tiny_backbone, photos):
    model = build_model(str(tiny_backbone), NAMES)
    before = model(photos).logits
    model.set_calibration(2.0, [0.5, -0.5])
    torch.testing.assert_close(model(photos).logits, before / 2 + torch.tensor([0.5, -0.5]))
    assert model.config.temperature == [2.0, 2.0]
    assert model.config.logit_bias == [0.5, -0.5]


@pytest.mark.parametrize(("temperature", "bias"), [(0.0, 0.0), (-1.0, 0.0), (float("nan"), 0.0), ([1.0] * 3, 0.0)])
def test_an_impossible_calibration_is_refused(temperature, bias, tiny_backbone):
    model = build_model(str(tiny_backbone), NAMES)
    with pytest.raises(ValueError, match="temperature"):
        model.set_calibration(temperature, bias)


@pytest.mark.parametrize("head", ["mlp", "residual"])
def test_logits_are_bit_equal_after_save_and_load(head, tiny_backbone, photos, tmp_path):
    model = build_model(str(tiny_backbone), NAMES, pooling="cls_mean", feature_layers=2, head=head, head_dropout=0.1)
    torch.manual_seed(0)
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.set_calibration([1.3, 0.7], [0.25, -0.125])
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is NatixDinov3ForImageClassification
    assert torch.equal(loaded(photos).logits, model(photos).logits)
    assert str(tiny_backbone) not in (tmp_path / "config.json").read_text()


def test_a_config_that_disagrees_with_the_head_is_an_error_naming_both(tiny_backbone, tmp_path):
    model = build_model(str(tiny_backbone), NAMES)
    model.set_calibration(1.5)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"temperature": [1.0, 1.0]}))
    with pytest.raises(ValueError, match=r"\[1\.5, 1\.5\].*\[1\.0, 1\.0\]"):
        NatixDinov3ForImageClassification.from_pretrained(tmp_path)


def test_a_calibration_that_a_checkpoint_lacks_is_neutral(tiny_backbone):
    model = NatixDinov3ForImageClassification(
        NatixDinov3Config(backbone_config=load_backbone(str(tiny_backbone)).config)
    )
    state = {k: v for k, v in model.state_dict().items() if "temperature" not in k and "logit_bias" not in k}
    loaded = NatixDinov3ForImageClassification.from_pretrained(None, config=model.config, state_dict=state)
    assert loaded.head.temperature.tolist() == [1.0, 1.0]
    assert loaded.head.logit_bias.tolist() == [0.0, 0.0]


def test_weights_stored_in_half_precision_load_in_float32(tiny_backbone, tmp_path, photos):
    DINOv3ViTModel.from_pretrained(tiny_backbone).half().save_pretrained(tmp_path / "backbone")
    model = build_model(str(tmp_path / "backbone"), NAMES)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model.set_calibration(1.2345, [0.1, 0.2])
    model.half().save_pretrained(tmp_path / "run")
    for options in ({}, {"dtype": "auto"}):
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "run", **options)
        assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
        assert loaded(photos).logits.isfinite().all()


def test_load_state_dict_restores_every_tensor_from_the_names_on_disk(tiny_backbone, tmp_path, photos):
    model = build_model(str(tiny_backbone), NAMES, seed=1)
    nn.init.normal_(model.backbone.model.layer[1].mlp.up_proj.weight)
    model.save_pretrained(tmp_path)
    on_disk = load_file(tmp_path / "model.safetensors")
    assert "backbone.layer.1.mlp.up_proj.weight" in on_disk  # renamed on save: what makes this test needed
    other = build_model(str(tiny_backbone), NAMES, seed=2)
    result = other.load_state_dict(on_disk, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert torch.equal(other(photos).logits, model(photos).logits)
    other.load_state_dict(model.state_dict())  # names as in memory


def test_thirteen_class_names_keep_their_order_through_save_and_load(tiny_backbone, tmp_path):
    names = [f"class {index}" for index in reversed(range(13))]
    build_model(str(tiny_backbone), names).save_pretrained(tmp_path)
    config = NatixDinov3Config.from_pretrained(tmp_path)
    assert list(config.id2label.values()) == names
    assert config.label2id == {name: index for index, name in enumerate(names)}
    assert AutoModelForImageClassification.from_pretrained(tmp_path).head.linear.out_features == 13


def test_frozen_features_in_train_mode_equal_those_in_eval_mode(tiny_backbone, photos):
    assert json.loads((tiny_backbone / "config.json").read_text())["pos_embed_rescale"] == 2.0
    model = build_model(str(tiny_backbone), NAMES)
    assert torch.equal(model.train().extract_features(photos), model.eval().extract_features(photos))
    noisy = build_model(str(tiny_backbone), NAMES, rope_augmentation=True)
    assert not torch.equal(noisy.train().extract_features(photos), noisy.eval().extract_features(photos))


def test_eager_and_sdpa_agree(tiny_backbone, photos):
    sdpa, eager = (build_model(str(tiny_backbone), NAMES, attn_implementation=name) for name in ("sdpa", "eager"))
    assert (sdpa.backbone.config._attn_implementation, eager.config._attn_implementation) == ("sdpa", "eager")
    torch.testing.assert_close(sdpa(photos).logits, eager(photos).logits, atol=1e-5, rtol=1e-5)


def test_activation_checkpointing_gives_the_same_gradients_and_spares_the_mask_token(tiny_backbone, photos):
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model = build_model(str(tiny_backbone), NAMES).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(photos, labels=torch.tensor([0, 1, 0])).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    plain, checkpointed = gradients(False), gradients(True)
    assert "backbone.embeddings.mask_token" not in plain
    assert all(gradient is not None for gradient in plain.values())  # DDP waits for every one
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"pooling": "max"}, "pooling"), ({"head": "deep"}, "head"), ({"feature_layers": 99}, "feature_layers")],
)
def test_an_impossible_configuration_is_refused_by_name(options, word):
    with pytest.raises(ValueError, match=word):
        NatixDinov3Config(**options)


KNOTS = [[[0.1, 0.45, 0.9], [0.05, 0.5, 0.8]], [[0.1, 0.55, 0.9], [0.2, 0.5, 0.95]]]


def test_isotonic_knots_come_first_outside_training_and_survive_save_and_load(tiny_backbone, photos, tmp_path):
    model = build_model(str(tiny_backbone), NAMES).eval()
    with torch.no_grad():
        model.head.linear.weight.mul_(8)  # probabilities that leave the knots on both sides
    before = model(photos).logits
    decision = {"positive": 1, "threshold": 0.5, "prior_bias": [0.1, -0.2], "threshold_bias": [0.0, 0.0]}
    model.set_calibration(1.0, [0.1, -0.2], isotonic=KNOTS, decision=decision)
    p = before.double().softmax(dim=-1).detach().numpy()
    mapped = np.stack([np.interp(p[:, k], *KNOTS[k]) for k in range(2)], axis=1)
    expected = np.log(mapped / mapped.sum(axis=1, keepdims=True)) + np.array([0.1, -0.2])
    np.testing.assert_allclose(model(photos).logits.detach().numpy(), expected, atol=1e-6)
    applied = Calibration(
        "isotonic",
        np.ones(2),
        np.zeros(2),
        np.array([0.1, -0.2]),
        np.zeros(2),
        isotonic=tuple((np.array(x), np.array(y)) for x, y in KNOTS),
    )
    np.testing.assert_allclose(applied.served(before.detach().numpy()), expected, atol=1e-6)
    torch.testing.assert_close(model.train()(photos).logits, before + torch.tensor([0.1, -0.2]))
    model.eval().save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(photos).logits, model(photos).logits)
    assert (loaded.config.isotonic, loaded.config.decision) == (KNOTS, decision)
    loaded.set_calibration(1.0)
    assert (loaded.config.isotonic, loaded.config.decision) == (None, None)
    torch.testing.assert_close(loaded(photos).logits, before)
    with pytest.raises(ValueError, match="isotonic: expected 2 entries, one per class; found 1"):
        loaded.set_calibration(1.0, isotonic=KNOTS[:1])


def test_isotonic_knots_reach_the_head_that_an_adapter_trains(tiny_backbone, photos):
    peft_model = add_lora(build_model(str(tiny_backbone), NAMES)).eval()
    plain = peft_model.get_base_model()
    before = peft_model(pixel_values=photos).logits
    plain.set_calibration(1.0, isotonic=KNOTS)
    calibrated = peft_model(pixel_values=photos).logits
    assert not torch.allclose(calibrated, before)
    merged = merge_lora(peft_model)
    assert merged.config.isotonic == KNOTS
    torch.testing.assert_close(merged(photos).logits, calibrated)
