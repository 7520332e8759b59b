"""Loads the photos of a finished run by its recipe, with the same locked splits, and checks that they are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datasets import Dataset

from natix_hf.data.load_photos import recipe_photos
from natix_hf.data.splits.certificate import read_certificate
from natix_hf.data.splits.contracts import PARTS, LockedSplits
from natix_hf.documents.ledger import note_reads
from natix_hf.documents.run_record import RunRecord
from natix_hf.errors import UserError
from natix_hf.files import read_recipe


def run_splits(
    run: str | Path, say: Callable[[str], None] | None = None, *, dataset_name: str | None = None
) -> LockedSplits:
    """The splits of a finished run. The step that reads rows notes this in the ledger.

    Args:
        dataset_name: where the photos are now, if this differs from the recipe.

    Raises:
        UserError: the run is a refit, which trained on all rows; it does not say where its photos are; or the photos
            or their split have changed.
    """
    run = Path(run)
    if RunRecord.read(run).purpose == "refit":
        raise UserError(f"{run}: a refit was trained on all photos, so none are left to test it: name its honest run")
    recipe = read_recipe(run)
    if not recipe:
        raise UserError(f"{run}: no recipe.yaml, so its photos cannot be found: restore the file")
    recipe |= {"dataset_name": dataset_name} if dataset_name else {}
    splits = recipe_photos(recipe, say=say)
    was, now = (one.fingerprints["val_test"] for one in (read_certificate(run), splits.description))
    if was != now:
        raise UserError(
            f"{run}: val_test of {recipe['dataset_name']} has changed since training (expected the fingerprint "
            f"{was[:8]}, found {now[:8]}): restore the photos"
        )
    return splits


def calibration_rows(run: str | Path) -> dict[str, Dataset]:
    """The parts `fit` and `control` of the val_calib of a run, for another calibration. The ledger notes the read.

    Raises:
        UserError: as `run_splits`, or the folder is not a run.
    """
    run = Path(run)
    if not RunRecord.there(run):
        raise UserError(f"{run}: not a run, so it has no photos of val_calib: give labelled photos")
    splits, steps = run_splits(run), ("fit calibration", "guarantee")
    rows = {part: splits.rows("policy", step=step, part=part) for part, step in zip(PARTS, steps, strict=True)}
    note_reads(run, splits.new_reads())
    return rows
