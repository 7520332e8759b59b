"""The image processor of a classifier that sees a photo and its tiles: several views of every photo.

It travels with the weights (Hub, `trust_remote_code`), so it imports torch and transformers only. Classifiers of the
whole photo alone have transformers' own `DINOv3ViTImageProcessor`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchFeature, DINOv3ViTImageProcessor
from transformers.processing_utils import ImagesKwargs


def tile_boxes(width: int, height: int, grid: Sequence[int], overlap: float) -> list[tuple[int, int, int, int]]:
    """Left, top, width and height in pixels of the tiles of a photo, row by row; all are of one size and fill it.

    Args:
        width, height: of the photo.
        grid: rows and columns.
        overlap: the share of a tile's side that it has in common with its neighbour.
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
    """Photos to `pixel_values` `(batch, views, 3, H, W)`: the whole photo, then its tiles row by row, each squashed.

    Args:
        views_grid: rows and columns of tiles.
        views_overlap: the share of a tile's side that it has in common with its neighbour.
        kwargs: of `DINOv3ViTImageProcessor`.
    """

    valid_kwargs = NatixDinov3ImageProcessorKwargs
    views_grid = None  # no default that a stock processor's file could be mistaken to have
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
