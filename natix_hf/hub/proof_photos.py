"""Selects the photos for a proof: from the run's `val_select` if they are available, else generated scenes.

They never come from `val_test`, because a proof can be repeated any number of times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from natix_hf.data.load_photos import recipe_photos
from natix_hf.data.splits.certificate import read_certificate
from natix_hf.errors import PhotoError, UserError, one_line
from natix_hf.files import fingerprint_bytes, read_recipe
from natix_hf.inference.named_photos import find_photos
from natix_hf.photos.decode import eight_bit_png, inspect_photo, photo_bytes
from natix_hf.scenes.photos import encode, scene

COUNT = 32
SCENES_SEED = 777  # not used for training
MEND = "give --dataset_name, where the run's photos are now, or --photos with others"


class Photos(NamedTuple):
    """The photos of a proof.

    Attributes:
        source: `val_select`, `given` or `generated scenes`.
        content: the bytes of each file.
        reason: why the run's own photos were not available, or None.
    """

    source: str
    content: list[bytes]
    reason: str | None = None

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all photos in order."""
        return fingerprint_bytes("".join(map(fingerprint_bytes, self.content)).encode())


def proof_photos(
    run: str | Path,
    given: Sequence[Any] | None = None,
    count: int = COUNT,
    *,
    dataset_name: str | None = None,
) -> Photos:
    """`count` photos for a proof.

    Args:
        run: the run folder; without `recipe.yaml` and `splits.json` scenes are generated.
        given: paths or bytes to use instead of the run's photos.
        count: number of photos.
        dataset_name: where the run's photos are now, if not where its recipe says.

    Raises:
        UserError: no given photo can be read, or the run's photos are not at `dataset_name`.
    """
    if given is not None:
        content = _readable(given)
        if not content:
            raise UserError("--photos: none of these can be read: give a folder or a glob of photos")
        return Photos("given", content[:count])
    if dataset_name is not None:
        return Photos("val_select", _selected(Path(run), count, dataset_name))
    try:
        return Photos("val_select", _selected(Path(run), count))
    except (UserError, OSError) as error:
        drawn = [encode(scene(SCENES_SEED, index)) for index in range(count)]
        return Photos("generated scenes", drawn, one_line(error))


def photo_files(name: str | None) -> list[Any] | None:
    """The photos that `--photos` names, a folder or a glob; None without it.

    Raises:
        UserError: it names something else.
    """
    photos = find_photos(name)[1] if name else None
    if photos is not None and not isinstance(photos, list):
        raise UserError(f"--photos: expected a folder or a glob of photo files, found {name}")
    return photos


def _readable(photos: Sequence[Any]) -> list[bytes]:
    """The bytes of the photos that can be read.

    A photo that clients would decode differently is converted to a PNG first, because a proof compares models, not
    decoders.
    """
    readable = []
    for photo in photos:
        try:
            content = photo_bytes(photo)
        except (PhotoError, OSError):
            continue
        inspection = inspect_photo(content, max_mb=math.inf)
        if not inspection.error:
            readable.append(eight_bit_png(content) if inspection.client else content)
    return readable


def _selected(run: Path, count: int, dataset_name: str | None = None) -> list[bytes]:
    """Photos spread evenly over `val_select`, which is read from `dataset_name` or from where the recipe says.

    Raises:
        UserError, OSError: the run does not name its photos, or they are missing or have changed.
    """
    for name in ("recipe.yaml", "splits.json"):
        if not (run / name).is_file():
            raise UserError(f"{run} has no {name}")
    recipe = read_recipe(run) | ({"dataset_name": dataset_name} if dataset_name else {})
    if not recipe.get("dataset_name"):
        raise UserError(f"{run / 'recipe.yaml'} names no photos: {MEND}")
    try:
        splits = recipe_photos(recipe)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}: {MEND}") from None
    if splits.description.fingerprint != read_certificate(run).fingerprint:
        raise UserError(
            f"{recipe['dataset_name']} does not have the photos or the splits that splits.json describes: {MEND}"
        )
    rows = splits.rows("selection", step="round-trip proof")
    step = max(1, len(rows) // count)
    photos = [rows[i]["image"] for i in range(0, len(rows), step)][:count]
    readable = _readable(photos)
    if not readable:
        raise UserError(f"no photo of val_select in {recipe['dataset_name']} can be read")
    return readable
