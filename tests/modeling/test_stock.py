"""The stock class gives our model's logits, for every shape that it takes, and says what it cannot hold."""

from __future__ import annotations

import pytest
import torch
from transformers import DINOv3ViTConfig

from natix_hf.errors import UserError
from natix_hf.modeling.configuration_natix_dinov3 import NatixDinov3Config
from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification
from natix_hf.modeling.stock import architecture, stock_model

timm = pytest.importorskip("timm")

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32}
GATED = {"use_gated_mlp": True, "hidden_act": "silu"}


def classifier(
    pooling: str = "cls", calibration=((1.5, 0.8), (0.3, -0.2)), **shape
) -> NatixDinov3ForImageClassification:
    """A random model of which every weight matters to its logits."""
    backbone = DINOv3ViTConfig(**{**TINY, "num_register_tokens": 4, "pos_embed_rescale": None, **shape})
    config = NatixDinov3Config(backbone_config=backbone, pooling=pooling, id2label={0: "None", 1: "Roadwork"})
    model = NatixDinov3ForImageClassification(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.set_calibration([1.5, 0.8], [0.3, -0.2])
    return model


@pytest.mark.parametrize(
    ("pooling", "shape"),
    [
        ("cls", {}),
        ("mean", {}),
        ("cls", GATED),
        ("cls", {**GATED, "intermediate_size": 100}),  # a width that timm would round up
        ("mean", {"intermediate_size": 70, "num_register_tokens": 0}),
        ("cls", {"patch_size": 8, "rope_theta": 50.0}),
        ("cls", {"query_bias": False, "mlp_bias": False, "proj_bias": False}),
    ],
)
@torch.no_grad()
def test_logits_equal_those_of_our_class(pooling, shape):
    model = classifier(pooling, **shape)
    stock = stock_model(model)
    photos = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    expected = model(photos).logits
    assert expected.std() > 0.05
    torch.testing.assert_close(stock(photos).logits, expected, atol=2e-6, rtol=1e-5)
    assert stock.config.id2label == {0: "None", 1: "Roadwork"}


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((384, 12, 6, 1536, False), "vit_small_patch16_dinov3_qkvb"),
        ((384, 12, 6, 1536, True), "vit_small_plus_patch16_dinov3_qkvb"),
        ((768, 12, 12, 3072, False), "vit_base_patch16_dinov3_qkvb"),
        ((1024, 24, 16, 4096, False), "vit_large_patch16_dinov3_qkvb"),
        ((1280, 32, 20, 5120, True), "vit_huge_plus_patch16_dinov3_qkvb"),
    ],
)
def test_published_sizes_need_no_shape_arguments_for_timm(shape, name):
    hidden, layers, heads, width, gated = shape
    backbone = DINOv3ViTConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=width,
        num_register_tokens=4,
        **(GATED if gated else {}),
    )
    found, arguments = architecture(NatixDinov3Config(backbone_config=backbone))
    assert (found, arguments) == (name, {"global_pool": "token"})
    with torch.device("meta"):
        model = timm.create_model(found, num_classes=2)
        ours = NatixDinov3ForImageClassification(NatixDinov3Config(backbone_config=backbone))
    # timm has neither the mask token nor, as parameters, our temperature and bias.
    count = sum(p.numel() for name, p in ours.named_parameters() if not name.endswith("mask_token"))
    assert sum(p.numel() for p in model.parameters()) == count
    assert len(model.blocks) == layers
    assert model.blocks[0].attn.num_heads == heads


def test_a_model_that_stock_cannot_represent_is_refused_with_another_format():
    for config, reason in (
        ({"pooling": "cls_mean"}, "pooling cls_mean concatenates"),
        ({"feature_layers": 2}, "feature_layers 2 concatenates"),
        ({"head": "mlp"}, "head mlp has a hidden layer"),
        ({"head": "residual"}, "head residual has a hidden layer"),
        ({"isotonic": [[[0, 1], [0, 1]]] * 2}, "isotonic"),
    ):
        model = classifier()
        for name, value in config.items():
            setattr(model.config, name, value)
        with pytest.raises(UserError, match=f"{reason}.*--format merged"):
            stock_model(model)
    for shape, reason in (
        ({"hidden_act": "relu"}, "hidden_act relu"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps 1e-06"),
        ({"key_bias": True}, "biases on its keys"),
    ):
        with pytest.raises(UserError, match=reason):
            stock_model(classifier(**shape))
