"""The defaults of a recipe's keys, and how they are typed where a key of the file is to have no say."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

from natix_hf.recipe.options import Recipe


def defaults() -> dict[str, Any]:
    """Every key of a recipe with its default."""
    fields = [field for topic in get_type_hints(Recipe).values() for field in dataclasses.fields(topic)]
    return {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in fields
    }


def off(*keys: str) -> str:
    """The words that take keys of a recipe's file back to their defaults, since the command line wins.

    `off("mixup_alpha", "class_weights")` is `--mixup_alpha 0 --class_weights null`.
    """
    known = defaults()
    return " ".join(f"--{key} {_typed(known[key])}" for key in keys)


def _typed(value: Any) -> str:
    """A default as it is typed; `null` stands for that of any key."""
    if value is None or isinstance(value, list):
        return "null"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
