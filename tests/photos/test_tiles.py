"""Tiles: where they lie, that the travelling image processor cuts the same ones, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, DINOv3ViTImageProcessor

import natix_hf  # noqa: F401  (registers the image processor)
from natix_hf.errors import UserError
from natix_hf.modeling.image_processing_natix_dinov3 import NatixDinov3ImageProcessor
from natix_hf.modeling.image_processing_natix_dinov3 import tile_boxes as travelling_boxes
from natix_hf.photos.geometry import Geometry, Squash, Tiles, geometry_of, tile_boxes

# Wide, 10:1 both ways, portraits, smaller than a tile, a single pixel, odd lengths.
SIZES = [(96, 54), (320, 32), (32, 320), (61, 97), (20, 9), (1, 1), (2, 3), (101, 101)]
TILES = [Tiles(32, 32), Tiles(32, 48, (2, 4), 0.0), Tiles(16, 16, (1, 3), 0.5), Tiles(32, grid=(2, 2), overlap=0.2)]


def photo(width: int, height: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8))


def test_boxes_worked_out_by_hand():
    # A side of 260 px holds 3 tiles of 100 that share 20: 3 * 100 - 2 * 20. One of 180 holds 2 of 100.
    across = [(0, 100), (80, 100), (160, 100)]
    assert tile_boxes(260, 180, (2, 3), 0.2) == [(left, top, wide, 100) for top in (0, 80) for left, wide in across]
    assert tile_boxes(100, 40, (1, 2), 0.0) == [(0, 0, 50, 40), (50, 0, 50, 40)]
    # 7 px in 3 without overlap: tiles of round(7 / 3) = 2 px, spread over the 5 px that are left.
    assert tile_boxes(7, 7, (1, 3), 0.0) == [(0, 0, 2, 7), (3, 0, 2, 7), (5, 0, 2, 7)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tiles", TILES, ids=str)
def test_tiles_are_of_one_size_and_reach_every_edge(tiles, size):
    width, height = size
    boxes = tile_boxes(width, height, tiles.grid, tiles.overlap)
    assert len(boxes) == tiles.tiles == tiles.shape[0] - 1
    assert {box[2:] for box in boxes} == {boxes[0][2:]}
    assert all(left >= 0 and top >= 0 and left + w <= width and top + h <= height for left, top, w, h in boxes)
    assert boxes[0][:2] == (0, 0)
    assert (boxes[-1][0] + boxes[-1][2], boxes[-1][1] + boxes[-1][3]) == size
    assert travelling_boxes(width, height, tiles.grid, tiles.overlap) == boxes


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tiles", TILES, ids=str)
def test_the_views_are_the_processors_before_they_are_normalised(tiles, size):
    pixels = photo(*size)
    processor = NatixDinov3ImageProcessor(**tiles.processor_settings())
    expected = processor(pixels, return_tensors="pt", do_normalize=False)["pixel_values"] * 255
    found = tiles.pixel_values(pixels)
    assert found.dtype == torch.uint8
    assert (1, *tiles.input_shape) == (1, *found.shape) == tuple(expected.shape)
    assert (found.float() - expected[0]).abs().max() <= 1.01  # eight bits, rounded twice, against floats


def test_each_view_is_what_the_stock_processor_makes_of_that_part_of_the_photo():
    pixels, tiles = photo(96, 54), Tiles(32, 48, (2, 3), 0.25)
    stock = DINOv3ViTImageProcessor(**Squash(32, 48).processor_settings())
    found = NatixDinov3ImageProcessor(**tiles.processor_settings())([pixels, photo(30, 80)], return_tensors="pt")
    assert found["pixel_values"].shape == (2, 7, 3, 32, 48)
    parts = [pixels, *(pixels[:, t : t + h, left : left + w] for left, t, w, h in tile_boxes(96, 54, (2, 3), 0.25))]
    for view, part in zip(found["pixel_values"][0], parts, strict=True):
        assert torch.equal(view, stock(part, return_tensors="pt")["pixel_values"][0])


def test_the_box_of_a_photo_with_tiles_is_that_of_its_whole_view():
    assert Tiles(32).box(260, 180) == (0, 0, 1, 1)


def test_some_tiles_alone_are_those_of_all_tiles():
    pixels, tiles = photo(96, 54), Tiles(32)
    assert torch.equal(tiles.pixel_values(pixels, [7, 2]), tiles.pixel_values(pixels)[[0, 8, 3]])


@pytest.mark.parametrize("tiles", TILES, ids=str)
def test_a_saved_processor_gives_back_its_class_and_geometry(tiles, tmp_path):
    processor = NatixDinov3ImageProcessor(**tiles.processor_settings())
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is NatixDinov3ImageProcessor
    assert Geometry.of(loaded) == Geometry.of(processor) == tiles
    assert loaded.to_dict() == processor.to_dict()
    assert (tmp_path / "image_processing_natix_dinov3.py").is_file()
    image = Image.fromarray(photo(96, 54).permute(1, 2, 0).numpy())
    assert torch.equal(*(one(image, return_tensors="pt")["pixel_values"] for one in (loaded, processor)))


def test_no_two_tilings_have_one_cache_key():
    saved = [NatixDinov3ImageProcessor(**tiles.processor_settings()).to_dict() for tiles in TILES]
    saved.append(DINOv3ViTImageProcessor(**Squash(32).processor_settings()).to_dict())
    assert all(one != other for i, one in enumerate(saved) for other in saved[:i])


def test_tokens_and_the_side_of_copies_count_all_tiles():
    tiles = Tiles(224)
    assert tiles.tokens(16, beside=5) == 10 * 201
    assert tiles.canvas == (582, 582)  # 3 tiles of 224 less two overlaps of a fifth
    assert tiles.copy_side() == 1024 == -(-1.75 * 582 // 16) * 16
    assert str(tiles) == "224 x 224 px, whole and 3 x 3 tiles"


def test_a_recipe_asks_for_tiles_by_one_number_or_two():
    assert geometry_of("squash", 224, views="tiles") == Tiles(224, 224, (3, 3), 0.2)
    assert geometry_of("squash", [256, 448], views="tiles", views_grid=[2]) == Tiles(256, 448, (2, 2), 0.2)
    found = geometry_of("squash", 224, views="tiles", views_grid=[2, 4], views_overlap=0.0)
    assert found == Tiles(224, 224, (2, 4), 0.0)
    assert geometry_of("squash", 224, views="whole", views_grid=2) == Squash(224)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"views_grid": 0},
            "views_grid: expected rows and columns of which one is at least 2, found 0 0: .*--views whole",
        ),
        ({"views_grid": 1}, "views_grid: expected .*, found 1 1"),
        ({"views_grid": [3, 0]}, "views_grid: expected .*, found 3 0"),
        ({"views_grid": [2, 3, 4]}, "views_grid: expected .*, found 2 3 4"),
        (
            {"views_overlap": 1.0},
            "views_overlap: expected a share from 0 to below 1, found 1: use --views_overlap 0.2",
        ),
        ({"views_overlap": -0.1}, "views_overlap: expected .*, found -0.1"),
    ],
)
def test_tiles_that_cannot_be_are_refused_with_the_way_out(given, told):
    with pytest.raises(UserError, match=told):
        geometry_of("squash", 224, views="tiles", **given)


def test_tiles_of_a_cropped_photo_are_refused_with_the_way_out():
    with pytest.raises(UserError, match="views: tiles need the whole photo, but resize is crop: use --resize"):
        geometry_of("crop", 224, views="tiles")
