"""timm's DINOv3 checkpoints: same features as timm computes, whatever their layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from natix_hf.errors import UserError
from natix_hf.modeling.checkpoints import build_model, load_backbone, load_processor
from natix_hf.photos.geometry import Squash

timm = pytest.importorskip("timm")

SMALL = {"embed_dim": 128, "depth": 2, "num_heads": 2}
HUGE = {"embed_dim": 320, "depth": 3, "num_heads": 5}


def save_timm(folder: Path, architecture: str, shape: dict, classes: int = 0, **options) -> nn.Module:
    """A random timm model of the architecture, saved in timm's own layout; every weight matters to its features."""
    model = timm.create_model(architecture, num_classes=classes, **shape, **options).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    timm.models.save_for_hf(model, str(folder), model_args={**shape, **options}, safe_serialization=True)
    return model


@pytest.mark.parametrize(
    ("architecture", "shape", "options"),
    [
        ("vit_small_patch16_dinov3", SMALL, {}),
        ("vit_small_patch16_dinov3_qkvb", SMALL, {}),
        ("vit_small_patch16_dinov3_qkvb", SMALL, {"qkv_fused": False}),
        ("vit_small_plus_patch16_dinov3", SMALL, {}),
        ("vit_small_plus_patch16_dinov3_qkvb", SMALL, {}),
        ("vit_huge_plus_patch16_dinov3", HUGE, {}),
        ("vit_huge_plus_patch16_dinov3_qkvb", HUGE, {}),
    ],
)
def test_features_equal_timm(architecture, shape, options, tmp_path):
    model = save_timm(tmp_path, architecture, shape, **options)
    backbone = load_backbone(str(tmp_path))
    for height, width in ((64, 64), (96, 160)):
        photos = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            expected = model.forward_features(photos)  # (batch, 1 + registers + patches, hidden), normed
            found = backbone(photos).last_hidden_state
        assert expected.abs().mean() > 1e-2
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_the_published_shapes_need_no_model_arguments(tmp_path):
    model = timm.create_model("vit_small_plus_patch16_dinov3", num_classes=0).eval()
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
    config = load_backbone(str(tmp_path)).config
    assert (config.num_attention_heads, config.num_hidden_layers, config.num_register_tokens) == (6, 12, 4)
    assert (config.intermediate_size, config.use_gated_mlp, config.hidden_act) == (1536, True, "silu")


def test_a_timm_classifier_gives_its_backbone_and_normalisation(tmp_path):
    save_timm(tmp_path, "vit_small_patch16_dinov3", SMALL, classes=3)
    model = build_model(str(tmp_path), ["None", "Roadwork"])
    assert model(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 2)
    processor = load_processor(str(tmp_path), Squash(64))
    assert list(processor.image_mean) == [0.485, 0.456, 0.406]
    assert list(processor.image_std) == [0.229, 0.224, 0.225]


def test_a_tensor_that_timm_has_and_dinov3_lacks_is_named(tmp_path):
    save_timm(tmp_path, "vit_small_patch16_dinov3", SMALL, use_abs_pos_emb=True)
    with pytest.raises(UserError, match=r"1 unexpected \(pos_embed\)"):
        load_backbone(str(tmp_path))
