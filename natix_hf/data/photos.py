"""From a name to locked splits: the one call that a verb or a script makes of this room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from natix_hf.data.contracts import LockedSplits
from natix_hf.data.sources import load_rows
from natix_hf.data.splits import DEFAULT_RATIOS, check_ratios, split_rows
from natix_hf.errors import UserError
from natix_hf.files import home

SCENES = "builtin:scenes"
SCENES_COUNT = 2000

# What the publisher of a data set knows and a recipe need not repeat; a recipe that says otherwise wins.
KNOWN: dict[str, dict[str, Any]] = {
    "natix-network-org/roadwork": {"group_column": "video_info.vid_id", "label_names": ["None", "Roadwork"]},
}


def load_photos(
    dataset_name: Any,
    *,
    split_ratios: Sequence[float] = DEFAULT_RATIOS,
    split_seed: int = 0,
    dataset_config: str | None = None,
    group_column: str | None = None,
    label_names: Sequence[str] | None = None,
    **source_options: Any,
) -> LockedSplits:
    """Photos as `train / val_select / val_calib / val_test`, each to be read only by the steps of its role.

    Args:
        dataset_name: a folder, a file, a Hub id, a `datasets` object, or `builtin:scenes` (generated street photos,
            kept below `~/.cache/natix_hf`).
        split_ratios: shares of the four splits; they sum to 1.
        split_seed: the same rows and seed give the same split, whatever the order of the rows.
        dataset_config: configuration of a Hub data set; for `builtin:scenes` the number of photos.
        group_column: rows that share its value stay in one split.
        label_names: the classes in the order of their ids. Both have defaults for the data sets in `KNOWN`.
        source_options: `image_column_name`, `label_column_name`, `broken_photos`, `trust_remote_code`, `num_proc`,
            as `load_rows` takes them.

    Raises:
        UserError: whatever is wrong with the photos, in one line.
    """
    check_ratios(split_ratios)  # before minutes are spent on reading
    if dataset_name == SCENES:
        dataset_name, group_column = _scenes(dataset_config), group_column or "group"
        dataset_config = None
    known = KNOWN.get(dataset_name, {}) if isinstance(dataset_name, str) else {}
    rows = load_rows(
        dataset_name,
        dataset_config=dataset_config,
        group_column=group_column or known.get("group_column"),
        label_names=label_names or known.get("label_names"),
        **source_options,
    )
    return split_rows(rows, split_ratios, split_seed)


def _scenes(count: str | None) -> str:
    from natix_hf.data.scenes import generate

    try:
        photos = int(count or SCENES_COUNT)
    except ValueError:
        raise UserError(f"dataset_config {count}: for {SCENES} it is the number of photos") from None
    if photos < 1:
        raise UserError(f"dataset_config {count}: for {SCENES} it is the number of photos, at least 1")
    return str(generate(home() / "scenes" / f"{photos}", photos, 0))
