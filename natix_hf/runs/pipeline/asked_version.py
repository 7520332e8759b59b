"""The version of a pipeline that a command line asks for.

Reading a recipe takes seconds, since its training options are those of transformers. What a recipe file and a command
line resolve to is therefore kept, by the bytes of the one and the words of the other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from natix_hf.errors import UserError
from natix_hf.files import fingerprint_file, home, write_json
from natix_hf.options import RecipeValue
from natix_hf.runs.pipeline.made_from import content_of, digest, version_name
from natix_hf.runs.pipeline.plan import Version
from natix_hf.runs.provenance import versions


def asked_version(words: Sequence[str], resolve: Callable[[Sequence[str]], dict[str, str]]) -> Version:
    """What a recipe and the keys behind it ask for. Writes nothing but below `home()`.

    Args:
        words: recipe file and keys, as `natix_hf.train` takes them.
        resolve: gives `text` (the `recipe.yaml`), `output_dir` and `form` (of the export) of such words; called
            where they are new.

    Raises:
        UserError: as `resolve`; or versions would lie within a run.
    """
    kept = _kept(words)
    if kept is not None and kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
    else:
        found = resolve(words)
        if kept is not None:
            write_json(kept, found)
    recipe: dict[str, RecipeValue] = yaml.safe_load(found["text"])
    given = any(word.split("=")[0] == "--output_dir" for word in words)
    store = Path(found["output_dir"] if given else f"{found['output_dir']}-pipeline")
    if (store / "run.json").is_file():
        raise UserError(
            f"output_dir {store}: a run, and a folder of versions is expected: choose another one, or leave it out"
        )
    photos = content_of(recipe["dataset_name"], "photos", beside=store)
    checkpoint = content_of(recipe["model_name_or_path"], "checkpoint", revision=recipe.get("model_revision"))
    name = version_name(recipe, photos, checkpoint)
    return Version(store, name, recipe, found["text"], found["form"], _asked_here(words))


def _kept(words: Sequence[str]) -> Path | None:
    """Where the resolved recipe of these words is kept; None where they name one that the package ships."""
    file = Path(words[0]).expanduser()
    if not file.is_file():
        return None
    made_from = [fingerprint_file(file), os.path.abspath(file), os.getcwd(), *words[1:], versions()]
    return home() / "resolved" / f"{digest(made_from)}.json"


def _asked_here(words: Sequence[str]) -> list[str]:
    """The words without the keys that a pipeline sets itself."""
    kept, skips = [], False
    for word in words:
        if word.startswith("--"):
            skips = word.partition("=")[0] in ("--output_dir", "--push_to_hub")
        if not skips:
            kept.append(word)
    return kept
