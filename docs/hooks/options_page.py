"""Fills `docs/options.md`: the recipe's options as tables by topic, from the dataclasses that declare them.

MkDocs calls `on_page_markdown`. The marker `<!-- options: Recipe -->` of the page becomes the tables of that recipe.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from natix_hf.options import Bounds, defaults
from natix_hf.recipe.options import Recipe, topics_of
from natix_hf.recipe.pretrain_recipe import PretrainRecipe
from natix_hf.recipe.yaml_and_command_line import TRAINING_TOPICS

RECIPES = {"Recipe": Recipe, "PretrainRecipe": PretrainRecipe}
MARKER = re.compile(r"<!-- options: (\w+) -->")
TRAINING_ARGUMENTS = "https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments"


class Option(NamedTuple):
    key: str
    values: str
    default: str
    text: str


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for each page."""
    return MARKER.sub(lambda marker: tables(RECIPES[marker[1]]), markdown)


def tables(recipe: type) -> str:
    """Markdown: a heading and a table for each topic of a recipe, then the names of the other `TrainingArguments`."""
    lines = []
    *topics, training = topics_of(recipe)
    for topic in topics:
        lines += _table(topic._argument_group_name, _options(topic))
    rest = {option.key: option for option in _options(training)}
    for title, names in TRAINING_TOPICS.items():
        lines += _table(title, [rest.pop(name) for name in names.split() if name in rest])
    names = ", ".join(f"`{key}`" for key in sorted(rest))
    lines += ["## further options", "", f"These work as in [TrainingArguments]({TRAINING_ARGUMENTS}): {names}."]
    return "\n".join(lines)


def _table(title: str, options: list[Option]) -> list[str]:
    if not options:
        return []
    rows = [f"| `{key}` | {values} | {default} | {text} |" for key, values, default, text in options]
    head = ["| key | takes | default | what it does |", "| --- | --- | --- | --- |"]
    return [f"## {title}", "", '<div class="options" markdown="1">', "", *head, *rows, "", "</div>", ""]


def _options(topic: type) -> Iterator[Option]:
    hints, given = get_type_hints(topic, include_extras=True), defaults(topic)
    for field in dataclasses.fields(topic):
        if field.init:
            text = " ".join(field.metadata.get("help", "").split())
            yield Option(field.name, values_of(hints[field.name]), _shown(given[field.name]), escaped(text))


def values_of(hint: Any) -> str:
    """What a key takes, in words: the values of a `Literal`, or the kind of value and its bounds.

    A key may be left out, so None is not named.
    """
    if get_origin(hint) is Annotated:
        kind, *extras = get_args(hint)
        bounds = [extra.words for extra in extras if isinstance(extra, Bounds)]
        return f"{values_of(kind)}: {'; '.join(bounds)}" if bounds else values_of(kind)
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(dict.fromkeys(values_of(kind) for kind in get_args(hint) if kind is not NoneType))
    if get_origin(hint) is list:
        return f"list of {values_of(*get_args(hint))}"
    words = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text", dict: "mapping"}
    return words.get(hint) or words.get(get_origin(hint)) or "text"


def _shown(value: Any) -> str:
    value = getattr(value, "value", value)  # enums
    if value is None or value in ([], ""):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`{' '.join(map(str, value))}`"
    return f"`{value}`"


def escaped(text: str) -> str:
    """A sentence of help as the cell of a Markdown table."""
    return text.replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*").replace("[", r"\[")
