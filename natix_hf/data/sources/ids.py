"""Names of rows that last: the source's own ids, else the photos' paths, else their fingerprints.

None depends on the order of the rows. This file knows neither labels nor splits.
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
    """The source's own ids; with the part in front (`train/7`) where each part counts anew, None where it has none or
    a row has none.

    Raises:
        UserError: if two rows of a part share one.
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
    """Where each photo lies below the source's folder, or the name that travels with its bytes; None for a path
    elsewhere."""
    base = path_text(os.path.abspath(raw.root)) + os.sep if raw.root else ""
    inside = [path.removeprefix(base) if path else None for path in photos]
    return [None if path is None or os.path.isabs(path) else Path(path).as_posix() for path in inside]


def made_ids(paths: Sequence[str | None], fingerprints: Sequence[str], order: Sequence[tuple]) -> list[str]:
    """Ids for rows that have none: paths, else fingerprints, numbered in `order` where rows share a photo."""
    if None not in paths and len(set(paths)) == len(paths):
        return list(paths)
    twice = {value for value, count in Counter(fingerprints).items() if count > 1}
    ids = list(fingerprints)
    numbers: Counter = Counter()
    for row in sorted((row for row, value in enumerate(ids) if value in twice), key=lambda row: order[row]):
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
    """The id of each row of all sources, and what a message calls its photo; the source's name stands in front where
    there are several.

    Args:
        given: of each `given_ids`.
        photos: `(n,)` the path in each row's photo.
        fingerprints: `(n,)`, "" where a photo's bytes could not be read.
        order: `(n,)` tells rows of one photo apart whatever order they come in.
    """
    ids: list[str] = []
    called: list[str] = []
    start = 0
    for raw, own in zip(raws, given):
        rows = slice(start, start + len(raw.pool))
        start = rows.stop
        paths = photo_paths(raw, photos[rows])
        found = own or made_ids(paths, fingerprints[rows], order[rows])
        front = f"{raw.source.name}/" if len(raws) > 1 else ""
        ids += [front + i for i in found]
        called += [
            front + (path or (i if print_ or own else f"row {row}"))
            for row, (path, i, print_) in enumerate(zip(paths, found, fingerprints[rows]))
        ]
    return ids, called
