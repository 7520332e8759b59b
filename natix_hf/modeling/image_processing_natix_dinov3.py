"""Image processor for a classifier with tiles: makes several views of every photo, the whole photo and its tiles.

This file is saved with the weights (for `trust_remote_code` on the Hub), so it imports only torch and transformers.
Classifiers without tiles use transformers' `DINOv3ViTImageProcessor`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchFeature, DINOv3ViTImageProcessor
from transformers.processing_utils import ImagesKwargs


def tile_boxes(width: int, height: int, grid: Sequence[int], overlap: float) -> list[tuple[int, int, int, int]]:
    """Left, top, width and height in pixels of each tile, row by row; equal tiles that cover the whole photo.

    Args:
        width, height: size of the photo in pixels.
        grid: number of rows and of columns.
        overlap: share of a tile's side that it has in common with its neighbour.
    """
    sides = []
    for length, count in ((height, grid[0]), (width, grid[1])):
        side = max(1, int(length / (count - (count - 1) * overlap) + 0.5))
        starts = [int(number * (length - side) / max(1, count - 1) + 0.5) for number in range(count)]
        sides.append([(start, side) for start in starts])
    return [(left, top, wide, high) for top, high in sides[0] for left, wide in sides[1]]


class NatixDinov3ImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    views_grid (`list[int]`, *optional*, defaults to `self.views_grid`):
        Rows and columns of tiles.
    views_overlap (`float`, *optional*, defaults to `self.views_overlap`):
        The share of a tile's side that it has in common with its neighbour.
    """

    views_grid: list[int]
    views_overlap: float


class NatixDinov3ImageProcessor(DINOv3ViTImageProcessor):
    """Photos to `pixel_values` `(batch, views, 3, H, W)`: the whole photo, then its tiles row by row.

    Each view is resized to the same height and width without keeping its aspect ratio.

    Args:
        views_grid: rows and columns of tiles.
        views_overlap: share of a tile's side that it has in common with its neighbour.
        kwargs: arguments of `DINOv3ViTImageProcessor`.
    """

    valid_kwargs = NatixDinov3ImageProcessorKwargs
    views_grid = None  # no default, so that a stock processor's file does not seem to have tiles
    views_overlap = None

    def _preprocess(
        self,
        images: list[torch.Tensor],
        views_grid: list[int],
        views_overlap: float,
        return_tensors: str | None,
        **kwargs: Any,
    ) -> BatchFeature:
        prepare = super()._preprocess
        photos = []
        for image in images:
            boxes = tile_boxes(*image.shape[:-3:-1], views_grid, views_overlap)
            tiles = [image[:, top : top + high, left : left + wide] for left, top, wide, high in boxes]
            views = prepare([image, *tiles], return_tensors=None, **kwargs)["pixel_values"]
            photos.append(torch.stack(views))
        return BatchFeature(data={"pixel_values": photos}, tensor_type=return_tensors)
