"""Training views: pure functions of (seed, epoch, row id), and `none` is what the image processor does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DINOv3ViTImageProcessor

from natix_hf.data.augment import training_view
from natix_hf.errors import UserError


def photo(width: int = 97, height: int = 61) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def view(image: Image.Image, **changes) -> torch.Tensor:
    options = {"augment": "basic", "image_size": 32, "seed": 0, "epoch": 0, "row_id": "a.jpg"}
    return training_view(image, **(options | changes))


@pytest.mark.parametrize("size", [(97, 61), (20, 300), (1, 1), (32, 32)])
def test_without_augmentation_a_view_is_the_processors_photo(size):
    image = photo(*size)
    processor = DINOv3ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False)
    expected = processor(image, return_tensors="pt")["pixel_values"][0] * 255
    found = view(image, augment="none")
    assert found.dtype == torch.uint8
    assert found.shape == (3, 32, 32)
    assert (found.float() - expected).abs().max() <= 1


def test_a_view_depends_on_seed_epoch_and_row_alone():
    image = photo()
    first = view(image)
    torch.rand(7)
    assert torch.equal(first, view(image))
    for change in ({"seed": 1}, {"epoch": 1}, {"row_id": "b.jpg"}):
        assert not torch.equal(first, view(image, **change))


def test_a_view_leaves_the_global_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    view(photo())
    assert torch.equal(torch.rand(4), expected)


def test_basic_views_mirror_half_of_the_time_and_crop():
    # A left-to-right ramp: a mirrored view falls from left to right, a crop spans less than the whole ramp.
    image = Image.fromarray(np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2))
    views = torch.stack([view(image, row_id=str(i))[0].float() for i in range(400)])
    slope = views[:, :, -1].mean(1) - views[:, :, 0].mean(1)
    mirrored = (slope < 0).float().mean()
    assert abs(mirrored - 0.5) < 0.1  # four standard errors
    assert slope.abs().max() <= 255
    assert slope.abs().min() < 200


def test_an_unknown_augmentation_is_named_with_the_choices():
    with pytest.raises(UserError, match="none, basic"):
        view(photo(), augment="strong")


def test_basic_shows_most_of_a_wide_photo_and_squashes_it_as_scoring_does():
    """The usual crops of 3:4 to 4:3 would cut the sides off every view of a 16:9 photo."""
    across, down = np.meshgrid(np.linspace(0, 255, 320), np.linspace(0, 255, 180))
    photo = Image.fromarray(np.stack([across, down, 0 * down], axis=2).astype(np.uint8))
    for epoch in range(40):
        view = training_view(photo, augment="basic", image_size=64, seed=0, epoch=epoch, row_id="a").float() / 255
        width, height = (float(channel.max() - channel.min()) for channel in view[:2])
        assert 0.70 <= width * height <= 1.0
        assert 0.8 <= width / height <= 1.25
