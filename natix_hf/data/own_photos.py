"""Reads a user's own photos, labelled or not, for a finished model, groups them and divides them into two halves.

Photos that the model's training, calibration or evaluation already used are left out, because its probabilities on
them do not carry over to new photos. They are identified by their bytes; a photo saved again is not recognised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets

from natix_hf.data.sources.columns import as_name, with_text
from natix_hf.data.sources.ids import given_ids, row_ids
from natix_hf.data.sources.known_sources import read_rows
from natix_hf.data.sources.pooling import pooled_values
from natix_hf.data.sources.reading import Raw
from natix_hf.data.sources.unlabelled_photos import listed_photos, place_of, read_photos
from natix_hf.data.splits.certificate import PRINT, known_photos, read_certificate
from natix_hf.data.splits.groups import group_rows
from natix_hf.data.splits.placement import place
from natix_hf.documents.figures import Left
from natix_hf.documents.recalibration import OwnPhotosCounted
from natix_hf.errors import UserError
from natix_hf.files import text_path
from natix_hf.photos.client_view import client_notes
from natix_hf.photos.inspection import inspected

HALVES = ("fit", "control")  # one to fit the decision, one to check it


@dataclass(frozen=True)
class OwnPhotos:
    """Usable photos of the user.

    Args:
        rows: `id, image, group, fingerprint`, and `label` in the order of the model's classes if `labelled`.
        labelled: whether they have labels.
        broken: photos that cannot be read.
        known: split of the model's own data -> number of photos left out because they are in it.
        ties: kind of tie -> number of ties, as in `splits.json`.
        notes: lines to show to the user.
    """

    rows: Dataset
    labelled: bool
    broken: list[Left]
    known: dict[str, int]
    ties: dict[str, int]
    notes: list[str]

    @classmethod
    def of_run(cls, parts: Mapping[str, Dataset]) -> OwnPhotos:
        """Photos of a run's own split, one part after the other. Nothing is left out."""
        return cls(concatenate_datasets(list(parts.values())), True, [], {}, {}, [])

    def counted(self) -> OwnPhotosCounted:
        """The counts for a report."""
        groups = len(set(self.rows["group"][:]))
        return OwnPhotosCounted(n=len(self.rows), groups=groups, broken=self.broken, known=self.known, ties=self.ties)

    def halves(self, seed: int) -> dict[str, Dataset]:
        """The rows of `fit` and of `control`: whole groups, stratified by class, each class in both.

        Raises:
            UserError: if a class has fewer than two photos or groups.
        """
        names = self.rows.features["label"].names
        group_names, codes = np.unique(np.asarray(self.rows["group"][:], dtype=object), return_inverse=True)
        labels = np.asarray(self.rows["label"][:])
        try:
            homes = place(labels, codes, group_names.tolist(), (0.5, 0.5), seed, label_names=names)
        except UserError as error:
            raise UserError(f"{error} (one half is for fitting, the other for checking)") from None
        return {half: self.rows.select(np.flatnonzero(homes == i)) for i, half in enumerate(HALVES)}


def label_and_group(rows: Dataset) -> dict[str, np.ndarray]:
    """`group` and, for labelled rows, `label`, each `(n,)`."""
    groups = {"group": np.asarray(rows["group"][:], dtype=object)}
    return groups | ({"label": np.asarray(rows["label"][:])} if "label" in rows.column_names else {})


def known_in(folder: Path) -> dict[str, str]:
    """`certificate.known_photos` of a model's folder. Empty if it has no `splits.json`, or an old one."""
    return known_photos(read_certificate(folder)) if (folder / "splits.json").is_file() else {}


def have_labels(
    place: str,
    image_column_name: str = "image",
    label_column_name: str = "label",
    dataset_config: str | None = None,
) -> bool:
    """Whether photos have labels: they are in class folders, or in a table or data set with a label column.

    A folder without sub-folders of photos has no labels.

    Raises:
        UserError: if the place does not exist or cannot be read.
    """
    photos = listed_photos(place, image_column_name)
    if photos is None:
        raw = read_photos(place, image_column_name, {label_column_name}, dataset_config)
        return label_column_name in raw.pool.column_names
    root = Path(text_path(place_of(place))).expanduser()
    return root.is_dir() and any(photo.parent != root for photo in photos)


