"""The head of a model that sees tiles: the aggregate against values worked out by hand, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import natix_hf  # noqa: F401  (registers the model)
from natix_hf.errors import UserError
from natix_hf.modeling.adapters import add_lora, merge_lora
from natix_hf.modeling.checkpoints import build_model
from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification, NatixDinov3TileHead

NAMES = ["None", "Roadwork", "Closed"]


def views(aggregate: str = "top_k", top_k: int = 2, tiles: int = 4) -> dict:
    return {"tiles": tiles, "aggregate": aggregate, "top_k": top_k}


@pytest.fixture
def photos() -> Tensor:
    return torch.randn(3, 5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def tiled(tiny_backbone):
    return lambda **options: build_model(str(tiny_backbone), NAMES, views=views(**options))


def test_top_k_is_taken_class_by_class_of_tile_logits_worked_out_by_hand(tiled):
    """The linear layer copies the first three features, so a tile's features are its logits."""
    for aggregate, expected in (("top_k", [4.5, 2.5, 0.0]), ("mean", [2.75, 0.25, 0.0])):
        head = tiled(aggregate=aggregate).head.tiles
        with torch.no_grad():
            head.linear.weight.copy_(torch.eye(3, 32))
            head.linear.bias.zero_()
        features = torch.zeros(1, 4, 32)
        features[0, :, 0] = torch.tensor([1.0, 5.0, 4.0, 1.0])  # the largest two: tiles 1 and 2
        features[0, :, 1] = torch.tensor([3.0, -2.0, -2.0, 2.0])  # of the second class: tiles 0 and 3
        assert head(features)[0].tolist() == pytest.approx(expected)


def test_attention_is_the_gated_attention_of_the_paper(tiled):
    head = tiled(aggregate="attention").head.tiles
    features = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0))
    v, u, w = (layer.weight.detach() for layer in (head.value, head.gate, head.score))
    for bag, found in zip(features, head(features), strict=True):
        scores = [float(w @ (torch.tanh(v @ h) * torch.sigmoid(u @ h))) for h in bag]  # biases start at zero
        pooled = sum(a * h for a, h in zip(torch.tensor(scores).softmax(0), bag, strict=True))
        torch.testing.assert_close(found, head.linear(pooled))


@pytest.mark.parametrize("aggregate", ["top_k", "mean", "attention"])
def test_the_logits_are_those_of_whole_and_tiles_calibrated_once(aggregate, tiled, photos):
    model = tiled(aggregate=aggregate)
    plain = model(photos, output_whole_logits=True, output_features=True)
    assert plain.features.shape == (3, 5, 32)
    for view in range(5):
        outputs = model.backbone(photos[:, view])
        torch.testing.assert_close(plain.features[:, view], outputs.pooler_output)
    whole = model.head.linear(plain.features[:, 0])
    torch.testing.assert_close(plain.whole_logits, whole)
    torch.testing.assert_close(plain.logits, whole + model.head.tiles(plain.features[:, 1:]))
    model.set_calibration(2.0, [0.5, 0.0, -0.5])
    found = model(photos, output_whole_logits=True)
    torch.testing.assert_close(found.logits, plain.logits / 2 + torch.tensor([0.5, 0.0, -0.5]))
    assert torch.equal(found.whole_logits, plain.whole_logits)
    assert torch.equal(model(features=plain.features).logits, found.logits)


def test_the_whole_photo_alone_can_be_asked_before_its_tiles_are_made(tiled, photos):
    model = tiled()
    first = model.head(model.extract_features(photos[:, :1]), whole_alone=True)
    torch.testing.assert_close(first, model(photos, output_whole_logits=True).whole_logits)


def test_both_heads_are_trained_on_the_sum_and_start_as_the_seed_says(tiled, photos):
    model, again = tiled(), tiled()
    for name, parameter in model.head.named_parameters():
        assert torch.equal(parameter, dict(again.head.named_parameters())[name])
    model.train()
    model(photos, labels=torch.tensor([0, 1, 2])).loss.backward()
    assert all(bool(parameter.grad.any()) for parameter in model.head.parameters())
    # Some of a photo's tiles are enough for a step of training, and for nothing else.
    assert model(photos[:, :3]).logits.shape == (3, 3)


def test_a_checkpoint_keeps_its_tiles_and_one_without_keeps_its_file(tiled, photos, tiny_backbone, tmp_path):
    model = tiled(aggregate="attention")
    model.set_calibration(1.5, [0.25, 0.0, -0.25])
    model.save_pretrained(tmp_path / "tiled")
    loaded = NatixDinov3ForImageClassification.from_pretrained(tmp_path / "tiled")
    assert isinstance(loaded.head.tiles, NatixDinov3TileHead)
    assert torch.equal(loaded(photos).logits, model(photos).logits)
    assert '"views"' in (tmp_path / "tiled" / "config.json").read_text()
    build_model(str(tiny_backbone), NAMES).save_pretrained(tmp_path / "plain")
    assert '"views"' not in (tmp_path / "plain" / "config.json").read_text()


def test_lora_keeps_both_heads_through_save_and_merge(tiled, photos):
    wrapped = add_lora(tiled(), lora_r=2, lora_dropout=0.0)
    trained = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    assert any(name.endswith("head.modules_to_save.default.tiles.linear.weight") for name in trained)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    expected = wrapped.eval()(pixel_values=photos).logits
    torch.testing.assert_close(merge_lora(wrapped)(photos).logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("tiles", "shape", "told"),
    [
        (
            False,
            (2, 5, 3, 32, 32),
            r"\(batch, 3, H, W\), found \(2, 5, .*\), because this model was not trained for tiles",
        ),
        (True, (2, 3, 32, 32), r"pixel_values: expected shape \(batch, 5, 3, H, W\), a photo and its 4 tiles; found"),
        (True, (2, 4, 3, 32, 32), r"found \(2, 4, 3, 32, 32\): prepare photos with the model's own image"),
    ],
)
def test_other_views_than_it_was_trained_for_are_refused(tiles, shape, told, tiled, tiny_backbone):
    model = tiled() if tiles else build_model(str(tiny_backbone), NAMES)
    with pytest.raises(ValueError, match=told):
        model(torch.zeros(shape))


def test_top_k_above_the_number_of_tiles_is_refused(tiled):
    with pytest.raises(UserError, match="views: top_k: expected 1 to 4, the tiles; found 5"):
        tiled(top_k=5)
    with pytest.raises(UserError, match="views: aggregate: expected one of top_k, mean, attention; found 'max'"):
        tiled(aggregate="max")


def test_a_run_can_only_be_continued_with_its_own_views(tiled, tiny_backbone, tmp_path):
    tiled().save_pretrained(tmp_path)
    build_model(str(tmp_path), NAMES, views=views())
    with pytest.raises(UserError, match=r"trained on the whole photo and 4 tiles \(top 2\), the recipe asks"):
        build_model(str(tmp_path), NAMES)
    with pytest.raises(UserError, match=r"asks for the whole photo and 4 tiles \(mean\): set views, views_grid"):
        build_model(str(tmp_path), NAMES, views=views("mean"))
