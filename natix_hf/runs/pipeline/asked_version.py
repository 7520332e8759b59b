"""Finds the version of a pipeline that a command line asks for.

Resolving a recipe takes seconds, because its training options are those of transformers. The result is therefore
cached, keyed by the content of the recipe file and the words of the command line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from natix_hf.errors import UserError
from natix_hf.files import fingerprint_file, home, write_json
from natix_hf.options import RecipeValue, typed_keys, without_keys
from natix_hf.runs.pipeline.made_from import content_of, digest, version_name
from natix_hf.runs.pipeline.plan import Version
from natix_hf.runs.provenance import versions

SET = ("output_dir", "push_to_hub")  # keys that the pipeline sets


def asked_version(words: Sequence[str], resolve: Callable[[Sequence[str]], dict[str, str]]) -> Version:
    """The version for a recipe and the keys after it. Writes only to the cache in `home()`.

    Args:
        words: recipe file and keys, as `natix_hf.train` takes them.
        resolve: returns `text` (the `recipe.yaml`), `output_dir` and `form` (of the export) for the words; called
            only if they are not in the cache.

    Raises:
        UserError: from `resolve`; or the folder of the versions is a run.
    """
    cached = _cache_file(words)
    if cached is not None and cached.is_file():
        resolved = json.loads(cached.read_text(encoding="utf-8"))
    else:
        resolved = resolve(words)
        if cached is not None:
            write_json(cached, resolved)
    recipe: dict[str, RecipeValue] = yaml.safe_load(resolved["text"])
    ending = "" if "output_dir" in typed_keys(words) else "-pipeline"
    store = Path(f"{resolved['output_dir']}{ending}")
    if (store / "run.json").is_file():
        raise UserError(
            f"output_dir {store}: expected a folder of versions, found a run: choose another folder, or "
            "remove --output_dir"
        )
    photos = content_of(recipe["dataset_name"], "photos", beside=store)
    checkpoint = content_of(recipe["model_name_or_path"], "checkpoint", revision=recipe.get("model_revision"))
    name = version_name(recipe, photos, checkpoint)
    return Version(store, name, recipe, resolved["text"], resolved["form"], without_keys(words, SET))


def _cache_file(words: Sequence[str]) -> Path | None:
    """The cache file for the resolved recipe of these words; None for a recipe that the package ships."""
    file = Path(words[0]).expanduser()
    if not file.is_file():
        return None
    made_from = [fingerprint_file(file), os.path.abspath(file), os.getcwd(), *words[1:], versions()]
    return home() / "resolved" / f"{digest(made_from)}.json"
