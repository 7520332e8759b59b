"""How a photo becomes the input of the network: sizes, crops, tiles, and which part of the photo a view shows.

A saved image processor contains its geometry (`processor_settings` writes it, `Geometry.of` reads it), so a cache key
with `processor.to_dict()` contains it too. This module sets the limits of random crops; `inference.augment` draws
them. Normalisation is left to the image processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from natix_hf.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """The views of a photo: one rectangle, or several of the same size. A subclass defines what each view shows.

    Attributes:
        height, width: size of a view in pixels (`image_size` in a recipe); a height alone means a square.
        kind: key in `GEOMETRIES` (`resize` in a recipe).
        help: what this kind does with a photo, for the help of the recipe's options.
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
        """The size as written in a recipe: one number for a square, otherwise height and width."""
        return self.height if self.height == self.width else [self.height, self.width]

    def __str__(self) -> str:
        return f"{self.height} x {self.width} px"

    def at(self, image_size: int | Sequence[int]) -> Self:
        """The same geometry at another size: height and width in pixels, or one number for a square."""
        sides = [image_size] if isinstance(image_size, int) else image_size
        return replace(self, height=sides[0], width=sides[-1])

    @staticmethod
    def of(processor: Any) -> Geometry:
        """The geometry of an image processor that was made with `processor_settings`."""
        if processor.do_center_crop:
            return Crop(processor.crop_size["height"])
        height, width = processor.size["height"], processor.size["width"]
        if (grid := getattr(processor, "views_grid", None)) is not None:  # transformers' own processors lack it
            return Tiles(height, width, tuple(grid), processor.views_overlap)
        return Squash(height, width)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(views, 3, H, W)`, the shape of all views of one photo."""
        return 1, 3, self.height, self.width

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a photo's `pixel_values` for the network: `(3, H, W)`, or `shape` if there are several views."""
        return self.shape if self.shape[0] > 1 else self.shape[1:]

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of a photo whose views are neither enlarged nor shrunk."""
        return self.height, self.width

    def tokens(self, patch_size: int, beside: int = 0) -> int:
        """Number of tokens of one photo.

        Args:
            patch_size: height and width of a patch in pixels.
            beside: additional tokens of each view: class token and registers.
        """
        views, _, height, width = self.shape
        return views * (beside + (height // patch_size) * (width // patch_size))

    def check_patches(self, patch_size: int) -> None:
        """Raise `UserError` unless both sides of the view are multiples of `patch_size` pixels."""
        for side in (self.height, self.width):
            if side < patch_size or side % patch_size:
                raise UserError(f"image_size {side}: expected a multiple of the checkpoint's patch size {patch_size}")

    def copy_side(self, asked: int | None = None) -> int:
        """Short side in pixels of a pre-resized copy, large enough that no crop of `augment: basic` is enlarged.

        Such a crop keeps at least 3/4 of the area. Its aspect ratio differs by a factor of at most 1/0.85 from the one
        used for scoring. So it has at least sqrt(3/4 * 0.85) = 0.798 of the short side, and copies of 1.25 times the
        view are never enlarged. The default is 1.75 times the view, rounded up to a multiple of 16: further shrinking
        hides the second JPEG compression. For a rectangular view the short side counts; the guarantee then holds for
        photos at least as elongated as the view, in the same direction. For tiles the canvas counts.

        Args:
            asked: `decode_copy_side` of the recipe; None for the default.

        Raises:
            UserError: `asked` is smaller than the view.
        """
        side = min(self.canvas)
        default = -(-7 * side // 64) * 16
        if asked is None:
            return default
        if asked < side:
            raise UserError(
                f"decode_copy_side: expected at least the image_size of {side}, found {asked}: leave it out for "
                f"{default}"
            )
        return asked

    def whole_view(self, pixels: Tensor) -> Tensor:
        """The (first) view without augmentation, `(3, H, W)` uint8: the image processor's output before normalisation.

        Args:
            pixels: `(3, height, width)` uint8, of the photo.
        """
        raise NotImplementedError

    def pixel_values(self, pixels: Tensor, tiles: Sequence[int] | None = None) -> Tensor:
        """All views without augmentation, `input_shape` uint8: the image processor's output before normalisation.

        Args:
            pixels: `(3, height, width)` uint8, of the photo.
            tiles: numbers of the tiles to return, for a geometry with tiles; by default all.
        """
        return self.whole_view(pixels)

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, width and height of the part of a photo that the (first) view shows, as shares of the photo.

        The mapping is linear: the point (x, y) of the view, in shares, is (left + x * width, top + y * height) of the
        photo.

        Args:
            width, height: of the photo, in pixels.
        """
        raise NotImplementedError

    def crop_limits(self, width: int, height: int) -> tuple[float, float]:
        """Aspect ratio and largest area of the random crops that become the view.

        Args:
            width, height: of the photo, in pixels.

        Returns:
            aspect: share of the photo's width divided by share of its height, as used for scoring.
            most: largest area with that aspect ratio, as a share of the photo's area.
        """
        raise NotImplementedError

    def processor_settings(self) -> dict[str, Any]:
        """Settings with which transformers' image processor of DINOv3 gives a client the same views."""
        raise NotImplementedError


class Squash(Geometry):
    """Resizes the whole photo to the view, without keeping its aspect ratio."""

    kind, help = "squash", "resizes the whole photo to the view"

    def whole_view(self, pixels: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        return functional.resize(pixels, [self.height, self.width], antialias=True)

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        return 0.0, 0.0, 1.0, 1.0

    def crop_limits(self, width: int, height: int) -> tuple[float, float]:
        # Centred on the photo's own aspect ratio: the usual 3:4 to 4:3 would always cut the sides off a wide photo.
        return 1.0, 1.0

    def processor_settings(self) -> dict[str, Any]:
        size = {"height": self.height, "width": self.width}
        return {"size": size, "do_center_crop": False, "crop_size": None}


class Crop(Geometry):
    """Resizes the shorter side of the photo to the side of the square, and keeps the square in the middle."""

    kind, help = "crop", "keeps the square in the middle"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.height != self.width:
            # The stock image processor sets the shorter side, so a narrow photo would not fill a wide view.
            raise UserError(
                f"resize: crop keeps a square, but image_size is {self.height} {self.width}: use --resize squash, or "
                "one number as --image_size"
            )

    def whole_view(self, pixels: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        pixels = functional.resize(pixels, [self.height], antialias=True)
        top, left = ((side - self.height) // 2 for side in pixels.shape[-2:])
        # torchvision's center_crop rounds half a pixel, but the image processor truncates it.
        return functional.crop(pixels, top, left, self.height, self.width)

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        side = min(width, height)
        return (1 - side / width) / 2, (1 - side / height) / 2, side / width, side / height

    def crop_limits(self, width: int, height: int) -> tuple[float, float]:
        # Centred on the square, since scoring does not squash; the largest area is that of the largest square.
        return height / width, min(height, width) / max(height, width)

    def processor_settings(self) -> dict[str, Any]:
        square = {"height": self.height, "width": self.width}
        return {"size": {"shortest_edge": self.height}, "do_center_crop": True, "crop_size": square}


def tile_boxes(width: int, height: int, grid: Sequence[int], overlap: float) -> list[tuple[int, int, int, int]]:
    """Left, top, width and height in pixels of the tiles of a photo, row by row; tiles of one size cover the photo.

    Args:
        width, height: of the photo, in pixels.
        grid: rows and columns.
        overlap: share of a tile's side that it has in common with its neighbour.
    """
    sides = []
    for length, count in ((height, grid[0]), (width, grid[1])):
        side = max(1, int(length / (count - (count - 1) * overlap) + 0.5))
        starts = [int(number * (length - side) / max(1, count - 1) + 0.5) for number in range(count)]
        sides.append([(start, side) for start in starts])
    return [(left, top, wide, high) for top, high in sides[0] for left, wide in sides[1]]


@dataclass(frozen=True)
class Tiles(Squash):
    """The whole photo, then tiles cut out of it at full resolution; each is resized to the size of the view.

    The image processor saved with a model (`modeling/image_processing_natix_dinov3.py`) does the same.

    Attributes:
        grid: rows and columns of tiles.
        overlap: share of a tile's side that it has in common with its neighbour.
    """

    grid: tuple[int, int] = (3, 3)
    overlap: float = 0.2

    def __str__(self) -> str:
        return f"{super().__str__()}, whole and {self.grid[0]} x {self.grid[1]} tiles"

    @property
    def tiles(self) -> int:
        """Number of tiles, without the view of the whole photo."""
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


def image_size_of(numbers: Sequence[int]) -> int | list[int]:
    """The size in pixels as a recipe stores it: one number for a square, else height and width.

    Raises:
        UserError: if there are more than two numbers, or if one is not positive.
    """
    if len(numbers) > 2 or min(numbers) < 1:
        typed = " ".join(map(str, numbers))
        raise UserError(f"image_size: expected one number (a square) or height and width, found {typed}")
    return numbers[0] if len(set(numbers)) == 1 else list(numbers)


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
        image_size: height and width in pixels, or one number for a square.
        views: `whole`, or `tiles` for the photo and its tiles.
        views_grid: rows and columns of tiles, or one number for both.
        views_overlap: share of a tile's side that it has in common with its neighbour.

    Raises:
        UserError: the kind does not allow this size, or the grid or overlap of the tiles is not valid.
    """
    size = [image_size] if isinstance(image_size, int) else list(image_size)
    image_size_of(size)  # raises if the size is not valid
    if views == "whole":
        return GEOMETRIES[resize](*size)
    grid = [views_grid] * 2 if isinstance(views_grid, int) else list(views_grid)
    grid = grid * 2 if len(grid) == 1 else grid
    if len(grid) != 2 or min(grid) < 1 or max(grid) == 1:
        raise UserError(
            f"views_grid: expected rows and columns of which one is at least 2, found {' '.join(map(str, grid))}: "
            "use --views_grid 3, --views_grid 2 4, or --views whole"
        )
    if not 0 <= views_overlap < 1:
        raise UserError(
            f"views_overlap: expected a share from 0 to below 1, found {views_overlap:g}: use --views_overlap 0.2"
        )
    if resize != "squash":
        raise UserError(
            f"views: tiles need the whole photo, but resize is {resize}: use --resize squash, or --views whole"
        )
    return Tiles(*size, grid=tuple(grid), overlap=views_overlap)
