"""Makes stable ids of rows: the source's own ids, else the photos' paths, else their fingerprints.

Ids do not depend on the order of the rows.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from natix_hf.data.sources.columns import as_text
from natix_hf.data.sources.reading import Raw
from natix_hf.errors import UserError
from natix_hf.files import path_text


def given_ids(raw: Raw) -> list[str] | None:
    """The source's own ids, or None if it has none for some row.

    If ids are unique only within parts, they get the part as a prefix (`train/7`).

    Raises:
        UserError: if two rows of a part have the same id.
    """
    if "id" not in raw.pool.column_names:
        return None
    ids = [as_text(value) for value in raw.pool["id"][:]]
    if None in ids:
        return None
    first: dict[tuple[str, str], int] = {}
    start: dict[str, int] = {}
    for row, key in enumerate(zip(raw.parts, ids)):
        start.setdefault(key[0], row)
        other = first.setdefault(key, row)
        if other != row:
            where = f" of {key[0]}" if len(set(raw.parts)) > 1 else ""
            rows = f"rows {other - start[key[0]]} and {row - start[key[0]]}"
            raise UserError(
                f"{raw.source.title}: {rows}{where} share the id {key[1]!r}; ids must be unique: mend the column 'id' "
                "or rename it, then ids are made from the photos"
            )
    if raw.ours or len(set(ids)) == len(ids):
        return ids
    return [f"{part}/{i}" for part, i in zip(raw.parts, ids)]


def photo_paths(raw: Raw, photos: Sequence[str | None]) -> list[str | None]:
    """Each photo's path relative to the source's folder, or the name stored with its bytes. None for other paths."""
    base = path_text(os.path.abspath(raw.root)) + os.sep if raw.root else ""
    inside = [path.removeprefix(base) if path else None for path in photos]
    return [None if path is None or os.path.isabs(path) else Path(path).as_posix() for path in inside]


def made_ids(paths: Sequence[str | None], fingerprints: Sequence[str], order: Sequence[tuple]) -> list[str]:
    """Ids for rows without ids: paths, else fingerprints, numbered in `order` if rows share a photo."""
    if None not in paths and len(set(paths)) == len(paths):
        return list(paths)
    times = Counter(fingerprints)
    ids = list(fingerprints)
    numbers: Counter = Counter()
    repeated = [row for row, print_ in enumerate(fingerprints) if times[print_] > 1]
    for row in sorted(repeated, key=order.__getitem__):
        numbers[fingerprints[row]] += 1
        ids[row] = f"{fingerprints[row]}-{numbers[fingerprints[row]]}"
    return ids


def row_ids(
    raws: Sequence[Raw],
    given: Sequence[list[str] | None],
    photos: Sequence[str | None],
    fingerprints: Sequence[str],
    order: Sequence[tuple],
) -> tuple[list[str], list[str]]:
    """The id of each row of all sources, and the name of its photo in messages.

    With several sources, both have the name of the source as a prefix.

    Args:
        given: the result of `given_ids` for each source.
        photos: `(n,)` the path of each row's photo.
        fingerprints: `(n,)`, "" where a photo's bytes could not be read.
        order: `(n,)` sort keys for rows that share a photo, independent of the order of the rows.
    """
    ids: list[str] = []
    called: list[str] = []
    start = 0
    for raw, given_by_source in zip(raws, given):
        rows = slice(start, start + len(raw.pool))
        start = rows.stop
        paths = photo_paths(raw, photos[rows])
        of_source = given_by_source or made_ids(paths, fingerprints[rows], order[rows])
        front = f"{raw.source.name}/" if len(raws) > 1 else ""
        ids += [front + i for i in of_source]
        for row, (path, i, print_) in enumerate(zip(paths, of_source, fingerprints[rows])):
            called.append(front + (path or (i if print_ or given_by_source else f"row {row}")))
    return ids, called
