"""How a photo becomes the input of the network: sizes, crops, tiles and where a pixel came from.

A `Geometry` holds only numbers, and reads only attributes of image processors. A saved processor contains its geometry
(`processor_settings`, `Geometry.of`), so a cache key with `processor.to_dict()` contains it too. Normalisation is done
elsewhere. This file says where a random crop may be; `inference.augment` draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from natix_hf.errors import UserError
from natix_hf.photos.image_size import image_size_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """One rectangle a photo, or several of one size; its kinds below say which part of the photo each shows.

    Attributes:
        height, width: of the view in pixels, `image_size` of a recipe; a height alone is a square.
        kind: the key in `GEOMETRIES`, `resize` of a recipe.
        help: what the kind does with a photo, for the recipe's options.
    """

    height: int
    width: int = 0
    kind: ClassVar[str]
    help: ClassVar[str]

    def __post_init__(self) -> None:
        if not self.width:
            object.__setattr__(self, "width", self.height)

    @property
    def image_size(self) -> int | list[int]:
        """The size as a recipe holds it: one number for a square, else height and width."""
        return self.height if self.height == self.width else [self.height, self.width]

    def __str__(self) -> str:
        return f"{self.height} x {self.width} px"

    def at(self, image_size: int | Sequence[int]) -> Self:
        """The same views of a photo at another size: height and width in pixels, one number for a square."""
        sides = [image_size] if isinstance(image_size, int) else image_size
        return replace(self, height=sides[0], width=sides[-1])

    @staticmethod
    def of(processor: Any) -> Geometry:
        """The geometry of an image processor that was made with `processor_settings`."""
        if processor.do_center_crop:
            return Crop(processor.crop_size["height"])
        height, width = processor.size["height"], processor.size["width"]
        if (grid := getattr(processor, "views_grid", None)) is not None:  # transformers' own processors have none
            return Tiles(height, width, tuple(grid), processor.views_overlap)
        return Squash(height, width)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(views, 3, H, W)` of what a photo of any size becomes."""
        return 1, 3, self.height, self.width

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of a photo's `pixel_values` as the network takes them: `(3, H, W)`, of several views `shape`."""
        return self.shape if self.shape[0] > 1 else self.shape[1:]

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the photo at which every view has its pixels and no more."""
        return self.height, self.width

    def tokens(self, patch_size: int, beside: int = 0) -> int:
        """How many tokens a photo becomes.

        Args:
            patch_size: height and width of a patch in pixels.
            beside: tokens that each view has beside its patches: class token and registers.
        """
        views, _, height, width = self.shape
        return views * (beside + (height // patch_size) * (width // patch_size))

    def check_patches(self, patch_size: int) -> None:
        """Raise `UserError` unless the view is made of whole patches of so many pixels a side."""
        for side in (self.height, self.width):
            if side < patch_size or side % patch_size:
                raise UserError(f"image_size {side}: a multiple of the checkpoint's patch size {patch_size} expected")

    def copy_side(self, asked: int | None = None) -> int:
        """The short side in pixels that a photo must keep so that no crop of `augment: basic` is enlarged, with room.

        Such a crop keeps at least 3/4 of the area in a shape at most 1/0.85 times as wide or as high as that of what
        is scored, so it has at least sqrt(3/4 * 0.85) = 0.798 of the short side: from 1.25 times the view upwards
        nothing is enlarged. The default of 1.75 times, rounded up to a multiple of 16, leaves room in which the
        shrinking hides the second JPEG coding of a copy. A rectangle goes by its short side: the promise holds for
        photos that are at least as long as it is in the same direction. Tiles are cut out of a larger canvas.

        Args:
            asked: `decode_copy_side` of the recipe; None for the default.

        Raises:
            UserError: the side asked for is smaller than the view.
        """
        side = min(self.canvas)
        default = -(-7 * side // 64) * 16
        if asked is None:
            return default
        if asked < side:
            raise UserError(
                f"decode_copy_side: {asked} given, at least the image_size of {side} expected: leave it out for "
                f"{default}"
            )
        return asked

    def whole_view(self, pixels: Tensor) -> Tensor:
        """The view without chance, `(3, H, W)` uint8: the pixels of the image processor, before it normalises them.

        Args:
            pixels: `(3, height, width)` uint8, of the photo.
        """
        raise NotImplementedError

    def pixel_values(self, pixels: Tensor, tiles: Sequence[int] | None = None) -> Tensor:
        """All views without chance, of `input_shape`, uint8: what the image processor gives, not yet normalised.

        Args:
            pixels: `(3, height, width)` uint8, of the photo.
            tiles: numbers of those that are wanted, of a geometry that has tiles; by default all.
        """
        return self.whole_view(pixels)

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, width and height of the part of a photo that the (first) view shows, as shares of the photo.

        The view shows it evenly: what stands at shares (x, y) of the view stands at (left + x * width, top + y *
        height) of the photo.

        Args:
            width, height: of the photo, in pixels.
        """
        raise NotImplementedError

    def crop_limits(self, width: int, height: int) -> tuple[float, float]:
        """What a random crop that becomes the view varies around, both told in shares of the photo's sides.

        Args:
            width, height: of the photo, in pixels.

        Returns:
            aspect: share of the width over share of the height, of what is scored.
            most: the largest area of that aspect, as a share of the photo's.
        """
        raise NotImplementedError

    def processor_settings(self) -> dict[str, Any]:
        """What transformers' stock image processor of DINOv3 must be given so that it does the same at a client."""
        raise NotImplementedError


