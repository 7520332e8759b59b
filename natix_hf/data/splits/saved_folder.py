"""Writes the folder of `data split`: a `save_to_disk` data set of four splits with its certificate.

The folder also contains `splits.json` (for programs), `SPLITS.md` (for people) and, if copies of a photo have
different labels, `conflicts.png`. It appears only when it is complete.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from datasets import Dataset, DatasetDict

from natix_hf.data.splits.certificate import with_ids
from natix_hf.data.splits.certificate_text import certificate_text
from natix_hf.data.splits.contact_sheet import contact_sheet
from natix_hf.data.splits.contracts import SPLITS
from natix_hf.data.splits.cut import Cut
from natix_hf.documents.split_certificate import LabelConflict
from natix_hf.errors import UserError
from natix_hf.files import check_name, check_writable, new_folder, text_path, write_text
from natix_hf.photos.decode import StoredPhoto, photo_bytes
from natix_hf.photos.inspection import MANY, bars


def check_output(folder: str | Path) -> None:
    """Raise `UserError` if splits cannot be written to the folder. Changes nothing."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder}: expected a folder, found a file: choose another folder")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(
            f"--output {folder}: exists and is not empty: choose another folder (--extend {folder} adds photos to "
            "splits, and writes them to a new folder)"
        )
    check_name(folder.absolute())  # pyarrow opens the files by their full path
    check_writable(folder, "--output")


def save(cut: Cut, folder: str | Path) -> None:
    """Write the splits with embedded photos and their certificate, completely or not at all.

    Args:
        cut: from `splits.cut`.
    """
    folder = Path(folder)
    check_output(folder)
    with new_folder(folder) as stage:
        splits = DatasetDict({split: cut.places[split] for split in SPLITS})
        with bars(sum(map(len, splits.values())) >= MANY):
            for split in SPLITS:
                splits[split] = _embedded(splits[split], stage / "photos" / f"{split}.arrow")
            splits.save_to_disk(str(stage))
        shutil.rmtree(stage / "photos", ignore_errors=True)
        cut.description.write(stage)
        write_text(stage / "SPLITS.md", certificate_text(cut.description))
        if conflicts := cut.description.conflicts:
            contact_sheet(stage / "conflicts.png", conflicts, _photos(splits, conflicts))


def _embedded(rows: Dataset, scratch: Path) -> Dataset:
    """The rows, with the photos read into them if a path is not UTF-8.

    `datasets` cannot open such a path to embed the photo.
    """
    paths = rows.select_columns("image").flatten()["image.path"][:]
    if all(path is None or text_path(path) == path for path in paths):
        return rows
    scratch.parent.mkdir(parents=True, exist_ok=True)
    return rows.map(
        lambda photo: {"image": {**photo, "bytes": photo_bytes(photo)}},
        input_columns=["image"],
        features=rows.features,
        cache_file_name=str(scratch),
        writer_batch_size=100,
    )


def _photos(splits: DatasetDict, conflicts: list[LabelConflict]) -> dict[str, StoredPhoto]:
    """Id -> photo, for all photos in conflicts."""
    wanted = {row for conflict in conflicts for row in conflict.ids}
    return {row["id"]: row["image"] for rows in splits.values() for row in with_ids(rows, wanted)}
