"""DoRAN: its closed form, where it starts, what is trained, and that everything written of it is DoRA."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora.layer import Linear as PeftLinear
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

from natix_hf.errors import UserError
from natix_hf.inference.load_model import load_model
from natix_hf.modeling.adapters import add_lora, load_adapter, merge_lora, save_adapter
from natix_hf.modeling.checkpoints import build_model
from natix_hf.modeling.doran import TAU, TRAINED, DoranLinear, row_norms

NAMES = ["None", "Roadwork"]
SHARES = ["none", "block"]


@pytest.fixture
def photos() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def layer(inputs: int = 12, outputs: int = 7, *, bias: bool = True, **options) -> DoranLinear:
    """A layer of rank 3 and scale 2 whose networks have been moved away from where they start."""
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=6, use_dora=True, **options)
    found = DoranLinear(nn.Linear(inputs, outputs, bias=bias), "default", config, r=3, lora_alpha=6)
    with torch.no_grad():
        for parameter in found.lora_doran.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return found


def closed_form(found: DoranLinear) -> Tensor:
    """`m V / (||V|| + tau)`, as the paper writes it."""
    networks = found.lora_doran["default"]
    a = networks.second_a @ torch.tanh(networks.first_a)
    b = networks.second_b @ torch.tanh(networks.first_b)
    v = found.base_layer.weight + 2 * b @ a
    return networks.magnitude[:, None] * v / (torch.linalg.norm(v, dim=1, keepdim=True) + networks.log_tau.exp())


def doran(backbone, share: str, **options) -> PeftModel:
    return add_lora(build_model(str(backbone), NAMES), lora_r=4, use_doran=True, doran_share=share, **options)


def trained(model: PeftModel, photos: Tensor, steps: int = 3) -> PeftModel:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    model.train()
    for _ in range(steps):
        model(pixel_values=photos, labels=torch.tensor([0, 1, 0])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_its_closed_form_and_so_are_its_gradients(bias):
    found, x = layer(bias=bias), torch.randn(5, 12)
    names = [name for name, _ in found.lora_doran.named_parameters()]
    parameters = list(found.lora_doran.parameters())
    expected = nn.functional.linear(x, closed_form(found), found.base_layer.bias)
    torch.testing.assert_close(found(x), expected, atol=2e-6, rtol=1e-5)
    gradients = (torch.autograd.grad(out.square().sum(), parameters) for out in (found(x), expected))
    for name, one, other in zip(names, *gradients):
        assert other.abs().max() > 1e-3, name
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4, msg=name)


def test_the_norms_of_rows_are_taken_without_the_matrix_and_a_row_of_zeros_has_no_gradient():
    torch.manual_seed(0)
    weight, a, b = torch.randn(6, 9), torch.randn(2, 9), torch.randn(6, 2)
    torch.testing.assert_close(row_norms(weight, a, b), torch.linalg.norm(weight + b @ a, dim=1))
    weight[3], b[3] = 0, 0
    b.requires_grad_()
    row_norms(weight, a, b).sum().backward()
    assert b.grad.isfinite().all()
    assert (b.grad[3] == 0).all()


def test_nothing_as_large_as_the_weight_is_kept_for_the_gradient_of_the_norms():
    weight, a, b = torch.randn(6, 9), torch.randn(2, 9, requires_grad=True), torch.randn(6, 2, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        row_norms(weight, a, b)
    assert kept
    assert all(tensor.data_ptr() == weight.data_ptr() or tensor.numel() < weight.numel() for tensor in kept)


def test_dropout_applies_only_to_the_input_of_the_adapter():
    found, x = layer(lora_dropout=0.5), torch.randn(4, 12)
    networks = found.lora_doran["default"]
    with torch.no_grad():
        networks.second_b.zero_()
    assert torch.equal(found.train()(x), found.eval()(x))
    with torch.no_grad():
        networks.second_b.fill_(1.0)
    assert not torch.equal(found.train()(x), found.eval()(x))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("init", ["default", "gaussian"])
def test_training_starts_from_the_outputs_without_adapters(share, init, tiny_backbone, photos):
    model = build_model(str(tiny_backbone), NAMES)
    before = model(photos).logits
    model = add_lora(model, use_doran=True, doran_share=share, lora_init=init, lora_r=4).eval()
    torch.testing.assert_close(model(pixel_values=photos).logits, before, atol=1e-6, rtol=0)
    for module in model.modules():
        if isinstance(module, DoranLinear):
            networks, norms = module.lora_doran["default"], module.base_layer.weight.norm(dim=1)
            tau = networks.log_tau.exp()
            torch.testing.assert_close(tau, TAU * norms.mean().reshape(1))
            torch.testing.assert_close(networks.magnitude, norms + tau)


@pytest.mark.parametrize("share", SHARES)
def test_only_trained_parameters_get_a_gradient(share, tiny_backbone, photos):
    model = trained(doran(tiny_backbone, share), photos)
    model(pixel_values=photos, labels=torch.tensor([0, 1, 0])).loss.backward()
    names = {name for name, p in model.named_parameters() if p.requires_grad and ".head." not in name}
    assert {name.rpartition(".")[2] for name in names} == {
        *("first_a", "second_a", "first_b", "second_b", "log_tau", "magnitude")
    }
    assert all(TRAINED in name for name in names)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert not parameter.requires_grad or parameter.grad.any(), name


def test_query_and_value_of_a_block_share_first_matrices_and_nothing_else(tiny_backbone):
    model = add_lora(build_model(str(tiny_backbone), NAMES), lora_r=4, use_doran=True, doran_share="block")
    networks = {name: m.lora_doran["default"] for name, m in model.named_modules() if isinstance(m, DoranLinear)}
    for part in ("first_a", "first_b", "second_a", "second_b", "log_tau", "magnitude"):
        owners: dict[int, set[str]] = {}
        for name, one in networks.items():
            owners.setdefault(id(getattr(one, part)), set()).add(".".join(name.split(".")[-3:]))
        together = [names for names in owners.values() if len(names) > 1]
        shared = [{f"{n}.attention.{p}_proj" for p in "qv"} for n in (0, 1)] if part.startswith("first") else []
        assert together == shared, part


# -- what is written --------------------------------------------------------------------------------------------------


PLAIN_PEFT = """
import json, sys, torch
from peft import PeftModel
from transformers import DINOv3ViTModel
backbone, *adapters = sys.argv[1:]

