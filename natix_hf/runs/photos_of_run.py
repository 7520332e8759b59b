"""The photos of a finished run, found again by its recipe: locked as they were, and the same or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from natix_hf.data.load_photos import recipe_photos
from natix_hf.data.splits.certificate import read_certificate
from natix_hf.data.splits.contracts import LockedSplits
from natix_hf.errors import UserError
from natix_hf.files import read_json


def run_splits(run: str | Path, say: Callable[[str], None] | None = None) -> LockedSplits:
    """The splits of a finished run; what is read of them has to be noted in its `run.json` by whoever reads.

    Args:
        run: its folder.
        say: as in `load_rows`.

    Raises:
        UserError: the run is a refit, which trained on all rows; it does not say where its photos are; or what is
            there now are other photos, or another split of them.
    """
    run = Path(run)
    if read_json(run / "run.json").get("purpose") == "refit":
        raise UserError(f"{run}: a refit was trained on all photos, so none is left to measure it on: name its run")
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{run}: no recipe.yaml, so its photos cannot be found: bring the file back")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    splits = recipe_photos(recipe, say=say)
    was, now = (one.fingerprints["val_test"] for one in (read_certificate(run), splits.description))
    if was != now:
        raise UserError(
            f"{run}: val_test of {recipe['dataset_name']} is not what it was when the run was trained (fingerprint "
            f"{now[:8]}, in splits.json {was[:8]}): bring the photos back"
        )
    return splits
