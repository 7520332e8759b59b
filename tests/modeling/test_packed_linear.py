"""Packed linear layers give what torch's own give, gradients too, and leave a model as it was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import Linear, functional

from natix_hf.modeling import packed_linear
from natix_hf.modeling.packed_linear import pack, packed_linears, packing_line, times


def _there() -> bool:
    try:
        pack(torch.eye(4))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return True


pytestmark = pytest.mark.skipif(not _there(), reason="this build of torch has no packed products")


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(packed_linear, "worth_packing", lambda: True)


@pytest.fixture
def layer() -> Linear:
    torch.manual_seed(0)
    return Linear(160, 192).requires_grad_(False)


@pytest.fixture(scope="module")
def wide_backbone(tmp_path_factory) -> Path:
    """Two layers wide enough to be packed."""
    from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel

    folder = tmp_path_factory.mktemp("wide-backbone")
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    DINOv3ViTModel(DINOv3ViTConfig(**sizes, patch_size=16, image_size=32, layerscale_value=1.0)).save_pretrained(
        folder
    )
    DINOv3ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def packs(model: torch.nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


def test_a_packed_product_equals_torchs_product(layer):
    x = torch.randn(3, 7, 160)
    torch.testing.assert_close(times(x, pack(layer.weight), layer.bias), layer(x), rtol=1e-5, atol=1e-5)


def test_a_packed_layer_gives_the_same_output_and_gradient_and_is_restored(layer):
    x = torch.randn(5, 160, requires_grad=True)
    layer(x).square().sum().backward()
    expected, x.grad = x.grad, None
    with packed_linears(layer) as count:
        assert (count, packs(layer)) == (1, [""])
        found = layer(x)
        found.square().sum().backward()
        torch.testing.assert_close(layer(torch.zeros(0, 160)), torch.zeros(0, 192))
    torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, layer(x), rtol=1e-5, atol=1e-5)
    assert packs(layer) == []


def test_a_packed_product_can_be_differentiated_twice(layer):
    """As Sophia does: a curvature that came out as zero would not be noticed."""
    x = torch.randn(4, 160, requires_grad=True)

    def curvature() -> torch.Tensor:
        (first,) = torch.autograd.grad(layer(x).tanh().square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    expected = curvature()
    assert expected.abs().max() > 0.01
    with packed_linears(layer):
        torch.testing.assert_close(curvature(), expected, rtol=1e-3, atol=1e-4)


def test_a_trained_layer_keeps_its_gradient_and_is_packed_where_nothing_is_derived(layer):
    layer.requires_grad_(True)
    x = torch.randn(5, 160)
    with packed_linears(layer, frozen=True) as count:
        assert count == 0
    with packed_linears(layer):
        layer(x).sum().backward()
        torch.testing.assert_close(layer.weight.grad, x.sum(dim=0).expand(192, -1), rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            before, own = layer(x), functional.linear(x, layer.weight, layer.bias)
            torch.testing.assert_close(before, own, rtol=1e-5, atol=1e-5)
            assert vars(layer)["forward"].packed is not None
            layer.weight.mul_(2.0)
            layer.bias.mul_(2.0)
            torch.testing.assert_close(layer(x), 2 * own, rtol=1e-5, atol=1e-5)  # not the old weight


def test_other_precisions_are_not_packed(layer):
    x = torch.randn(5, 160)
    with packed_linears(layer):
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert vars(layer)["forward"].packed is None
    with packed_linears(Linear(160, 192, dtype=torch.bfloat16)) as count:
        assert count == 0
    with packed_linears(Linear(160, 16)) as count:  # an adapter's
        assert count == 0


def test_packing_blocks_can_be_nested_and_end_after_an_error(layer):
    def block() -> None:
        with packed_linears(layer):
            with packed_linears(layer) as count:
                assert count == 0
            assert packs(layer) == [""]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert packs(layer) == []


def test_nothing_is_packed_where_it_is_not_quicker_or_memory_is_short(layer, monkeypatch):
    monkeypatch.setattr(packed_linear, "_free_memory", lambda: 4 * 160 * 192)
    with packed_linears(layer) as count:
        assert count == 0
    monkeypatch.undo()
    monkeypatch.setattr(packed_linear, "worth_packing", lambda: False)
    with packed_linears(layer) as count:
        assert count == 0


def test_measuring_does_not_change_the_random_state(monkeypatch):
    monkeypatch.undo()
    before = torch.random.get_rng_state()
    packed_linear.packing.__wrapped__()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture
def measured_anew(monkeypatch):
    monkeypatch.undo()
    packed_linear.packing.cache_clear()
    yield
    packed_linear.packing.cache_clear()


@pytest.mark.parametrize("name", ["_reorder_linear_weight", "_linear_pointwise"])
def test_without_the_operators_nothing_is_packed_and_the_line_says_why(layer, monkeypatch, measured_anew, name):
    """Both names are private to torch: another release may lack them."""
    left = {one: getattr(torch.ops.mkldnn, one) for one in ("_reorder_linear_weight", "_linear_pointwise")}
    del left[name]
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**left))
    with packed_linears(layer) as count:
        assert count == 0
        x = torch.randn(5, 160)
        assert torch.equal(layer(x), functional.linear(x, layer.weight, layer.bias))
    assert packing_line(layer) == (
        f"linear layers are not packed: torch {torch.__version__} has no packed products for this processor"
    )


def test_nothing_is_packed_if_torch_does_not_count_changes_of_a_weight(layer, monkeypatch, measured_anew):
    """A weight that is changed within a block would go on being multiplied as it was packed."""

    def absent(weight: torch.Tensor) -> int:
        raise AttributeError("'Parameter' object has no attribute '_version'")

    monkeypatch.setattr(packed_linear, "_changes", absent)
    with packed_linears(layer) as count:
        assert count == 0
        layer(torch.randn(5, 160))
    told = f"torch {torch.__version__} does not count how often a weight is changed"
    assert packing_line(layer) == f"linear layers are not packed: {told}"


@pytest.mark.parametrize("words", ["packing", "memory packing", "all"])
def test_the_switch_turns_packing_off_and_the_line_says_so(layer, monkeypatch, measured_anew, words):
    monkeypatch.setenv("NATIX_HF_WITHOUT", words)
    with packed_linears(layer) as count:
        assert count == 0
    assert packing_line(layer) == "linear layers are not packed: NATIX_HF_WITHOUT leaves packing out"


@pytest.mark.parametrize(("own", "packed", "taken"), [(0.3, 0.2, True), (0.23, 0.2, False)])
def test_the_two_products_are_timed_in_turn_and_the_line_gives_the_ratio(
    layer, monkeypatch, measured_anew, own, packed, taken
):
    """On a busy machine each has slow rounds; the best of each counts."""
    slow = iter([4.0, 9.0, 1.0, 4.0] + [3.0] * 12)  # rounds 1 and 2 of both products, then the rest
    timed = []

    def seconds(product) -> float:
        timed.append(own if "weight" in product.__code__.co_freevars else packed)
        return timed[-1] * next(slow) if len(timed) < 15 else timed[-1]

    monkeypatch.setattr(packed_linear, "_seconds", seconds)
    assert packed_linear.worth_packing() is taken
    assert timed == [own, packed] * packed_linear.ROUNDS
    found = (
        "1.50 times as fast here as torch's own"
        if taken
        else "1.15 times as fast here as torch's own; expected at least 1.2"
    )
    assert found in packing_line(layer)


def test_the_line_says_how_many_layers_are_packed_or_why_none_is(layer, monkeypatch):
    monkeypatch.setattr(packed_linear, "packing", lambda: packed_linear.Packing(True, "it is faster"))
    model = torch.nn.Sequential(layer, Linear(192, 192))
    assert packing_line(model) == "linear layers are packed, 1 of 2 also in training: it is faster"
    assert packing_line(model, trained=False) == "linear layers are packed: it is faster"
    assert packing_line(model, whole=False).endswith("the model is compiled or sharded")
    monkeypatch.setattr(packed_linear, "_free_memory", lambda: 2e5)
    assert "packing needs 0.0 GB, more than a quarter of the free 0.0 GB" in packing_line(model)
    assert packing_line(Linear(160, 192, dtype=torch.bfloat16)) is None


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_learns_the_same(wide_backbone, checkpointing):
    from natix_hf import load_model

    pixels, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])

    def weights(quick: bool) -> dict[str, torch.Tensor]:
        model, _ = load_model(str(wide_backbone), ["None", "Roadwork"], method="lora", lora={"lora_dropout": 0.0})
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        if quick:
            with packed_linears(model, frozen=True) as count:
                assert count == 12  # two blocks of six
                steps(model, optimizer)
        else:
            steps(model, optimizer)
        assert packs(model) == []
        return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        torch.manual_seed(3)
        for _ in range(3):
            model(pixel_values=pixels, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    expected, found = weights(False), weights(True)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("method", ["lora", "full", "probe"])
def test_a_run_scores_the_weights_that_it_has(wide_backbone, photo_folder, tmp_path, monkeypatch, method):
    """Trained weights change between two evaluations: none may be scored with those of the last."""
    from natix_hf import NatixTrainer, NatixTrainingArguments, load_model, load_photos

    def run(quick: bool) -> tuple[list[float], list[float]]:
        monkeypatch.setattr(packed_linear, "worth_packing", lambda: quick)
        splits = load_photos(photo_folder)
        model, processor = load_model(str(wide_backbone), splits.label_names, method=method, lora={})
        args = NatixTrainingArguments(
            output_dir=str(tmp_path / f"{method}-{quick}"),
            num_train_epochs=3,
            per_device_train_batch_size=8,
            learning_rate={"full": 2e-5, "lora": 2e-4, "probe": 2e-3}[method],
            eval_strategy="epoch",
            save_strategy="epoch",
            disable_tqdm=True,
            report_to=[],
            dataloader_num_workers=0,
        )
        home = tmp_path / f"home-{quick}"
        trainer = NatixTrainer(model, args, splits=splits, processing_class=processor, cache_dir=home)
        trainer.train()
        assert packs(trainer.model) == []
        scored = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
        return scored, trainer.logits(splits.rows("policy", step="predictions", part="fit")).flatten().tolist()

    (expected, logits), (found, quick_logits) = run(False), run(True)
    print(expected, found)
    assert len(set(expected)) == 3
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert quick_logits == pytest.approx(logits, rel=1e-3, abs=1e-4)