class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = DINOv3ViTModel.from_pretrained(backbone, dtype=torch.float32)

photos = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
for adapter in adapters:
    loaded = PeftModel.from_pretrained(Classifier(), adapter, config=None)
    kinds = {type(m).__module__ for m in loaded.modules() if hasattr(m, "lora_A")}
    assert kinds == {"peft.tuners.lora.layer"}, kinds
    with torch.no_grad():
        states = loaded.eval().base_model.model.backbone(photos).last_hidden_state
    torch.save(states, adapter + "/states")
assert "natix_hf" not in sys.modules
"""


def test_plain_peft_loads_it_as_dora_without_this_package(tiny_backbone, photos, tmp_path):
    """Also the adapter of a training checkpoint, which holds the networks beside DoRA's tensors."""
    expected = {}
    for share in SHARES:
        model = trained(doran(tiny_backbone, share, use_rslora=True), photos)
        with torch.no_grad():
            states = model.get_base_model().backbone(photos).last_hidden_state
        for which, save in {"shipped": save_adapter, "checkpoint": PeftModel.save_pretrained}.items():
            folder = tmp_path / f"{which}-{share}"
            save(model, folder)
            written = load_file(folder / "adapter_model.safetensors")
            assert any(TRAINED in name for name in written) == (which == "checkpoint")
            about = folder / "adapter_config.json"
            settings = json.loads(about.read_text())
            assert settings["use_dora"] is True
            about.write_text(json.dumps(settings | {"modules_to_save": None}))  # the head is of our class
            expected[folder] = states
    subprocess.run([sys.executable, "-c", PLAIN_PEFT, tiny_backbone, *expected], check=True)
    for folder, states in expected.items():
        torch.testing.assert_close(torch.load(folder / "states"), states, atol=3e-6, rtol=0)


