"""Several sources as one table: classes that agree, columns side by side, and how many rows of each source go in.
Knows nothing of splits and opens no photo."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import datasets
from datasets import Dataset, Value

from natix_hf.data.columns import class_numbers, column_values, has_column
from natix_hf.data.reading import Raw
from natix_hf.errors import UserError


def agreed_classes(raws: Sequence[Raw], label: str, label_names: list[str] | None) -> tuple[list[int], list[str]]:
    """The class number of every row of every source, and the names.

    Raises:
        UserError: for labels missing or outside the mapping, and where two sources have different classes.
    """
    numbers: list[int] = []
    names: list[str] = []
    for raw in raws:
        values = column_values(raw.pool, label, "label_column_name")
        try:
            own, called = class_numbers(values, raw.pool.features[label], label_names)
        except UserError as error:
            raise UserError(f"{raw.source.title}: {error}" if len(raws) > 1 else str(error)) from error
        if numbers and called != names:
            raise UserError(
                f"sources {raws[0].source.name} and {raw.source.name} differ in their classes: {', '.join(names)} and "
                f"{', '.join(called)}: set label_names to the classes of all, in order (numbers are places in it)"
            )
        numbers, names = numbers + own, called
    return numbers, names


def pooled_values(raws: Sequence[Raw], key: str, what: str) -> list:
    """A column's value in every row, None in the rows of sources that do not have it.

    Raises:
        UserError: if none has it.
    """
    holders = [raw for raw in raws if has_column(raw.pool, key)] or list(raws)
    return [
        value
        for raw in raws
        for value in (column_values(raw.pool, key, what) if raw in holders else [None] * len(raw.pool))
    ]


def pooled_columns(tables: Sequence[Dataset], names: Sequence[str]) -> Dataset:
    """The rows of several tables as one; a column that only some have is null elsewhere, whole numbers beside
    fractions become fractions.

    Raises:
        UserError: if tables hold different kinds of values in a column of one name.
    """
    holders: dict[str, list[int]] = {}
    for i, table in enumerate(tables):
        for column in table.column_names:
            holders.setdefault(column, []).append(i)
    aligned = list(tables)
    for column, members in holders.items():
        kinds = [tables[i].features[column] for i in members]
        if all(isinstance(kind, Value) and kind.dtype.startswith(("int", "uint", "float")) for kind in kinds):
            kind = kinds[0] if all(kind == kinds[0] for kind in kinds) else Value("float64")
            for i in members:
                aligned[i] = (
                    aligned[i].cast_column(column, kind) if aligned[i].features[column] != kind else aligned[i]
                )
            continue
        known = [(names[i], kind) for i, kind in zip(members, kinds) if kind != Value("null")]
        for name, kind in known[1:]:
            if kind != known[0][1]:
                one, other = f"{_kind(known[0][1])} in source {known[0][0]}", f"{_kind(kind)} in source {name}"
                raise UserError(f"column {column!r} holds {one} and {other}: rename or remove it in one of them")
    return datasets.concatenate_datasets(aligned).with_format(None)  # else its columns of today stay its format


def _kind(feature: object) -> str:
    return feature.dtype if isinstance(feature, Value) else str(feature)


def left_out(
    sources: Sequence[str],
    groups: Sequence[str],
    rows: Sequence[int],
    *,
    caps: Mapping[str, int] | None,
    weights: Mapping[str, float] | None,
    seed: int,
) -> dict[int, str]:
    """Which rows the caps and weights of sources leave out.

    Groups come in an order that depends on (seed, name of the group) alone, and each stays whole: one that no longer
    fits is passed over. So the order of the rows plays no part.

    Args:
        sources: `(n,)` the source of each row.
        groups: `(n,)` the group of each row.
        rows: the rows to choose from.
        caps: at most so many rows of a source.
        weights: shares of the sources in what is left, in any unit; the source that is scarcest for its share stays
            whole, the others are capped.
        seed: of the order.

    Returns:
        Row -> reason.

    Raises:
        UserError: for names that are no sources, caps below 1, weights that are not positive or do not name all.
    """
    names = list(dict.fromkeys(sources))
    for key, given in (("source_caps", caps or {}), ("source_weights", weights or {})):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise UserError(f"{key}: no source {unknown[0]!r}; there are {', '.join(names)}")
        if any(not value > 0 for value in given.values()):
            raise UserError(f"{key}: expected numbers above 0, found {dict(given)}")
    out = _over("source_caps", caps or {}, sources, groups, rows, seed)
    if weights:
        missing = [name for name in names if name not in weights]
        if missing:
            raise UserError(
                f"source_weights: no weight for source {missing[0]!r}; give each of {', '.join(names)} one"
            )
        rows = [row for row in rows if row not in out]
        found = Counter(sources[row] for row in rows)
        whole = min(found[name] / weight for name, weight in weights.items())
        shares = {name: int(whole * weight + 1e-9) for name, weight in weights.items()}
        out |= _over("source_weights", shares, sources, groups, rows, seed)
    return out


def _over(
    key: str, caps: Mapping[str, int], sources: Sequence[str], groups: Sequence[str], rows: Sequence[int], seed: int
) -> dict[int, str]:
    """Row -> reason, of the rows over the caps."""
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
