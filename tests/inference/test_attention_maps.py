"""Attention maps agree with what transformers returns for eager attention, and leave the model as it was."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

from natix_hf import load_model
from natix_hf.inference.attention_maps import attention_maps, heat_picture


@pytest.fixture(params=["probe", "lora"])
def model(request, tiny_backbone):
    made, _ = load_model(str(tiny_backbone), ["None", "Roadwork"], method=request.param, image_size=32)
    return made.eval()


def test_maps_are_the_class_token_s_attention_to_the_patches_in_the_last_block(model):
    pixels = torch.randn(3, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    maps = attention_maps(model, pixels)
    assert maps.shape == (3, 3, 4)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        last = model(pixel_values=pixels, output_attentions=True).attentions[-1]
    expected = last[:, :, 0, 5:].mean(dim=1)  # behind the class token and 4 registers
    np.testing.assert_allclose(maps.reshape(3, -1), expected.numpy(), atol=1e-6)
    assert (maps.reshape(3, -1).sum(axis=1) < 1).all()


def test_the_model_is_afterwards_what_it_was(model):
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = model(pixel_values=pixels).logits
        attention_maps(model, pixels)
        assert torch.equal(model(pixel_values=pixels).logits, before)
    for name, module in model.named_modules():
        if name.endswith(".attention"):
            assert module.config._attn_implementation == "sdpa"
            assert not module._forward_hooks


def test_a_saved_model_gives_the_maps_of_the_one_in_memory(tiny_backbone, tmp_path):
    model, _ = load_model(str(tiny_backbone), ["None", "Roadwork"], method="probe", image_size=32)
    model.eval().save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    np.testing.assert_allclose(attention_maps(loaded, pixels), attention_maps(model, pixels), atol=1e-6)


def test_a_picture_has_a_pixel_for_each_patch_and_is_clear_where_little_is_seen():
    attention = np.array([[0.0, 0.01], [0.02, 0.1]])
    picture = np.asarray(heat_picture(attention))
    assert picture.shape == (2, 2, 4)
    assert picture[0, 0, 3] == 0
    assert picture[1, 1, 3] == picture[..., 3].max() > 200
    assert np.asarray(heat_picture(np.zeros((2, 2))))[..., 3].max() == 0


def test_of_a_photo_with_tiles_the_whole_is_looked_at(tiny_backbone):
    tiled, _ = load_model(str(tiny_backbone), ["None", "Roadwork"], image_size=32, views="tiles")
    plain, _ = load_model(str(tiny_backbone), ["None", "Roadwork"], image_size=32)
    views = torch.randn(2, 10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = attention_maps(plain.eval(), views[:, 0])
    np.testing.assert_allclose(attention_maps(tiled.eval(), views), expected, atol=1e-6)
