"""Names the versions of a pipeline by their inputs: recipe keys, and the content of photos and checkpoint.

A version is a run folder named by a hash of its inputs. So no version is overwritten, and going back to an earlier
recipe finds its results again. Versions that differ only in decision options share training and predictions.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tqdm.auto import tqdm

from natix_hf.files import (
    fingerprint_bytes,
    fingerprint_file,
    home,
    new_folder,
    only_a_path,
    read_json,
    write_json,
    write_text,
)
from natix_hf.options import RecipeValue
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.same_recipe import PLACES
from natix_hf.runs.steps import ASSEMBLE, PREDICT, SPLIT, TRAIN, Step, outputs_intact

DECISION = tuple(field.name for field in dataclasses.fields(DecisionOptions))
PREDICTED = ("robustness", "calibrate_on", "calibrate_views", "slices")  # decision options that predictions depend on
NAMED_BY_CONTENT = ("dataset_name", "model_name_or_path")
SHARED = (SPLIT, TRAIN, PREDICT, ASSEMBLE)  # reused if versions differ only in decision options


def digest(content: Any) -> str:
    """The blake2b-128 hash of a JSON value, as 32 hexadecimal digits."""
    return fingerprint_bytes(json.dumps(content, sort_keys=True).encode())


def version_name(recipe: Mapping[str, RecipeValue], photos: str, checkpoint: str) -> str:
    """The folder name of a version: eight hash digits of the inputs of training, six of the decision options.

    Args:
        recipe: keys and values of the resolved recipe.
        photos, checkpoint: from `content_of`.
    """
    free = {*PLACES, *DECISION, *NAMED_BY_CONTENT}
    trained = {key: value for key, value in recipe.items() if key not in free}
    trained |= {key: recipe.get(key) for key in PREDICTED} | {"photos": photos, "checkpoint": checkpoint}
    decided = {key: recipe.get(key) for key in DECISION if key not in PREDICTED}
    return f"{digest(trained)[:8]}-{digest(decided)[:6]}"


def content_of(name: str, what: str, *, beside: Path | None = None, revision: str | None = None) -> str:
    """Identifies the content of photos or of a checkpoint: a hash of the files of a folder, or the commit on the Hub.

    File hashes are cached in `home()`. A file with the same size and modification time is not read again.

    Args:
        name: path, Hub id, or `builtin:...`.
        what: `photos` or `checkpoint`.
        beside: a folder to ignore if it is among the files.
        revision: of a checkpoint on the Hub.
    """
    place = Path(name.partition("=")[2] or name).expanduser()
    kept = home() / "prints" / f"{digest([what, os.path.abspath(place) if place.exists() else name])}.json"
    if place.exists():
        return _files(place, kept, what, beside)
    if name.startswith("builtin:") or only_a_path(name):
        return name
    return f"{name}@{revision or _commit(name, kept, what)}"


def _files(place: Path, kept: Path, what: str, beside: Path | None) -> str:
    before = read_json(kept) if kept.is_file() else {}
    files = [place] if place.is_file() else _listed(place, beside)
    prints: dict[str, list] = {}
    for file in tqdm(files, desc=f"{what}: hashing", unit="file", delay=2):
        state = os.stat(file)
        name = os.fsencode(file.relative_to(place) if file != place else file.name).hex()
        same = before.get(name, [None, None])[:2] == [state.st_size, state.st_mtime_ns]
        prints[name] = before[name] if same else [state.st_size, state.st_mtime_ns, fingerprint_file(file)]
    if prints != before:
        write_json(kept, prints)
    return digest({name: one[2] for name, one in prints.items()})


def _listed(place: Path, beside: Path | None) -> list[Path]:
    found, apart = [], beside and beside.resolve()
    for folder, folders, files in os.walk(place, followlinks=True):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and Path(folder, name).resolve() != apart
        )
        found += [Path(folder, name) for name in sorted(files) if not name.startswith(".")]
    return found


def _commit(name: str, kept: Path, what: str) -> str:
    """The current commit of a repository on the Hub; offline, the last one seen."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api, before = HfApi(), read_json(kept) if kept.is_file() else {}
    try:
        info = api.dataset_info(name, timeout=10) if what == "photos" else api.model_info(name, timeout=10)
    except (OSError, HfHubHTTPError, OfflineModeIsEnabled):
        return before.get(name, "unknown")
    if before.get(name) != info.sha:
        write_json(kept, before | {name: info.sha})
    return info.sha


def sibling(store: Path, name: str, step: Step) -> Path | None:
    """Another version with the same training whose files of `step` and of the `SHARED` steps before it are intact."""
    needed = SHARED[: SHARED.index(step) + 1]
    for folder in sorted(store.glob(f"{name.partition('-')[0]}-*")):
        if folder.name != name and all(outputs_intact(folder, one) for one in needed):
            return folder
    return None


def take_over(other: Path, version: Path, recipe: str) -> None:
    """Start a version with the files of the shared steps of a sibling, as hard links if the disk allows it.

    Args:
        other: from `sibling`.
        version: folder to create.
        recipe: text of its `recipe.yaml`.
    """
    with new_folder(version) as stage:
        names = [name for step in SHARED for name in (*step.outputs(other), f"steps/{step.name}.json")]
        for name in (*names, "speed.json"):
            _link(other / name, stage / name)
        shutil.copy2(other / "ledger.jsonl", stage / "ledger.jsonl")  # copied, because it is appended to
        write_text(stage / "recipe.yaml", recipe)


def restore(other: Path, version: Path, step: Step) -> None:
    """Restore the files of a step from a sibling."""
    for name in (*step.outputs(other), f"steps/{step.name}.json"):
        (version / name).unlink(missing_ok=True)
        _link(other / name, version / name)


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it. Linking is safe, because every writer here replaces files and never edits them."""
    if not source.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def nearest(
    store: Path, recipe: Mapping[str, RecipeValue]
) -> tuple[Path, dict[str, tuple[RecipeValue, RecipeValue]]] | None:
    """The version whose recipe differs in the fewest keys, and these keys with the value here and there."""
    versions = []
    for path in store.glob("[!.]*/recipe.yaml"):
        theirs = yaml.safe_load(path.read_text(encoding="utf-8"))
        keys = [key for key in {*theirs, *recipe} if key not in PLACES and theirs.get(key) != recipe.get(key)]
        versions.append((len(keys), path.parent, {key: (recipe.get(key), theirs.get(key)) for key in sorted(keys)}))
    return min(versions, key=lambda version: (version[0], version[1].name))[1:] if versions else None
