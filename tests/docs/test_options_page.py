"""The page of options is made from the recipe's dataclasses: every key once, and what it takes in words."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Annotated, Literal

import pytest

from natix_hf.options import SHARE
from natix_hf.recipe.options import Recipe
from natix_hf.recipe.pretrain_recipe import PretrainRecipe
from natix_hf.recipe.yaml_and_command_line import RecipeParser

HOOKS = Path(__file__).parents[2] / "docs" / "hooks"


def hook(name: str):
    """A module that MkDocs loads by its path."""
    spec = importlib.util.spec_from_file_location(name, HOOKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", [Recipe, PretrainRecipe])
def test_every_key_of_the_command_line_is_on_the_page_once(kind: type):
    text = hook("options_page").tables(kind)
    *rows, further = re.split(r"^## further options$", text, flags=re.MULTILINE)
    shown = re.findall(r"^\| `(\w+)` \|", "".join(rows), re.MULTILINE) + re.findall(r"`(\w+)`", further)
    known = {action.dest for action in RecipeParser(kind)._actions} - {"help", "recipe"}
    assert sorted(shown) == sorted(known)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Literal["lora", "full"], "`lora`, `full`"),
        (bool, "`true` or `false`"),
        (int | None, "whole number"),
        (int | str, "whole number or text"),
        (Annotated[float, SHARE], "number: a number from 0 to 1"),
        (Annotated[float | None, SHARE], "number: a number from 0 to 1"),
        (list[str] | None, "list of text"),
    ],
)
def test_what_a_key_takes(hint: object, words: str):
    assert hook("options_page").values_of(hint) == words


def test_a_marker_becomes_tables_and_other_text_stays():
    page = hook("options_page").on_page_markdown("# All options\n\n<!-- options: Recipe -->\n\nend <!-- else -->\n")
    assert page.startswith("# All options\n\n## model\n")
    assert page.endswith("\n\nend <!-- else -->\n")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('<a href="https://optuna.org">Optuna</a> <img src="report.png">', 0),
        ('<img alt="x" src="https://a.b/c.png">', 1),
        ('<script src="//cdn.b/x.js"></script>', 1),
        ('<link rel="stylesheet" href="https://fonts.googleapis.com/css">', 1),
        ('<link rel="canonical" href="https://a.b/">', 0),
        ("@import url(https://a.b/c.css); p { background: url(road.png) }", 1),
        ("p { background: url('https://a.b/road.png') }", 1),
        ("a { background: url(\"data:image/svg+xml;charset=utf-8,<svg xmlns='http://www.w3.org/2000/svg'/>\") }", 0),
    ],
)
def test_what_a_page_loads_from_another_host_is_found(text: str, found: int):
    assert len(hook("no_outside_requests").outside(text)) == found
