"""Concatenates tables: class ids get a common list of names, and missing columns are filled with null."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Value

from natix_hf.data.sources.columns import names_in, with_column
from natix_hf.errors import UserError

_TEXT = (Value("string"), Value("large_string"))


def stacked(tables: Sequence[Dataset], titles: Sequence[str]) -> Dataset:
    """The rows of several tables as one.

    Missing columns are filled with null, integers beside floats become floats, text stays text, and `ClassLabel` names
    are joined by `named_alike`.

    Args:
        tables: at least one.
        titles: names of the tables, for messages.

    Raises:
        UserError: if tables have different kinds of values in a column of the same name.
    """
    aligned = named_alike(tables, titles)
    for column, members in _columns(aligned):
        kinds = {i: aligned[i].features[column] for i in members if aligned[i].features[column] != Value("null")}
        first = next(iter(kinds), None)
        kind = _common(list(kinds.values()))
        for i, kind_of_table in kinds.items():
            if kind is None and kind_of_table != kinds[first]:
                one, other = f"{_kind(kinds[first])} in {titles[first]}", f"{_kind(kind_of_table)} in {titles[i]}"
                raise UserError(f"column {column!r} holds {one} and {other}: rename or remove it in one of them")
            if kind is not None and kind_of_table != kind:
                aligned[i] = aligned[i].cast_column(column, kind)
    # Without this, its format would be fixed to its present columns.
    return datasets.concatenate_datasets(aligned).with_format(None)


def _common(kinds: Sequence[Any]) -> Any:
    """A common type for values of these types. None if no conversion is needed, or none is safe."""
    if all(kind == kinds[0] for kind in kinds) or any(names_in(kind) for kind in kinds):
        return None
    schemas = [Features({"": kind}).arrow_schema.remove_metadata() for kind in kinds]
    try:
        wide = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowTypeError:
        return None
    return Features.from_arrow_schema(wide)[""]


def named_alike(tables: Sequence[Dataset], titles: Sequence[str]) -> list[Dataset]:
    """The tables with a common list of names for each `ClassLabel` column.

    A row keeps its name, but its id may change. If another table has text in the column, ids become text.

    Args:
        tables: any tables.
        titles: their names, for messages.

    Raises:
        UserError: if one table names the ids of a column and another has ids without names.
    """
    alike = list(tables)
    for column, members in _columns(alike):
        kinds = {i: alike[i].features[column] for i in members if alike[i].features[column] != Value("null")}
        named = {i: kind.names for i, kind in kinds.items() if isinstance(kind, ClassLabel)}
        others = [i for i in kinds if i not in named]
        if named and all(kinds[i] in _TEXT for i in others):
            kind = Value("string") if others else ClassLabel(names=_joined(list(named.values())))
            for i, names in named.items():
                if kinds[i] != kind:
                    alike[i] = _renamed(alike[i], column, names, kind)
        elif named:
            one, other = next(iter(named)), next(i for i in others if kinds[i] not in _TEXT)
            raise UserError(
                f"{titles[one]} says what the numbers of column {column!r} stand for ({', '.join(named[one][:5])}"
                f"{', ...' if len(named[one]) > 5 else ''}), {titles[other]} holds {_kind(kinds[other])} without "
                "names: write names in both"
            )
    return alike


def _columns(tables: Sequence[Dataset]) -> Iterator[tuple[str, list[int]]]:
    """Each column and the tables that have it."""
    for column in dict.fromkeys(name for table in tables for name in table.column_names):
        yield column, [i for i, table in enumerate(tables) if column in table.column_names]


def _joined(lists: Sequence[list[str]]) -> list[str]:
    """All names: the longest list if the others follow its order, else sorted."""
    longest = max(lists, key=len)
    place = {name: i for i, name in enumerate(longest)}
    follow = all(place.keys() >= set(names) and names == sorted(names, key=place.get) for names in lists)
    return longest if follow else sorted({name for names in lists for name in names})


def _renamed(data: Dataset, column: str, names: list[str], kind: Value | ClassLabel) -> Dataset:
    """The rows with a column of ids as text, or as ids in another list of names. In text, -1 becomes null."""
    numbers = data.data.table.column(column)
    known = pc.if_else(pc.greater_equal(numbers, 0), numbers, pa.scalar(None, numbers.type))
    if isinstance(kind, ClassLabel):
        place = {name: i for i, name in enumerate(kind.names)}
        renumbered = pc.take(pa.array([place[name] for name in names], pa.int64()), known)
        return with_column(data, column, pc.if_else(pc.less(numbers, 0), numbers, renumbered), kind)
    return with_column(data, column, pc.take(pa.array(names, pa.string()), known), kind)


def _kind(feature: Any) -> str:
    return feature.dtype if isinstance(feature, Value) else str(feature)
