"""A geometry matches transformers' image processor: pixels, sizes, and the part of the photo that they show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DINOv3ViTImageProcessor

from natix_hf.errors import UserError
from natix_hf.photos.geometry import GEOMETRIES, Crop, Geometry, Squash, Tiles, geometry_of, image_size_of

SIZES = [(97, 61), (20, 300), (1, 1), (32, 32), (33, 32), (32, 35), (34, 101), (101, 34), (640, 359)]


@pytest.fixture(params=GEOMETRIES)
def kind(request) -> type[Geometry]:
    return GEOMETRIES[request.param]


def processor_of(geometry: Geometry) -> DINOv3ViTImageProcessor:
    return DINOv3ViTImageProcessor(**geometry.processor_settings())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "geometry", [Squash(32), Squash(37), Crop(32), Crop(37), Squash(32, 48), Squash(48, 16)], ids=str
)
def test_the_view_is_the_processors_photo_before_it_is_normalised(geometry, size):
    width, height = size
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8))
    expected = processor_of(geometry)(pixels, return_tensors="pt", do_normalize=False)["pixel_values"] * 255
    found = geometry.whole_view(pixels)
    assert found.dtype == torch.uint8
    assert (1, *found.shape) == geometry.shape == tuple(expected.shape)
    assert (found.float() - expected[0]).abs().max() <= 1.01  # eight bits, rounded twice, against floats


@pytest.mark.parametrize("size", [(16,), (224,), (518,), (256, 448), (448, 256)])
def test_a_processor_gives_back_the_geometry_that_it_was_made_with_also_when_it_was_saved(kind, size, tmp_path):
    if kind is Crop and len(size) > 1:
        pytest.skip("a crop is square")
    processor = processor_of(kind(*size))
    assert Geometry.of(processor) == kind(*size)
    processor.save_pretrained(tmp_path)
    assert Geometry.of(DINOv3ViTImageProcessor.from_pretrained(tmp_path)) == kind(*size)
    assert GEOMETRIES[Geometry.of(processor).kind] is kind


def test_cache_keys_hold_the_geometry_since_no_two_processors_save_the_same():
    saved = [processor_of(kind(side)).to_dict() for kind in GEOMETRIES.values() for side in (32, 48)]
    assert all(first != second for i, first in enumerate(saved) for second in saved[:i])
    assert Squash(32) != Crop(32)


def test_what_a_client_is_given_has_not_changed():
    square = {"height": 224, "width": 224}
    assert Squash(224).processor_settings() == {"size": square, "do_center_crop": False, "crop_size": None}
    crop = {"size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": square}
    assert Crop(224).processor_settings() == crop


def test_tokens_are_patches_and_what_stands_beside_them(kind):
    assert kind(224).tokens(16) == 196
    assert kind(224).tokens(16, beside=5) == 201
    assert Squash(256, 448).tokens(16, beside=5) == 16 * 28 + 5
    kind(224).check_patches(16)
    with pytest.raises(UserError, match="image_size 450: expected a multiple of the checkpoint's patch size 16"):
        Squash(256, 450).check_patches(16)
    for side in (8, 40):
        with pytest.raises(
            UserError, match=f"image_size {side}: expected a multiple of the checkpoint's patch size 16"
        ):
            kind(side).check_patches(16)


@pytest.mark.parametrize(("width", "height"), [(64, 48), (48, 64), (320, 100), (32, 32)])
def test_what_stands_at_a_place_of_the_view_stands_there_in_the_photo(kind, width, height):
    """The photo is a ramp from left to right and from top to bottom, so each pixel value gives its position."""
    across, down = (np.arange(n) + 0.5 for n in (width, height))
    ramps = np.stack([*np.meshgrid(255 * across / width, 255 * down / height), np.zeros((height, width))])
    view = kind(32).whole_view(torch.from_numpy(ramps.round().astype(np.uint8))).numpy() / 255
    left, top, wide, high = kind(32).box(width, height)
    places = (np.arange(32) + 0.5) / 32
    inside = slice(2, -2)  # where resizing is not affected by the edges
    np.testing.assert_allclose(view[0, 5, inside], (left + wide * places)[inside], atol=0.012)
    np.testing.assert_allclose(view[1, inside, 5], (top + high * places)[inside], atol=0.012)


def test_the_box_is_the_part_of_the_photo_that_the_processor_keeps():
    processor = processor_of(Crop(32))
    left, top, width, height = Geometry.of(processor).box(64, 48)
    # A photo that is white inside the box and black elsewhere becomes a white view.
    photo = np.zeros((48, 64, 3), np.uint8)
    rows = slice(round(top * 48), round((top + height) * 48))
    photo[rows, round(left * 64) : round((left + width) * 64)] = 255
    pixels = processor(images=photo, return_tensors="pt", do_normalize=False)["pixel_values"][0]
    assert pixels[:, :, 2:-2].min() > 0.99
    photo[:, round(left * 64) + 3] = 0  # and a dark line inside the box appears at the left edge
    assert processor(images=photo, return_tensors="pt", do_normalize=False)["pixel_values"][0][:, :, :4].min() < 0.5


def test_boxes_and_crop_limits_of_a_wide_photo():
    assert Squash(32).box(64, 48) == (0, 0, 1, 1)
    assert Crop(32).box(64, 48) == (0.125, 0, 0.75, 1)
    assert Squash(32).crop_limits(64, 48) == (1, 1)
    assert Crop(32).crop_limits(64, 48) == (0.75, 0.75)


@pytest.mark.parametrize(("width", "height"), [(64, 48), (48, 64), (320, 100)])
def test_the_largest_crop_that_training_may_take_is_as_large_and_shaped_as_what_is_scored(kind, width, height):
    _, _, wide, high = kind(32).box(width, height)
    aspect, most = kind(32).crop_limits(width, height)
    assert (aspect, most) == pytest.approx((wide / high, wide * high))


def test_the_default_side_of_copies_enlarges_no_crop_of_basic(kind):
    for side in (32, 224, 256, 448, 518):
        copy = kind(side).copy_side()
        assert copy % 16 == 0
        assert 1.75 * side <= copy < 1.75 * side + 16
        assert copy * np.sqrt(0.75 * 0.85) > side
    assert kind(224).copy_side() == 400
    assert kind(224).copy_side(256) == 256
    with pytest.raises(UserError, match="decode_copy_side: expected at least the image_size of 224, found 200"):
        kind(224).copy_side(200)


def test_another_size_keeps_the_kind_and_the_tiles():
    assert Squash(32, 48).at(64) == Squash(64, 64)
    assert Squash(32).at([64, 96]) == Squash(64, 96)
    assert Crop(32).at([64]) == Crop(64)
    assert Tiles(32, 48, (2, 3), 0.1).at([64, 96]) == Tiles(64, 96, (2, 3), 0.1)


def test_one_number_is_a_square_and_two_are_height_and_width():
    assert geometry_of("squash", 224) == Squash(224) == Squash(224, 224) == geometry_of("squash", [224])
    assert geometry_of("squash", [256, 448]) == Squash(256, 448)
    assert (Squash(224).image_size, Squash(256, 448).image_size) == (224, [256, 448])
    assert Squash(256, 448).copy_side() == Squash(256).copy_side()


def test_a_crop_that_is_no_square_is_refused_with_the_way_out():
    with pytest.raises(UserError, match="resize: crop keeps a square, but image_size is 256 448: use --resize squash"):
        geometry_of("crop", [256, 448])


@pytest.mark.parametrize("numbers", [[0], [-32], [32, 0], [-32, 64], [32, 64, 3]])
def test_sizes_that_are_no_rectangle_are_refused(numbers):
    found = " ".join(map(str, numbers))
    with pytest.raises(UserError, match=rf"image_size: expected one number .* or height and width, found {found}$"):
        image_size_of(numbers)


def test_a_square_has_one_number():
    assert image_size_of([224]) == image_size_of([224, 224]) == 224
    assert image_size_of([256, 448]) == [256, 448]
