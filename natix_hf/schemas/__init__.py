"""JSON schemas of the files that a run leaves behind, and the check against them."""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any

import jsonschema

from natix_hf.errors import UserError


@functools.cache
def schema(name: str) -> dict[str, Any]:
    """The schema called `name` ("calibration", "metrics", "run", "splits") as a dict."""
    return json.loads(importlib.resources.files(__name__).joinpath(f"{name}.schema.json").read_text(encoding="utf-8"))


def validate(document: Any, name: str) -> None:
    """Check a document that is written as `<name>.json`.

    Args:
        document: what `json.loads` gives.
        name: the schema's name.

    Raises:
        UserError: the document does not fit; names the file, the place in it and what was expected.
    """
    validator = jsonschema.Draft202012Validator(schema(name))
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is not None:
        message = error.message if len(error.message) < 200 else f"{error.message[:200]} ..."
        raise UserError(
            f"{name}.json: at {error.json_path}: {message}; write the file again with the command that made it"
        )
