"""What the versions of a pipeline are made from: the keys of their recipe, the bytes of their photos and checkpoint.

A version is a run folder whose name says what it was made from, so that none is overwritten and going back to an
earlier recipe finds what that one gave. Versions that differ in decisions alone share training and predictions.
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
from natix_hf.runs.steps import ASSEMBLE, PREDICT, SPLIT, TRAIN, Step, stands

DECISION = tuple(field.name for field in dataclasses.fields(DecisionOptions))
PREDICTED = ("robustness", "calibrate_on", "calibrate_views", "slices")  # of these: what predictions are made for
NAMED_BY_CONTENT = ("dataset_name", "model_name_or_path")
SHARED = (SPLIT, TRAIN, PREDICT, ASSEMBLE)  # steps that a version takes over from one that differs in decisions alone


def digest(content: Any) -> str:
    """The blake2b-128 of JSON types, as 32 hexadecimal digits."""
    return fingerprint_bytes(json.dumps(content, sort_keys=True).encode())


def version_name(recipe: Mapping[str, RecipeValue], photos: str, checkpoint: str) -> str:
    """The folder of a version: eight digits of what its training was made from, six of its decisions.

    Args:
        recipe: resolved, its keys and values.
        photos, checkpoint: from `content_of`.
    """
    free = {*PLACES, *DECISION, *NAMED_BY_CONTENT}
    trained = {key: value for key, value in recipe.items() if key not in free}
    trained |= {key: recipe.get(key) for key in PREDICTED} | {"photos": photos, "checkpoint": checkpoint}
    decided = {key: recipe.get(key) for key in DECISION if key not in PREDICTED}
    return f"{digest(trained)[:8]}-{digest(decided)[:6]}"


def content_of(name: str, what: str, *, beside: Path | None = None, revision: str | None = None) -> str:
    """What stands behind the name of photos or of a checkpoint: the digest of a folder's files, the commit on the Hub.

    Files are read once; one whose size and time are as they were is taken to hold the same bytes. What was seen is
    kept below `home()`.

    Args:
        name: path, Hub id, or `builtin:...`.
        what: `photos` or `checkpoint`.
        beside: a folder that does not count where it lies among the files.
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
    found: dict[str, list] = {}
    for file in tqdm(files, desc=f"{what}: prints", unit="file", delay=2):
        state = os.stat(file)
        name = os.fsencode(file.relative_to(place) if file != place else file.name).hex()
        same = before.get(name, [None, None])[:2] == [state.st_size, state.st_mtime_ns]
        found[name] = before[name] if same else [state.st_size, state.st_mtime_ns, fingerprint_file(file)]
    if found != before:
        write_json(kept, found)
    return digest({name: one[2] for name, one in found.items()})


def _listed(place: Path, beside: Path | None) -> list[Path]:
    found, apart = [], beside and beside.resolve()
    for folder, folders, files in os.walk(place, followlinks=True):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and Path(folder, name).resolve() != apart
        )
        found += [Path(folder, name) for name in sorted(files) if not name.startswith(".")]
    return found


def _commit(name: str, kept: Path, what: str) -> str:
    """The commit that a repository of the Hub stands at; offline the one that was seen last."""
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
    """Another version with the same training whose `step`, and all that `SHARED` steps before it wrote, stands."""
    needed = SHARED[: SHARED.index(step) + 1]
    for folder in sorted(store.glob(f"{name.partition('-')[0]}-*")):
        if folder.name != name and all(stands(folder, one) for one in needed):
            return folder
    return None


def take_over(other: Path, version: Path, recipe: str) -> None:
    """Begin a version with what a sibling's shared steps wrote; files are linked where the disk can do that.

    Args:
        other: from `sibling`.
        version: the folder to make.
        recipe: its own `recipe.yaml`.
    """
    with new_folder(version) as stage:
        names = [name for step in SHARED for name in (*step.outputs(other), f"steps/{step.name}.json")]
        for name in (*names, "speed.json"):
            _link(other / name, stage / name)
        shutil.copy2(other / "ledger.jsonl", stage / "ledger.jsonl")  # which is appended to
        write_text(stage / "recipe.yaml", recipe)


def restore(other: Path, version: Path, step: Step) -> None:
    """Bring back what a step wrote, from a sibling where it stands."""
    for name in (*step.outputs(other), f"steps/{step.name}.json"):
        (version / name).unlink(missing_ok=True)
        _link(other / name, version / name)


def _link(source: Path, target: Path) -> None:
    """A file once more: linked, since every writer here replaces files and changes none; else copied."""
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
    """The version whose recipe differs from this one in the fewest keys, and these keys: this one's value, its own."""
    found = []
    for path in store.glob("[!.]*/recipe.yaml"):
        theirs = yaml.safe_load(path.read_text(encoding="utf-8"))
        keys = [key for key in {*theirs, *recipe} if key not in PLACES and theirs.get(key) != recipe.get(key)]
        found.append((len(keys), path.parent, {key: (recipe.get(key), theirs.get(key)) for key in sorted(keys)}))
    return min(found, key=lambda one: (one[0], one[1].name))[1:] if found else None