@pytest.mark.parametrize("kind", ["use_dora", "use_doran"])
def test_transformers_is_kept_from_loading_it_without_its_magnitudes(kind, tiny_backbone, photos, tmp_path):
    """What transformers 5 itself makes of a DoRA adapter has other logits, and only a table of names says so."""
    base = build_model(str(tiny_backbone), NAMES)
    base.save_pretrained(tmp_path / "base")
    model = trained(add_lora(build_model(str(tmp_path / "base"), NAMES), lora_r=4, **{kind: True}), photos)
    model.save_pretrained(tmp_path / "adapter")
    for load in (AutoModelForImageClassification.from_pretrained, base.load_adapter):
        with pytest.raises(ValueError, match=r"peft\.PeftModel\.from_pretrained"):
            load(str(tmp_path / "adapter"))
    by_peft = PeftModel.from_pretrained(build_model(str(tmp_path / "base"), NAMES), tmp_path / "adapter")
    expected = model(pixel_values=photos).logits
    torch.testing.assert_close(by_peft.eval()(pixel_values=photos).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", SHARES)
def test_a_training_checkpoint_gives_the_networks_back_bit_by_bit(share, tiny_backbone, photos, tmp_path):
    model = trained(doran(tiny_backbone, share), photos)
    model.save_pretrained(tmp_path)
    other = trained(doran(tiny_backbone, share), photos, steps=1)
    other.load_adapter(tmp_path, "default", is_trainable=True)
    ours = dict(model.named_parameters())
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, ours[name]), name
        assert parameter.requires_grad == ours[name].requires_grad, name
    assert torch.equal(other(pixel_values=photos).logits, model(pixel_values=photos).logits)


def test_an_adapter_without_networks_is_not_dropped_silently(tiny_backbone, photos, tmp_path):
    save_adapter(trained(doran(tiny_backbone, "none"), photos), tmp_path)
    with pytest.raises(UserError, match="no networks of DoRAN") as caught:
        doran(tiny_backbone, "none").load_adapter(tmp_path, "default")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", SHARES)
def test_merged_shipped_and_trained_give_the_same_logits(share, tiny_backbone, photos, tmp_path):
    model = trained(doran(tiny_backbone, share, lora_train_norms=True), photos)
    after = model(pixel_values=photos).logits
    save_adapter(model, tmp_path / "adapter")
    shipped = load_adapter(build_model(str(tiny_backbone), NAMES), tmp_path / "adapter")
    torch.testing.assert_close(shipped(pixel_values=photos).logits, after, atol=1e-5, rtol=0)
    merged = merge_lora(model)
    torch.testing.assert_close(merged(photos).logits, after, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="applied twice"):
        PeftModel.from_pretrained(merged, tmp_path / "adapter")


def test_safe_merging_can_be_undone(photos):
    found, x = layer(), torch.randn(5, 12)
    before, expected = found(x), closed_form(found)
    found.merge(safe_merge=True)
    torch.testing.assert_close(PeftLinear.forward(found, x), before, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(found.base_layer.weight, expected, atol=2e-6, rtol=1e-5)
    found.unmerge()
    torch.testing.assert_close(found(x), before, atol=5e-6, rtol=1e-5)


def test_activation_checkpointing_gives_the_same_gradients(tiny_backbone, photos):
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = trained(doran(tiny_backbone, "block"), photos).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(pixel_values=photos, labels=torch.tensor([0, 1, 0])).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    plain, checkpointed = gradients(False), gradients(True)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_doran": True, "use_dora": True}, "two kinds of adapters"),
        ({"use_doran": True, "lora_init": "pissa"}, "the networks of DoRAN start from default or gaussian"),
        ({"use_doran": True, "lora_init": "olora"}, "lora_init: olora given"),
        ({"use_doran": True, "lora_init": "orthogonal"}, "--use_doran false"),
        ({"doran_share": "block"}, "--use_doran true"),
        ({"use_doran": True, "doran_share": "layer"}, "expected none or block"),
        ({"use_doran": True, "doran_share": "block", "lora_target_modules": ["q_proj"]}, "does not name both"),
        ({"use_doran": True, "doran_share": "block", "lora_target_modules": ["up_proj"]}, "--doran_share none"),
    ],
)
def test_impossible_options_are_one_line(options, message, tiny_backbone):
    with pytest.raises(UserError, match=message) as caught:
        add_lora(build_model(str(tiny_backbone), NAMES), **options)
    assert "\n" not in str(caught.value)


def test_a_method_without_adapters_refuses_it(tiny_backbone):
    with pytest.raises(UserError, match="use_doran is for adapters"):
        load_model(str(tiny_backbone), NAMES, image_size=32, method="full", lora={"use_doran": True})
