"""Sources that need not be told everything: the demo's generated scenes, and data sets whose publisher is known.

Whoever reads rows or labels from what a user named comes here; `rows.py` does the reading.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

from natix_hf.data.sources.rows import Rows, load_labels, load_rows
from natix_hf.errors import UserError
from natix_hf.files import home

SCENES = "builtin:scenes"
SCENES_COUNT = 2000
SCENES_SEED = 100  # another series than those on which recipe and backbone of the demo were chosen


class Known(TypedDict, total=False):
    """Options of `load_rows`."""

    group_column: str
    label_names: list[str]
    description_column: str


# What is known of a data set, such as by its publisher, and a user need not repeat; whoever says otherwise wins.
KNOWN: dict[str, Known] = {
    SCENES: {"group_column": "group"},
    "natix-network-org/roadwork": {
        "group_column": "video_info.vid_id",
        "label_names": ["None", "Roadwork"],
        "description_column": "scene_description",
    },
}

# What a recipe says of labels alone.
LABEL_KEYS = ("dataset_config", "image_column_name", "label_column_name", "label_names", "trust_remote_code")


def read_rows(source: Any, **options: Any) -> Rows:
    """`load_rows` with the scenes drawn and what is known of published data sets filled in."""
    options = _known(source) | {key: value for key, value in options.items() if value is not None}
    if source == SCENES:
        source = drawn_scenes(options.pop("dataset_config", None))
    return load_rows(source, **options)


def tell_classes(source: Any, say: Callable[[str], None], **options: Any) -> None:
    """Say the classes with their counts and what gave the labels, without opening a photo.

    Args:
        source: as `load_rows` takes it.
        options: those of `LABEL_KEYS`, as `load_rows` takes them.
    """
    options = _known(source) | {key: value for key, value in options.items() if value is not None}
    if source == SCENES:
        source = drawn_scenes(options.pop("dataset_config", None))
    load_labels(source, say=say, **{key: value for key, value in options.items() if key in LABEL_KEYS})


def _known(source: Any) -> Known:
    known: Known = {}
    for one in source if isinstance(source, list | tuple) else [source]:
        known |= KNOWN.get(one.rpartition("=")[2], {}) if isinstance(one, str) else {}
    return known


def drawn_scenes(asked: str | None = None) -> str:
    """The folder of `builtin:scenes`, drawn where they are not there yet.

    Args:
        asked: `COUNT [WIDTHxHEIGHT] [far]`, such as `800` or `800 960x540 far`.
    """
    from natix_hf.scenes.photos import VERSION, generate, photo_size

    count, *more = (asked or str(SCENES_COUNT)).split() or [""]
    expected = f"dataset_config {asked}: for {SCENES} it is the number of photos"
    try:
        photos = int(count)
        far = more[-1:] == ["far"]
        (size,) = [photo_size(word) for word in (more[:-1] if far else more)] or [(640, 360)]
    except ValueError:
        raise UserError(f"{expected}, then their size and far where wanted: 800 960x540 far") from None
    if photos < 1:
        raise UserError(f"{expected}, at least 1")
    # Those of an older version are not in the way.
    name = "-".join([str(SCENES_SEED), str(photos), f"v{VERSION}", *more])
    return str(generate(home() / "scenes" / name, photos, SCENES_SEED, size=size, far=far))
