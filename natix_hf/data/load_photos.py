"""Loads photos by name and splits them: the functions of this room that verbs and scripts call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from natix_hf.data.data_options import PLAN_KEYS, SOURCE_KEYS
from natix_hf.data.sources.known_sources import read_rows
from natix_hf.data.splits.certificate import read_certificate
from natix_hf.data.splits.contracts import LockedSplits
from natix_hf.data.splits.cut import Cut, cut
from natix_hf.data.splits.growing import extended, plan_of
from natix_hf.data.splits.split_options import DEFAULT_RATIOS, Plan
from natix_hf.data.splits.unlabelled_pool import read_pool
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.errors import UserError
from natix_hf.options import RecipeValue


def load_photos(
    dataset_name: Any,
    *,
    split_ratios: Sequence[float] = DEFAULT_RATIOS,
    split_seed: int = 0,
    near_duplicates: bool = True,
    test_split: str = "keep",
    test_on: Sequence[str] | None = None,
    **source_options: Any,
) -> LockedSplits:
    """Load photos as `train`, `val_select`, `val_calib` and `val_test`. Steps read only the rows of their role.

    Args:
        dataset_name: a folder, a file, a Hub id, a `datasets` object, or `builtin:scenes` (generated street photos,
            stored below `~/.cache/natix_hf`).
        split_ratios: shares of the four splits, which sum to 1.
        split_seed: the same rows and seed give the same split, whatever the order of the rows.
        near_duplicates: find altered copies of a photo and keep them in one split.
        test_split: `keep` a test split of the source as `val_test`, or `merge` it with the rest.
        test_on: `column=value` words. `val_test` contains only photos with these values; a test split of the source
            is merged with the rest.
        source_options: `group_column`, `label_names` (both have defaults for the data sets in `known_sources.KNOWN`),
            `dataset_config` (for `builtin:scenes` see `drawn_scenes`), `image_column_name`, `label_column_name`,
            `broken_photos`, `trust_remote_code`, `num_proc`, as in `load_rows`.

    Raises:
        UserError: if the photos cannot be read or split, with one line of text.
    """
    # Checked before the photos are read, which can take minutes.
    held = {"hold_out": _held(test_on), "test_alone": True} if test_on else {}
    plan = Plan(split_ratios, split_seed, near_duplicates=near_duplicates, test_split=test_split, **held)
    return _cut(dataset_name, plan, **source_options).lock()


def recipe_photos(recipe: Mapping[str, RecipeValue], say: Callable[[str], None] | None = None) -> LockedSplits:
    """Load and split the photos of a recipe.

    Args:
        recipe: its keys and values. Missing keys have the defaults of `load_photos`.
    """
    options = {key: recipe[key] for key in (*SOURCE_KEYS, *PLAN_KEYS) if recipe.get(key) is not None}
    return load_photos(recipe["dataset_name"], num_proc=recipe.get("preprocessing_num_workers"), say=say, **options)


def pretraining_photos(recipe: Mapping[str, Any], say: Callable[[str], None]) -> LockedSplits:
    """Load the photos of a pretraining recipe for that purpose, with the pool of unlabelled photos if it names one.

    Args:
        recipe: its keys and values.
        say: called with a line about the labels and one about the pool.
    """
    splits = recipe_photos(recipe, say).dedicate("pretrain")
    if recipe["unlabelled_name"]:
        pool = read_pool(
            recipe["unlabelled_name"],
            image_column_name=recipe["image_column_name"],
            group_column=splits.description.rules.group_columns,
            by_folder=recipe["unlabelled_by_folder"],
            num_proc=recipe["preprocessing_num_workers"],
        )
        say(splits.add_pool(pool).line())
    return splits


def forgetting_photos(name: str, num_proc: int | None = None) -> tuple[Dataset, Dataset]:
    """Rows to fit a probe on and rows to evaluate it on, in whole groups, from another labelled data set."""
    splits = load_photos(name, num_proc=num_proc).dedicate("sweep")
    return splits.rows("training", step="train"), splits.rows("selection", step="choose checkpoint")


def _held(words: Sequence[str]) -> dict[str, list[str]]:
    """Column -> values from `column=value` words."""
    held: dict[str, list[str]] = {}
    for word in words:
        column, _, value = word.partition("=")
        if not column or not value:
            raise UserError(f"test_on {word}: expected COLUMN=VALUE, such as city_name=Boston")
        held.setdefault(column, []).append(value)
    return held


def split_photos(sources: Sequence[Any], *, extend: str | Path | None = None, **options: Any) -> Cut:
    """Split the rows of one or several sources without locking them, to write them as a data set.

    Args:
        sources: one or several sources for `load_rows`.
        extend: folder of earlier splits. Their rows stay where they are, and their plan is the default.
        options: fields of `Plan` and options of `load_rows`.

    Raises:
        UserError: as in `load_photos`, or if `extend` is not a folder of splits.
    """
    source = sources[0] if len(sources) == 1 else list(sources)
    certificate = None if extend is None else read_certificate(Path(extend).expanduser())
    plan_options = {field.name: options.pop(field.name) for field in fields(Plan) if field.name in options}
    plan = replace(plan_of(certificate) if certificate else Plan(), **plan_options)
    return extended(extend, certificate, source, plan, **options) if certificate else _cut(source, plan, **options)


def _cut(source: Any, plan: Plan, **options: Any) -> Cut:
    rows = read_rows(source, looks=plan.near_duplicates, **options)
    certificate = None
    if isinstance(rows.data, DatasetDict) and isinstance(source, str | Path):
        certificate = certificate_beside(source)
    if certificate and options.get("convert_photos"):
        raise UserError(
            f"convert_photos: {source} already has splits, and their certificate is valid only for unchanged photos: "
            "give the photos that they were made from"
        )
    return cut(rows, plan, certificate=certificate)


def certificate_beside(source: str | Path) -> SplitCertificate | None:
    """The certificate of a folder or a Hub data set, or None if it has none."""
    folder = Path(source).expanduser()
    if folder.exists():
        return read_certificate(folder) if (folder / "splits.json").is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    try:
        file = hf_hub_download(str(source), "splits.json", repo_type="dataset")
    except (EntryNotFoundError, LocalEntryNotFoundError):  # offline: not in the cache
        return None
    except HFValidationError:
        raise UserError(f"no such file or folder: {source}") from None
    return read_certificate(Path(file).parent)
