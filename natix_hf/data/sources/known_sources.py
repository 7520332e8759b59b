"""Reads rows or labels from a source that the user named, with the right options for known sources.

Known sources are the demo's generated scenes and some published data sets. `rows.py` does the reading.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

from natix_hf.data.sources.rows import Rows, load_labels, load_rows
from natix_hf.errors import UserError
from natix_hf.files import home

SCENES = "builtin:scenes"
SCENES_COUNT = 2000
SCENES_SEED = 100  # the recipe and the backbone of the demo were chosen with other seeds


class Known(TypedDict, total=False):
    """Options of `load_rows`."""

    group_column: str
    label_names: list[str]
    description_column: str


# Options of known data sets, which the user can override.
KNOWN: dict[str, Known] = {
    SCENES: {"group_column": "group"},
    "natix-network-org/roadwork": {
        "group_column": "video_info.vid_id",
        "label_names": ["None", "Roadwork"],
        "description_column": "scene_description",
    },
}

# The recipe keys that determine labels.
LABEL_KEYS = ("dataset_config", "image_column_name", "label_column_name", "label_names", "trust_remote_code")


def read_rows(source: Any, **options: Any) -> Rows:
    """`load_rows`, with generated scenes and the options of known data sets."""
    source, options = _completed(source, options)
    return load_rows(source, **options)


def report_classes(source: Any, say: Callable[[str], None], **options: Any) -> None:
    """Report the classes with their counts and where the labels come from, without opening a photo.

    Args:
        source: a source for `load_rows`.
        say: called with the lines.
        options: those of `LABEL_KEYS`, as in `load_rows`.
    """
    source, options = _completed(source, options)
    load_labels(source, say=say, **{key: value for key, value in options.items() if key in LABEL_KEYS})


def _completed(source: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The source, drawn if it is `SCENES`, and its options with those of known data sets; None is not given."""
    known: Known = {}
    for part in source if isinstance(source, list | tuple) else [source]:
        known |= KNOWN.get(part.rpartition("=")[2], {}) if isinstance(part, str) else {}
    options = known | {key: value for key, value in options.items() if value is not None}
    if source == SCENES:
        source = drawn_scenes(options.pop("dataset_config", None))
    return source, options


def drawn_scenes(asked: str | None = None) -> str:
    """The folder of `builtin:scenes`. Draws the scenes if they do not exist yet.

    Args:
        asked: `COUNT [WIDTHxHEIGHT] [far]`, such as `800` or `800 960x540 far`.
    """
    from natix_hf.scenes.photos import VERSION, generate, photo_size

    count, *more = (asked or str(SCENES_COUNT)).split() or [""]
    expected = f"dataset_config {asked}: {SCENES} expects the number of photos"
    try:
        photos = int(count)
        far = more[-1:] == ["far"]
        (size,) = [photo_size(word) for word in (more[:-1] if far else more)] or [(640, 360)]
    except ValueError:
        raise UserError(f"{expected}, optionally followed by their size and far, such as 800 960x540 far") from None
    if photos < 1:
        raise UserError(f"{expected}, at least 1")
    # Scenes of another version have another folder.
    name = "-".join([str(SCENES_SEED), str(photos), f"v{VERSION}", *more])
    return str(generate(home() / "scenes" / name, photos, SCENES_SEED, size=size, far=far))
