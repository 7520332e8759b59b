"""Reads unlabelled photos for pretraining, and leaves out those that are tied to a row of val_*.

If the network has seen a photo of val_*, every later figure on that photo is too good. Ties are those that put rows of
a split into one group, transitively: the same value of a group column, the same file, a near-duplicate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from datasets import Dataset, concatenate_datasets

from natix_hf.data.own_photos import unlabelled_rows
from natix_hf.data.sources.columns import as_name, column_values, has_column, with_text
from natix_hf.data.sources.pooling import pooled_values
from natix_hf.data.sources.reading import named_sources
from natix_hf.data.sources.unlabelled_photos import read_photos
from natix_hf.data.splits.certificate import rows_fingerprint
from natix_hf.data.splits.groups import equal_pixels, group_rows
from natix_hf.documents.figures import Left
from natix_hf.documents.split_certificate import Rules
from natix_hf.documents.unlabelled_pool import UnlabelledPool
from natix_hf.errors import UserError
from natix_hf.photos.inspection import inspected


def read_pool(
    sources: Sequence[str],
    *,
    image_column_name: str = "image",
    group_column: Sequence[str] | None = None,
    by_folder: bool = False,
    num_proc: int | None = None,
) -> Pool:
    """Read photos and ignore their labels.

    Args:
        sources: folders, globs, tables or Hub ids, each optionally as `name=place`.
        image_column_name: the column of photos in tables and data sets.
        group_column: columns whose values tie rows, in sources that have them.
        by_folder: photos in one sub-folder form a group, like the frames of a video.
        num_proc: number of processes that read the photos.

    Raises:
        UserError: if a source does not exist or has no readable photo.
    """
    named, parts, broken = named_sources(list(sources)), [], []
    values: dict[str, list[str | None]] = {column: [] for column in group_column or ()}
    for source in named:
        raw = read_photos(str(source.place), image_column_name, list(values))
        rows, good, unread, _ = unlabelled_rows(raw, image_column_name, None, num_proc=num_proc)
        front = f"{source.name}/" if len(named) > 1 else ""
        broken += [Left(id=front + photo.id, reason=photo.reason) for photo in unread]
        if not good:
            raise UserError(f"unlabelled_name {source.title}: none of its photos can be read: {unread[0].reason}")
        ids = [front + name for name in rows["id"][:]]
        folders = [str(PurePosixPath(name).parent) if by_folder else "." for name in ids]
        groups = [f"row:{name}" if folder == "." else f"folder:{folder}" for name, folder in zip(ids, folders)]
        parts.append(with_text(with_text(rows, "id", ids), "group", groups))
        for column, entries in values.items():
            if has_column(raw.pool, column):
                of_source = pooled_values([raw], column, "group_column")
                entries += [as_name(of_source[row]) for row in good]
            else:
                entries += [None] * len(good)
    return Pool(concatenate_datasets(parts), values, [source.title for source in named], broken)


@dataclass(frozen=True)
class Pool:
    """Readable unlabelled photos.

    Args:
        rows: `id, image, group, fingerprint, width, height, look`.
        values: group column -> `(n,)` values, None where missing.
        sources: the sources, as the user named them.
        broken: photos that cannot be read.
    """

    rows: Dataset
    values: Mapping[str, Sequence[str | None]]
    sources: list[str]
    broken: list[Left]

    def untied(self, labelled: Mapping[str, Dataset], rules: Rules) -> tuple[Dataset, UnlabelledPool]:
        """The photos that are not tied to a row of val_*, and a description of the pool.

        Args:
            labelled: the rows of the four splits.
            rules: how the splits were grouped.

        Returns:
            Rows with `group`. Photos tied to rows of train have the group of those rows.

        Raises:
            UserError: if no photo is left.
        """
        rows = concatenate_datasets(
            [part.select_columns(["id", "group", "fingerprint", "image"]) for part in labelled.values()]
        )
        groups = self._groups(rows, labelled, rules)
        count, pool_groups = len(rows), groups[len(rows) :].tolist()
        homes = [split for split, part in labelled.items() for _ in range(len(part))]
        reasons, train = {}, {}
        for number, name, home, group in zip(groups[:count].tolist(), rows["id"][:], homes, rows["group"][:]):
            if home == "train":
                train.setdefault(number, group)
            else:
                reasons.setdefault(number, f"in one group with {name!r} of {home}")
        ids = self.rows["id"][:]
        tied = [Left(id=name, reason=reasons[number]) for name, number in zip(ids, pool_groups) if number in reasons]
        kept = [row for row, number in enumerate(pool_groups) if number not in reasons]
        if not kept:
            raise UserError(
                f"unlabelled_name {' '.join(self.sources)}: all {len(ids)} photos are tied to photos of val_* "
                f"({tied[0].id} is {tied[0].reason}), so none is left for pretraining: give photos of other places"
            )
        called = [train.get(pool_groups[row], f"pool:{pool_groups[row]}") for row in kept]
        chosen = with_text(self.rows.remove_columns("look").select(kept, keep_in_memory=True), "group", called)
        return chosen, UnlabelledPool(
            sources=self.sources,
            photos=len(chosen),
            groups=len(set(called)),
            fingerprint=rows_fingerprint(chosen),
            tied=tied,
            broken=self.broken,
        )

    def _groups(self, rows: Dataset, labelled: Mapping[str, Dataset], rules: Rules) -> np.ndarray:
        """`(labelled + pool,)` group numbers when all these rows are grouped together."""
        count = len(rows)
        values = {"group": [*rows["group"][:], *self.rows["group"][:]]}
        for column in rules.group_columns:
            if column in self.values and all(has_column(part, column) for part in labelled.values()):
                known = [as_name(v) for part in labelled.values() for v in column_values(part, column, "group_column")]
                values[column] = [*known, *self.values[column]]

        def same_pixels(*pair: int) -> bool:
            return equal_pixels(*((rows[i] if i < count else self.rows[i - count])["image"] for i in pair))

        return group_rows(
            [*(f"labelled/{name}" for name in rows["id"][:]), *(f"pool/{name}" for name in self.rows["id"][:])],
            values,
            [*rows["fingerprint"][:], *self.rows["fingerprint"][:]],
            [*inspected(rows.select_columns(["image"]))["look"][:], *self.rows["look"][:]],
            same_pixels=same_pixels,
            largest_share=1.0,  # no limit: these groups are not divided
        ).numbers
