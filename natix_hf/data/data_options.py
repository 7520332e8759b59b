"""The recipe keys for photos: which photos, how they are read and how they are split."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from natix_hf.errors import UserError
from natix_hf.options import AT_LEAST_0, AT_LEAST_1, defaults, idle_line, option
from natix_hf.photos.geometry import GEOMETRIES, Geometry, Tiles, geometry_of, image_size_of

# The recipe keys that determine the photos and their splits. Code that loads the photos of a recipe again uses these.
SOURCE_KEYS = (
    *("dataset_config", "group_column", "image_column_name", "label_column_name", "label_names"),
    *("broken_photos", "trust_remote_code"),
)
PLAN_KEYS = ("split_ratios", "split_seed", "near_duplicates", "test_split", "test_on")


@dataclass
class DataOptions:
    """Which photos, how they are read and how they are split."""

    _argument_group_name: ClassVar[str] = "data"

    dataset_name: str | None = option(
        None,
        "your photos: a folder (class folders, images and a table, parquet, save_to_disk), a Hub id or builtin:scenes",
    )
    dataset_config: str | None = option(
        None, "configuration of a Hub data set; for builtin:scenes COUNT [WIDTHxHEIGHT] [far]"
    )
    image_column_name: str = option("image", "column with the photos")
    label_column_name: str = option("label", "column with the classes")
    group_column: list[str] | None = option(
        None,
        "columns such as video or sequence, by name or dotted path; rows with the same value stay in one split",
    )
    near_duplicates: bool = option(True, "find altered copies of a photo and keep them in one split")
    test_split: Literal["keep", "merge"] = option(
        "keep", "a test split of the data set: keep it as val_test, or merge it with the rest before the split"
    )
    test_on: list[str] | None = option(
        None,
        "COLUMN=VALUE: val_test contains only photos with this value, and all of them; a test split of the data set "
        "is merged with the rest",
    )
    hold_out_each: str | None = option(
        None,
        "metadata column; natix-hf folds trains one run for each value and tests it only on photos with that value",
    )
    label_names: list[str] | None = option(None, "class names in the order of their ids; integer labels are such ids")
    positive_label: str | None = option(
        None, "the class that AUROC and precision are about; default: the class with id 1"
    )
    split_ratios: list[float] = option(
        [0.60, 0.15, 0.15, 0.10], "shares of train, val_select, val_calib and val_test, which sum to 1"
    )
    split_seed: int = option(0, "seed of the split; the same rows and seed give the same split")
    image_size: list[int] = option(
        [224], "height and width in pixels that the model sees, e.g. 256 448; one number for a square"
    )
    resize: Literal[tuple(GEOMETRIES)] = option(
        "squash", "how a photo is resized to image_size: " + ", ".join(f"{k} {g.help}" for k, g in GEOMETRIES.items())
    )
    views: Literal["whole", "tiles"] = option(
        "whole",
        "what the model sees: the whole photo, or the whole photo and its tiles, each at image_size",
    )
    views_grid: list[int] = option([3, 3], "tiles: rows and columns, e.g. 2 4; one number for both")
    views_overlap: float = option(0.2, "tiles: overlap of neighbours as a share of a tile's side")
    views_aggregate: Literal["top_k", "mean", "attention"] = option(
        "top_k",
        "tiles: how their logits are combined; top_k: mean of the views_top_k largest per class; mean: mean of all; "
        "attention: mean weighted by trained attention",
    )
    views_top_k: Annotated[int, AT_LEAST_1] = option(2, "tiles: how many of the largest logits per class are averaged")
    views_train: Literal["all", "sampled"] = option(
        "all", "tiles: train on all tiles of a photo, or on views_sampled of them, drawn again in each epoch"
    )
    views_sampled: Annotated[int, AT_LEAST_0] = option(0, "views_train sampled: number of tiles per photo and step")
    augment: Literal[
        "none",
        "basic",
        "auto",
        "rand",
        "trivial",
        "augmix",
        "challenge@2025",
        "challenge@2026-04",
        "challenge@2026-05",
    ] = option(
        "basic",
        "none; basic: large random crops and mirror images; auto, rand, trivial, augmix: basic, then the policy of "
        "that name; challenge@...: what StreetVision's validators sent at that time; no effect on a probe",
    )
    challenge_levels: list[float] | None = option(
        None,
        "augment challenge@2025 and challenge@2026-04: probabilities of levels 0 to 3, e.g. 0.1 0.2 0.3 0.4; "
        "default: equal, as validators draw them",
    )
    broken_photos: Literal["refuse", "skip"] = option(
        "refuse", "unreadable photos: refuse to start, or skip and list them"
    )
    preprocessing_num_workers: int | None = option(None, "processes that read the photos; default: one per core")

    def __post_init__(self) -> None:
        self.image_size = image_size_of(self.image_size)
        if len(self.views_grid) == 1:
            self.views_grid = self.views_grid * 2
        self._check_tiles(self.geometry)

    @property
    def geometry(self) -> Geometry:
        """How photos become the input of the network."""
        tiles = {name: getattr(self, name) for name in ("views", "views_grid", "views_overlap")}
        return geometry_of(self.resize, self.image_size, **tiles)

    @property
    def sampled_tiles(self) -> int:
        """Number of tiles per photo in a training step; 0 means all."""
        return self.views_sampled if self.views == "tiles" and self.views_train == "sampled" else 0

    def _check_tiles(self, geometry: Geometry) -> None:
        if not isinstance(geometry, Tiles):
            return
        least = self.views_top_k if self.views_aggregate == "top_k" else 1
        if least > geometry.tiles:
            raise UserError(
                f"views_top_k: expected at most {geometry.tiles}, the number of tiles; found {least}: use "
                f"--views_top_k {min(2, geometry.tiles)}, or a larger --views_grid"
            )
        if self.views_train == "sampled" and not least <= self.views_sampled < geometry.tiles:
            raise UserError(
                f"views_sampled: expected {least} to {geometry.tiles - 1} of the {geometry.tiles} tiles, found "
                f"{self.views_sampled}: use --views_sampled {max(least, geometry.tiles // 3)}, or --views_train all"
            )

    def without_effect(self, method: str) -> str | None:
        """A line that names keys for tiles that were set but have no effect, or None.

        Args:
            method: the method of the recipe.
        """
        tiles = self.views == "tiles"
        keys = [name for name in defaults(self) if name.startswith("views_")]
        reasons = {} if tiles else dict.fromkeys(keys, f"views is {self.views}")
        if tiles and self.views_aggregate != "top_k":
            reasons["views_top_k"] = f"views_aggregate is {self.views_aggregate}"
        if tiles and method == "probe":
            reasons |= dict.fromkeys(("views_train", "views_sampled"), "a probe keeps the features of all tiles")
        elif tiles and self.views_train == "all":
            reasons["views_sampled"] = "views_train is all"
        return idle_line(self, reasons)
