"""Declares keys of the recipe: a dataclass field with a default, one sentence of help, and bounds.

The dataclasses are in the rooms that read them; `recipe/` composes them. Bounds are part of a field's type, as in
`focal_gamma: Annotated[float, AT_LEAST_0] = option(2.0, "...")`, and only `check_bounds` reads them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from natix_hf.errors import UserError

# The value of a recipe key, as YAML reads it.
RecipeValue = bool | int | float | str | list | dict | None


def option(default, text: str, **kwargs):
    """A dataclass field with help; lists are copied, so recipes do not share them."""
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={"help": text}, **kwargs)
    return dataclasses.field(default=default, metadata={"help": text}, **kwargs)


class Bounds(NamedTuple):
    """The numbers that a key accepts; applies to each number of a list, and None is always accepted."""

    holds: Callable[[float], bool]
    words: str


AT_LEAST_0 = Bounds(lambda number: 0 <= number < float("inf"), "0 or a positive number")
AT_LEAST_1 = Bounds(lambda number: 1 <= number < float("inf"), "at least 1")
ABOVE_0 = Bounds(lambda number: 0 < number < float("inf"), "a positive number")
EACH_ABOVE_0 = Bounds(ABOVE_0.holds, "positive numbers")
SHARE = Bounds(lambda number: 0 <= number <= 1, "a number from 0 to 1")
SHARE_ABOVE_0 = Bounds(lambda number: 0 < number <= 1, "a share above 0 and at most 1")
SHARE_BELOW_1 = Bounds(lambda number: 0 <= number < 1, "a number from 0 to below 1")


def check_bounds(values: Any, declared: type) -> None:
    """Raise `UserError` for the first field whose number is out of bounds or whose word is unknown.

    Args:
        values: an object that has at least these fields.
        declared: the dataclass that declares them.
    """
    hints = get_type_hints(declared, include_extras=True)
    for field in dataclasses.fields(declared):
        value, hint = getattr(values, field.name), hints[field.name]
        if get_origin(hint) is Literal:
            *words, last = get_args(hint)
            if value not in (*words, last):
                raise UserError(f"{field.name}: expected {', '.join(words)} or {last}, found {value}")
            continue
        numbers = value if isinstance(value, list) else [] if value is None else [value]
        for bounds in (extra for extra in get_args(hint) if isinstance(extra, Bounds)):
            if not all(map(bounds.holds, numbers)):
                raise UserError(f"{field.name}: expected {bounds.words}, found {' '.join(map(str, numbers))}")


def composed(name: str, parts: Iterable[type]) -> type:
    """A dataclass with the fields of all parts in order; a field that two of them inherit appears once."""
    fields = {}
    for part in parts:
        hints = get_type_hints(part, include_extras=True)
        fields |= {field.name: (hints[field.name], option_like(field)) for field in dataclasses.fields(part)}
    return dataclasses.make_dataclass(name, [(key, *field) for key, field in fields.items()])


def some_of(declared: type, *names: str, title: str | None = None) -> type:
    """A dataclass with some fields of another, for a command that does not need the rest.

    Args:
        title: title of its group in `--help`; by default that of `declared`.
    """
    hints = get_type_hints(declared, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(declared)}
    kept = [(name, hints[name], option_like(fields[name])) for name in names]
    group = {"_argument_group_name": title or declared._argument_group_name}
    return dataclasses.make_dataclass(f"Some{declared.__name__}", kept, namespace=group)


def option_like(field: dataclasses.Field) -> dataclasses.Field:
    """A copy of a field for another dataclass."""
    return dataclasses.field(default=field.default, default_factory=field.default_factory, metadata=field.metadata)


def defaults(*declared: Any) -> dict[str, RecipeValue]:
    """The keys that dataclasses (or their instances) declare, with defaults."""
    return {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for one in declared
        for field in dataclasses.fields(one)
    }


def idle_line(given: Any, whys: Mapping[str, str]) -> str | None:
    """One line on keys that differ from their defaults and have no effect, or None if there are none.

    Args:
        given: a dataclass of options.
        whys: key without effect -> why.
    """
    known = defaults(given)
    idle: dict[str, list[str]] = {}
    for key, why in whys.items():
        if getattr(given, key) != known[key]:
            idle.setdefault(why, []).append(key)
    return "; ".join(f"{', '.join(keys)} without effect, {why}" for why, keys in idle.items()) or None


def off(declared: Any, *keys: str) -> str:
    """Options that reset keys of a recipe file to their defaults, since the command line takes precedence.

    `off(args, "mixup_alpha", "class_weights")` is `--mixup_alpha 0 --class_weights null`.

    Args:
        declared: the dataclass that declares the keys, or an instance of it.
    """
    known = defaults(declared)
    return " ".join(f"--{key} {typed(known[key])}" for key in keys)


def typed(value: Any) -> str:
    """A default as typed on the command line; `null` is the default of any key."""
    if value is None or isinstance(value, list):
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def typed_keys(words: Iterable[str]) -> list[str]:
    """The keys of a command line, in order: `learning_rate` for `--learning-rate 1e-4` or `--learning_rate=1e-4`."""
    return [word[2:].split("=")[0].replace("-", "_") for word in words if word.startswith("--")]


def without_keys(words: Iterable[str], keys: Collection[str]) -> list[str]:
    """The words of a command line without these keys and their values."""
    kept: list[str] = []
    left_out = False
    for word in words:
        if key := typed_keys([word]):
            left_out = key[0] in keys
        if not left_out:
            kept.append(word)
    return kept
