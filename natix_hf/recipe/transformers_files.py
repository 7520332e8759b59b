"""Reads transformers' training options from its source files without importing the package.

`import transformers` takes one second of CPU time; `TrainingArguments` imports torch and takes five. `--help` and the
report of a typo need neither. The source of the class contains names, types, defaults and help of the options, and the
file of `HfArgumentParser` imports only the standard library and yaml.

A test compares the result with the installed transformers. A type that cannot be read here is treated as text. A
recipe that passes here is parsed again with the real classes, which check all values.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import importlib.util
import typing
from contextlib import suppress
from enum import Enum
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any


def _path(name: str) -> Path:
    return Path(importlib.util.find_spec("transformers").submodule_search_locations[0], name)


def _classes(name: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(_path(name).read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def hf_argparser() -> ModuleType:
    """The module `transformers.hf_argparser`."""
    spec = importlib.util.spec_from_file_location("transformers.hf_argparser", _path("hf_argparser.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Types(dict):
    """Resolves names in annotations: first this dictionary, then builtins and `typing`; anything else is text."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, None) or getattr(typing, name, str)


def _enum(node: ast.ClassDef) -> type[Enum]:
    return Enum(
        node.name, {line.targets[0].id: line.value.value for line in node.body if isinstance(line, ast.Assign)}
    )


@cache
def training_fields() -> tuple[tuple[str, Any, dataclasses.Field], ...]:
    """Name, type and field of each option of `transformers.TrainingArguments`, as `make_dataclass` takes them."""
    classes = _classes("trainer_utils.py") | _classes("training_args.py")
    enums = (node for node in classes.values() if [ast.unparse(base) for base in node.bases] == ["ExplicitEnum"])
    types = _Types({node.name: _enum(node) for node in enums})
    fields = []
    for line in classes["TrainingArguments"].body:
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.value, ast.Call):
            continue
        words = {word.arg: word.value for word in line.value.keywords}
        metadata = {}
        for key, value in zip(words["metadata"].keys, words["metadata"].values):
            with suppress(ValueError):  # computed values, such as the logging levels
                metadata[key.value] = ast.literal_eval(value)
        default: dict[str, Any] = {"default": None}
        if "default_factory" in words:
            default = {"default_factory": types[words["default_factory"].id]}
        else:
            with suppress(ValueError):
                default = {"default": ast.literal_eval(words["default"])}
        kind = eval(ast.unparse(line.annotation), {}, types)
        fields.append((line.target.id, kind, dataclasses.field(**default, metadata=metadata)))
    return tuple(fields)


def early_arguments(options: type) -> type:
    """A dataclass of `options` over the options of `TrainingArguments`; it checks nothing and imports no torch."""
    parent = dataclasses.make_dataclass("TrainingArgumentsRead", training_fields())
    return dataclasses.make_dataclass("EarlyArguments", [], bases=(options, parent))
