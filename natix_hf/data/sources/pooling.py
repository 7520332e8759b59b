"""Several sources as one: classes that agree, values of a column, and how many rows of each source go in. Knows
nothing of splits and opens no photo."""

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

    Sources that name the same classes in another order have the order of the first.

    Raises:
        UserError: for labels missing or outside the mapping, and where two sources have different classes.
    """
    numbers: list[int] = []
    names: list[str] = []
    for raw in raws:
        try:
            own, called = _class_numbers(raw, label, label_names)
        except UserError as error:
            raise UserError(f"{raw.source.title}: {error}" if len(raws) > 1 else str(error)) from error
        names = names or called
        if set(called) != set(names):
            raise UserError(
                f"sources {raws[0].source.name} and {raw.source.name} differ in their classes: {', '.join(names)} and "
                f"{', '.join(called)}: set label_names to the classes of all, in order (numbers are places in it)"
            )
        place = {name: number for number, name in enumerate(names)}
        numbers += [place[called[number]] for number in own]
    return numbers, names


def _class_numbers(raw: Raw, label: str, label_names: list[str] | None) -> tuple[list[int], list[str]]:
    values, feature = raw.pool[label][:], raw.pool.features[label]
    if raw.ours and label_names is None and isinstance(feature, ClassLabel):
        return values, feature.names  # as they stand in splits.json
    return class_numbers(values, feature, label_names, f"column {label!r} of {raw.told.split('; ')[0]}")


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
