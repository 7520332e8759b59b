"""Pools several sources: finds common classes, joins columns, and limits the rows of each source."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from datasets import ClassLabel

from natix_hf.data.sources.classes import class_numbers
from natix_hf.data.sources.columns import column_values, has_column
from natix_hf.data.sources.reading import Raw
from natix_hf.errors import UserError


def agreed_classes(raws: Sequence[Raw], label: str, label_names: list[str] | None) -> tuple[list[int], list[str]]:
    """The class number of every row of every source, and the names.

    If sources have the same classes in different orders, the order of the first is used.

    Raises:
        UserError: if labels are missing or unknown, or if two sources have different classes.
    """
    numbers: list[int] = []
    names: list[str] = []
    for raw in raws:
        try:
            own_numbers, own_names = _class_numbers(raw, label, label_names)
        except UserError as error:
            raise UserError(f"{raw.source.title}: {error}" if len(raws) > 1 else str(error)) from error
        names = names or own_names
        if set(own_names) != set(names):
            raise UserError(
                f"sources {raws[0].source.name} and {raw.source.name} differ in their classes: {', '.join(names)} and "
                f"{', '.join(own_names)}: set label_names to all classes in order (integer labels are positions in it)"
            )
        place = {name: number for number, name in enumerate(names)}
        numbers += [place[own_names[number]] for number in own_numbers]
    return numbers, names


def _class_numbers(raw: Raw, label: str, label_names: list[str] | None) -> tuple[list[int], list[str]]:
    values, feature = raw.pool[label][:], raw.pool.features[label]
    if raw.ours and label_names is None and isinstance(feature, ClassLabel):
        return values, feature.names  # unchanged, as in splits.json
    return class_numbers(values, feature, label_names, f"column {label!r} of {raw.labels_from.split('; ')[0]}")


def pooled_values(raws: Sequence[Raw], key: str, what: str) -> list:
    """A column's value in every row, None for sources without the column.

    Raises:
        UserError: if no source has the column.
    """
    held = [has_column(raw.pool, key) for raw in raws]
    values: list = []
    for raw, holds in zip(raws, held):
        # If no source has the column, the first one raises the error.
        values += column_values(raw.pool, key, what) if holds or not any(held) else [None] * len(raw.pool)
    return values


def left_out(
    sources: Sequence[str],
    groups: Sequence[str],
    rows: Sequence[int],
    *,
    caps: Mapping[str, int] | None,
    weights: Mapping[str, float] | None,
    seed: int,
) -> dict[int, str]:
    """The rows that caps and weights of sources exclude.

    Whole groups are taken in an order that depends only on the seed and their names, and groups that no longer fit are
    skipped. So the order of the rows does not matter.

    Args:
        sources: `(n,)` the source of each row.
        groups: `(n,)` the group of each row.
        rows: the rows to choose from.
        caps: source -> largest number of rows.
        weights: source -> share of the remaining rows, in any unit. The source with the fewest rows for its share
            stays whole; the others are capped.

    Returns:
        Row -> reason.

    Raises:
        UserError: if a source is unknown, a number is not positive, or a source has no weight.
    """
    names = list(dict.fromkeys(sources))
    for key, given in (("source_caps", caps or {}), ("source_weights", weights or {})):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise UserError(f"{key}: no source {unknown[0]!r}: the sources are {', '.join(names)}")
        if any(not value > 0 for value in given.values()):
            raise UserError(f"{key}: expected numbers above 0, found {dict(given)}")
    out = _over("source_caps", caps or {}, sources, groups, rows, seed)
    if weights:
        missing = [name for name in names if name not in weights]
        if missing:
            raise UserError(
                f"source_weights: no weight for source {missing[0]!r}: give each of {', '.join(names)} a weight"
            )
        rows = [row for row in rows if row not in out]
        counts = Counter(sources[row] for row in rows)
        rows_per_weight = min(counts[name] / weight for name, weight in weights.items())
        shares = {name: int(rows_per_weight * weight + 1e-9) for name, weight in weights.items()}
        out |= _over("source_weights", shares, sources, groups, rows, seed)
    return out


def _over(
    key: str, caps: Mapping[str, int], sources: Sequence[str], groups: Sequence[str], rows: Sequence[int], seed: int
) -> dict[int, str]:
    """Row -> reason, for rows over the caps."""
    out: dict[int, str] = {}
    for name, cap in caps.items():
        members: dict[str, list[int]] = {}
        for row in rows:
            if sources[row] == name:
                members.setdefault(groups[row], []).append(row)
        kept, over = 0, []
        for group in sorted(members, key=lambda group: hashlib.blake2b(f"{seed}\0{group}".encode()).digest()):
            if kept + len(members[group]) <= cap:
                kept += len(members[group])
            else:
                over += members[group]
        out |= dict.fromkeys(over, f"{key}: {name} keeps {kept} of its {kept + len(over)} rows")
    return out
