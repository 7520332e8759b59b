"""The recipe's keys about photos: which ones, how they are read, and how they are divided."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from natix_hf.options import option
from natix_hf.photos.geometry import GEOMETRIES
from natix_hf.photos.image_size import image_size_of


@dataclass
class DataOptions:
    """Which photos, how they are read, and how they are divided."""

    _argument_group_name: ClassVar[str] = "data"

    dataset_name: str | None = option(
        None,
        "photos: folder (class folders, images + table, parquet, save_to_disk), Hub id or builtin:scenes",
    )
    dataset_config: str | None = option(
        None, "configuration of a Hub data set; for builtin:scenes the number of photos"
    )
    image_column_name: str = option("image", "column that holds the photo")
    label_column_name: str = option("label", "column that holds the class")
    group_column: list[str] | None = option(
        None,
        "columns; rows of one value stay in one split (a video, a sequence); literal name first, then a dotted path",
    )
    near_duplicates: bool = option(True, "look for altered copies of a photo, and keep them in one split")
    test_split: Literal["keep", "merge"] = option(
        "keep", "a test part that the data set brings: keep it as val_test, or merge it with the rest and cut anew"
    )
    test_on: list[str] | None = option(
        None,
        "COLUMN=VALUE: val_test is the photos of this value and nothing else; a test part that the data set brings is "
        "merged with the rest",
    )
    hold_out_each: str | None = option(
        None, "metadata column: python -m natix_hf.folds trains one run for each of its values, tested on that alone"
    )
    label_names: list[str] | None = option(
        None, "class names in the order of their ids; integer labels index this list"
    )
    positive_label: str | None = option(None, "the class that AUROC and precision speak of; default the class of id 1")
    split_ratios: list[float] = option(
        [0.60, 0.15, 0.15, 0.10], "shares of train, val_select, val_calib, val_test; they sum to 1"
    )
    split_seed: int = option(0, "seed of the split; the same rows and seed give the same split")
    image_size: list[int] = option(
        [224], "height and width in pixels that the model sees, such as 256 448; one number is a square"
    )
    resize: Literal[tuple(GEOMETRIES)] = option(
        "squash", "how a photo takes that shape: " + ", ".join(f"{k} {g.help}" for k, g in GEOMETRIES.items())
    )
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
        "none; basic: large random crops and mirror images; auto, rand, trivial, augmix: the policy of that name "
        "after these; challenge@...: what StreetVision's validators sent at that time (a probe sees none of them)",
    )
    challenge_levels: list[float] | None = option(
        None,
        "augment challenge@2025 and challenge@2026-04: probabilities of levels 0 to 3, such as 0.1 0.2 0.3 0.4; "
        "default: all alike, as validators draw them",
    )
    broken_photos: Literal["refuse", "skip"] = option("refuse", "what to do about photos that cannot be read")
    preprocessing_num_workers: int | None = option(None, "processes that inspect the photos; default one per core")

    def __post_init__(self) -> None:
        self.image_size = image_size_of(self.image_size)
