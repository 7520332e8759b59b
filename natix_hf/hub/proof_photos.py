"""The photos that a proof is made with: of the run's `val_select` where they can be had, else generated scenes.

Never of `val_test`: a proof is repeated at will. Knows the recipe's file and the locked splits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from natix_hf.data.certificate import read_certificate
from natix_hf.data.decode import eight_bit_png, fingerprint_bytes, inspect_photo, photo_bytes
from natix_hf.data.photos import load_photos
from natix_hf.data.scenes import encode, scene
from natix_hf.errors import PhotoError, UserError

COUNT = 32
# Keys of a recipe that decide which rows there are and where they stand.
OPTIONS = (
    *("dataset_config", "split_ratios", "split_seed", "group_column", "near_duplicates", "test_split"),
    *("image_column_name", "label_column_name", "label_names", "broken_photos", "trust_remote_code"),
)
SCENES_SEED = 777  # a series that nothing is trained on


class Photos(NamedTuple):
    """Where photos come from (`val_select`, `given`, `generated scenes`) and their files' bytes."""

    source: str
    content: list[bytes]

    @property
    def fingerprint(self) -> str:
        """Of all bytes in order."""
        return fingerprint_bytes("".join(map(fingerprint_bytes, self.content)).encode())


def proof_photos(run: str | Path, given: Sequence[Any] | None = None, count: int = COUNT) -> Photos:
    """`count` photos for a proof.

    Args:
        run: with `recipe.yaml` and `splits.json`, else scenes are generated.
        given: paths or bytes to use instead.

    Raises:
        UserError: no given photo can be read.
    """
    if given is not None:
        content = _readable(given)
        if not content:
            raise UserError("--photos: none of them can be read")
        return Photos("given", content[:count])
    content = _selected(Path(run), count)
    if content:
        return Photos("val_select", content)
    return Photos("generated scenes", [encode(scene(SCENES_SEED, index)) for index in range(count)])


def _readable(photos: Sequence[Any]) -> list[bytes]:
    """The photos that can be read; those that a client sees otherwise as what they are taken for here, since a proof
    compares models and not ways to read a file."""
    good = []
    for photo in photos:
        try:
            content = photo_bytes(photo)
        except (PhotoError, OSError):
            continue
        seen = inspect_photo(content, max_mb=math.inf)
        if not seen.error:
            good.append(eight_bit_png(content) if seen.client else content)
    return good


def _selected(run: Path, count: int) -> list[bytes]:
    """Photos spread evenly over `val_select`; none where the recipe's photos are gone or are not what they were."""
    if not (run / "recipe.yaml").is_file() or not (run / "splits.json").is_file():
        return []
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    if not recipe.get("dataset_name"):
        return []
    try:
        splits = load_photos(recipe["dataset_name"], **{name: recipe[name] for name in OPTIONS if name in recipe})
        if splits.description["fingerprint"] != read_certificate(run)["fingerprint"]:
            return []
        rows = splits.rows("selection", step="round-trip proof")
    except (UserError, OSError, TypeError):
        return []
    step = max(1, len(rows) // count)
    photos = [rows[i]["image"] for i in range(0, len(rows), step)][:count]
    return _readable(photos)