class Squash(Geometry):
    """The whole photo is pressed into the view."""

    kind, help = "squash", "presses the whole of it in"

    def whole_view(self, pixels: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        return functional.resize(pixels, [self.height, self.width], antialias=True)

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        return 0.0, 0.0, 1.0, 1.0

    def crop_limits(self, width: int, height: int) -> tuple[float, float]:
        # Around the shape of the photo: with the usual 3:4 to 4:3 a wide photo would lose its sides in every view.
        return 1.0, 1.0

    def processor_settings(self) -> dict[str, Any]:
        size = {"height": self.height, "width": self.width}
        return {"size": size, "do_center_crop": False, "crop_size": None}


class Crop(Geometry):
    """The shorter side is brought to that of the square, and the square in the middle is kept."""

    kind, help = "crop", "keeps the square in its middle"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.height != self.width:
            # The stock image processor brings the shorter side to a size: a narrow photo would not fill a wide view.
            raise UserError(
                f"resize: crop keeps a square, and image_size is {self.height} {self.width}: use --resize squash, or "
                "one number as --image_size"
            )

    def whole_view(self, pixels: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        pixels = functional.resize(pixels, [self.height], antialias=True)
        top, left = ((side - self.height) // 2 for side in pixels.shape[-2:])
        # Not torchvision's center_crop, which rounds a half where the image processor cuts it off.
        return functional.crop(pixels, top, left, self.height, self.width)

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        side = min(width, height)
        return (1 - side / width) / 2, (1 - side / height) / 2, side / width, side / height

    def crop_limits(self, width: int, height: int) -> tuple[float, float]:
        # Around the square, since what is scored is not squashed; areas are told by that of the largest square.
        return height / width, min(height, width) / max(height, width)

    def processor_settings(self) -> dict[str, Any]:
        square = {"height": self.height, "width": self.width}
        return {"size": {"shortest_edge": self.height}, "do_center_crop": True, "crop_size": square}


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


@dataclass(frozen=True)
class Tiles(Squash):
    """The whole photo, then tiles cut out of it at its full resolution; each is pressed into the view's rectangle.

    The travelling image processor does the same (`modeling/image_processing_natix_dinov3.py`).

    Attributes:
        grid: rows and columns of tiles.
        overlap: the share of a tile's side that it has in common with its neighbour.
    """

    grid: tuple[int, int] = (3, 3)
    overlap: float = 0.2

    def __str__(self) -> str:
        return f"{super().__str__()}, whole and {self.grid[0]} x {self.grid[1]} tiles"

    @property
    def tiles(self) -> int:
        """How many there are beside the whole photo."""
        return self.grid[0] * self.grid[1]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return 1 + self.tiles, 3, self.height, self.width

    @property
    def canvas(self) -> tuple[int, int]:
        lengths = zip((self.height, self.width), self.grid)
        return tuple(round(side * (count - (count - 1) * self.overlap)) for side, count in lengths)

    def pixel_values(self, pixels: Tensor, tiles: Sequence[int] | None = None) -> Tensor:
        import torch
        from torchvision.transforms.v2 import functional

        boxes = tile_boxes(*pixels.shape[:-3:-1], self.grid, self.overlap)
        chosen = boxes if tiles is None else [boxes[number] for number in tiles]
        size = [self.height, self.width]
        cut = (
            functional.resized_crop(pixels, top, left, high, wide, size, antialias=True)
            for left, top, wide, high in chosen
        )
        return torch.stack([self.whole_view(pixels), *cut])

    def processor_settings(self) -> dict[str, Any]:
        return super().processor_settings() | {"views_grid": list(self.grid), "views_overlap": self.overlap}


GEOMETRIES: dict[str, type[Geometry]] = {kind.kind: kind for kind in (Squash, Crop)}


def geometry_of(
    resize: str,
    image_size: int | Sequence[int],
    *,
    views: str = "whole",
    views_grid: int | Sequence[int] = 3,
    views_overlap: float = 0.2,
) -> Geometry:
    """The geometry that a recipe asks for.

    Args:
        resize: a key of `GEOMETRIES`.
        image_size: height and width in pixels; one number is a square.
        views: `whole`, or `tiles` for the photo and its tiles.
        views_grid: rows and columns of tiles; one number stands for both.
        views_overlap: the share of a tile's side that it has in common with its neighbour.

    Raises:
        UserError: the kind cannot have that shape, or there can be no such tiles.
    """
    size = [image_size] if isinstance(image_size, int) else list(image_size)
    image_size_of(size)  # refuses what is no size
    if views == "whole":
        return GEOMETRIES[resize](*size)
    grid = [views_grid] * 2 if isinstance(views_grid, int) else list(views_grid)
    grid = grid * 2 if len(grid) == 1 else grid
    if len(grid) != 2 or min(grid) < 1 or max(grid) == 1:
        raise UserError(
            f"views_grid: {' '.join(map(str, grid))} given, rows and columns of which one is at least 2 expected: "
            "use --views_grid 3, --views_grid 2 4, or --views whole"
        )
    if not 0 <= views_overlap < 1:
        raise UserError(
            f"views_overlap: {views_overlap:g} given, a share from 0 to below 1 expected: use --views_overlap 0.2"
        )
    if resize != "squash":
        raise UserError(
            f"views: tiles are cut out of the whole photo, and resize is {resize}: use --resize squash, or --views "
            "whole"
        )
    return Tiles(*size, grid=tuple(grid), overlap=views_overlap)