def read_labelled(
    place: str,
    label_names: Sequence[str],
    known: Mapping[str, str],
    *,
    near_duplicates: bool = True,
    image_column_name: str = "image",
    label_column_name: str = "label",
    group_column: str | None = None,
    dataset_config: str | None = None,
    say: Callable[[str], None] | None = None,
) -> OwnPhotos:
    """Read labelled photos in any form that training accepts.

    Args:
        place: folder, table, data set or Hub id.
        label_names: the classes of the model.
        known: from `certificate.known_photos`.
        near_duplicates: put altered copies of a photo into one group.
        image_column_name, label_column_name, group_column, dataset_config, say: as in `load_rows`.

    Raises:
        UserError: if the photos cannot be read, have labels that the model does not know or only one class, or if no
            photo is left.
    """
    loaded = read_rows(
        place,
        looks=near_duplicates,
        label_names=list(label_names),
        image_column_name=image_column_name,
        label_column_name=label_column_name,
        group_column=group_column,
        dataset_config=dataset_config,
        broken_photos="skip",
        say=say,
    )
    if not isinstance(loaded.data, Dataset):
        raise UserError(
            f"{place}: already has train and test splits, but your own photos are divided into halves here: give them "
            "without splits"
        )
    values = loaded.group_values or {"group": loaded.data["group"][:]}
    usable = _own(place, loaded.data, values, loaded.broken, known, near_duplicates, loaded.notes)
    present = set(usable.rows["label"][:])
    if len(present) < 2:
        raise UserError(
            f"{place}: all {len(usable.rows)} photos that the model does not know are of one class "
            f"({label_names[present.pop()]!r}): add photos of at least one other class"
        )
    return usable


def read_unlabelled(
    place: str,
    known: Mapping[str, str],
    *,
    near_duplicates: bool = True,
    image_column_name: str = "image",
    group_column: str | None = None,
    dataset_config: str | None = None,
) -> OwnPhotos:
    """Read photos and ignore their labels, if they have any. Arguments and errors are those of `read_labelled`."""
    raw = read_photos(place, image_column_name, [group_column] if group_column else (), dataset_config)
    groups = [as_name(v) for v in pooled_values([raw], group_column, "group_column")] if group_column else None
    rows, _, broken, notes = unlabelled_rows(raw, image_column_name, groups, near_duplicates=near_duplicates)
    return _own(place, rows, {"group": rows["group"][:]}, broken, known, near_duplicates, notes)


def unlabelled_rows(
    raw: Raw,
    image_column_name: str,
    groups: Sequence[str | None] | None,
    *,
    near_duplicates: bool = True,
    num_proc: int | None = None,
) -> tuple[Dataset, list[int], list[Left], list[str]]:
    """The readable photos of a source, each opened once. Labels are ignored.

    Args:
        raw: from `read_photos`.
        groups: `(n,)` group names, None for a row that is its own group. None: every row is its own group.
        near_duplicates: add the column `look`.
        num_proc: processes that read the photos.

    Returns:
        Rows with `id, group, image, fingerprint, width, height` and `look`; their numbers in the source; the photos
        that cannot be read; lines to show to the user.
    """
    column = raw.pool.select_columns([image_column_name])
    column = column if image_column_name == "image" else column.rename_column(image_column_name, "image")
    inspection = inspected(column, looks=near_duplicates, num_proc=num_proc)
    prints, errors = inspection["fingerprint"][:], inspection["error"][:]
    inside = column.flatten()["image.path"][:]
    ids, called = row_ids([raw], [given_ids(raw)], inside, prints, [(i,) for i in range(len(prints))])
    values = ids if groups is None else groups
    named = Dataset.from_dict({"id": ids, "group": [v or f"row:{i}" for v, i in zip(values, ids)]})
    rows = concatenate_datasets([named, inspection.remove_columns(["error", "client"]), column], axis=1)
    good = [i for i, reason in enumerate(errors) if reason is None]
    rows, client = rows.select(good), inspection["client"][:]
    broken = [Left(id=name, reason=reason) for name, reason in zip(called, errors) if reason is not None]
    return rows, good, broken, client_notes([client[i] for i in good], [ids[i] for i in good])


def _own(
    place: str,
    rows: Dataset,
    values: Mapping[str, Sequence[str | None]],
    broken: list[Left],
    known: Mapping[str, str],
    near_duplicates: bool,
    notes: list[str],
) -> OwnPhotos:
    """Leave out photos that the model has used, and group the others."""
    homes = [known.get(fingerprint[:PRINT]) for fingerprint in rows["fingerprint"][:]]
    new = [row for row, home in enumerate(homes) if home is None]
    counts = dict(sorted(Counter(home for home in homes if home is not None).items()))
    if not new:
        used = f"{sum(counts.values())} are in the model's own data" if counts else ""
        unread = f"{len(broken)} cannot be read, the first is {broken[0].id}: {broken[0].reason}" if broken else ""
        raise UserError(f"{place}: no usable photo: {'; '.join(filter(None, [used, unread]))}")
    if counts:
        rows = rows.select(new)
        values = {column: [entries[row] for row in new] for column, entries in values.items()}
    grouping = group_rows(rows["id"][:], values, rows["fingerprint"][:], rows["look"][:] if near_duplicates else None)
    rows = with_text(rows, "group", np.asarray(grouping.names, dtype=object)[grouping.numbers])
    return OwnPhotos(rows, "label" in rows.column_names, broken, counts, dict(grouping.ties), notes)
