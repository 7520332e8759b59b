"""From wherever photos and labels lie (folder, table, parquet, save_to_disk, Hub, a `datasets` object) to rows of
one form.

Every row gets `id, image, label, group, origin, fingerprint, width, height`; every photo is opened once to find the
broken ones. This file does not decide which rows train and which test, and it does not change photos.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EACCES, EDQUOT, ENOSPC
from pathlib import Path

import datasets
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from natix_hf.data.columns import class_numbers, column_values, group_names
from natix_hf.data.contracts import SPLITS
from natix_hf.data.decode import inspect_photo
from natix_hf.data.folders import WHOLE, read_local
from natix_hf.errors import UserError

MEASURED = ("fingerprint", "width", "height")
OWN = ("id", "image", "label", "group", "origin", *MEASURED)
MANY = 1000  # rows from which reading photos is worth several processes and a progress bar


@dataclass(frozen=True)
class Rows:
    """Rows of one form, and the photos that were left out.

    Attributes:
        data: a `Dataset`, or a `DatasetDict` of the four splits where the source brings them.
        broken: `{"id", "reason"}` of each unreadable photo.
    """

    data: Dataset | DatasetDict
    broken: list[dict[str, str]]

    @property
    def label_names(self) -> list[str]:
        """The classes, in the order of their numbers."""
        part = self.data["train"] if isinstance(self.data, DatasetDict) else self.data
        return list(part.features["label"].names)


def load_rows(
    dataset_name: str | os.PathLike | Dataset | DatasetDict,
    *,
    dataset_config: str | None = None,
    image_column_name: str = "image",
    label_column_name: str = "label",
    group_column: str | None = None,
    label_names: list[str] | None = None,
    broken_photos: str = "refuse",
    trust_remote_code: bool = False,
    num_proc: int | None = None,
) -> Rows:
    """Read a data set in any usual form.

    Args:
        dataset_name: folder, `.csv` / `.jsonl` / `.parquet` file, Hub id, or a `datasets` object.
        dataset_config: configuration of a Hub data set.
        image_column_name: column of photos (in a table of paths `image_path` and `file_name` are found by themselves).
        label_column_name: column of labels.
        group_column: column of groups, a flat name (dots and all) or a path into structs; without it each row is its
            own group.
        label_names: the K classes in order; label 0 is the first.
        broken_photos: `refuse` or `skip`.
        trust_remote_code: handed to `load_dataset` only where set.
        num_proc: processes that read the photos; by default one per core, fewer for a small data set.

    Returns:
        The rows. A source that brings exactly the four splits keeps them, any other is pooled, its parts noted in
        `origin`. Columns of the source stay, except that one that has the name of one of ours is called
        `source_<name>`.

    Raises:
        UserError: in one line, whatever is wrong with the source.
    """
    if broken_photos not in ("refuse", "skip"):
        raise UserError(f"broken_photos: expected refuse or skip, found {broken_photos!r}")
    text = {"id", label_column_name} | ({group_column} if group_column else set())
    parts, root = _read(dataset_name, dataset_config, image_column_name, text, trust_remote_code)
    parts = {
        origin: _checked(rows, image_column_name, label_column_name) for origin, rows in parts.items() if len(rows)
    }
    if not parts:
        raise UserError(f"{_title(dataset_name)}: the data set has no rows")
    try:
        pool = datasets.concatenate_datasets(list(parts.values())).with_format(None)
    except ValueError as error:
        raise UserError(
            f"{_title(dataset_name)}: its parts {', '.join(parts)} differ in their columns ({error})"
        ) from error
    origins = [origin for origin, rows in parts.items() for _ in range(len(rows))]
    labels, names = class_numbers(
        column_values(pool, label_column_name, "label_column_name"), pool.features[label_column_name], label_names
    )
    groups = column_values(pool, group_column, "group_column") if group_column else [None] * len(pool)

    seen = _inspected(pool, image_column_name, num_proc)
    paths = _paths(pool, image_column_name, root)
    ids = _ids(_given_ids(pool), paths, seen["fingerprint"][:], list(zip(origins, map(str, groups), labels)))
    broken = [
        {"id": path or (i if seen["fingerprint"][row] else f"row {row}"), "reason": reason}
        for row, (path, i, reason) in enumerate(zip(paths, ids, seen["error"][:]))
        if reason is not None
    ]
    if broken and broken_photos == "refuse":
        first = ", ".join(f"{photo['id']} ({photo['reason']})" for photo in broken[:3]) + ", ..." * (len(broken) > 3)
        raise UserError(
            f"{_title(dataset_name)}: {len(broken)} of {len(pool)} photos cannot be read: {first}: remove them or set "
            "broken_photos: skip"
        )
    own = Dataset.from_dict(
        {"id": ids, "label": labels, "group": group_names(groups, ids), "origin": origins},
        features=Features(
            {
                "id": Value("string"),
                "label": ClassLabel(names=names),
                "group": Value("string"),
                "origin": Value("string"),
            }
        ),
    )
    used = {name for name, done in (("id", ids == _given_ids(pool)), ("group", group_column == "group")) if done}
    carried = _renamed(pool, image_column_name, label_column_name, used)
    data = datasets.concatenate_datasets([own, seen.remove_columns("error"), carried], axis=1)
    if broken:
        data = data.select([row for row, reason in enumerate(seen["error"][:]) if reason is None], keep_in_memory=True)
    _check_classes(data, names, _title(dataset_name))
    if set(parts) != set(SPLITS):
        return Rows(data, broken)
    left = data["origin"][:]
    return Rows(
        DatasetDict({s: data.select([i for i, o in enumerate(left) if o == s], keep_in_memory=True) for s in SPLITS}),
        broken,
    )


def _title(source: str | os.PathLike | Dataset | DatasetDict) -> str:
    return "the data set" if isinstance(source, Dataset | DatasetDict) else str(source)


def _read(
    source: str | os.PathLike | Dataset | DatasetDict, config: str | None, image: str, text: set[str], trust: bool
) -> tuple[dict[str, Dataset], Path | None]:
    """Origin -> raw rows, and the folder that paths are relative to (None where there is none)."""
    if isinstance(source, Dataset):
        return {WHOLE: source}, None
    if isinstance(source, DatasetDict):
        return dict(source), None
    name = os.fspath(source)
    path = Path(name).expanduser()
    if path.exists():
        return read_local(path, image, text), path if path.is_dir() else path.parent
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(("/", ".csv", ".jsonl", ".parquet")):
        raise UserError(f"dataset_name: no such file or folder: {name}")
    return _read_hub(name, config, trust), None


def _read_hub(name: str, config: str | None, trust: bool) -> dict[str, Dataset]:
    """The splits of a Hub data set."""
    page = f"{datasets.config.HF_ENDPOINT}/datasets/{name}"
    extra = {"trust_remote_code": True} if trust else {}
    try:
        return dict(datasets.load_dataset(name, config, **extra))
    except datasets.exceptions.DatasetNotFoundError as error:
        if "gated" in str(error):
            raise UserError(
                f"Hub data set {name} is gated: accept its terms at {page}, then log in with `hf auth login` or set "
                "HF_TOKEN"
            ) from error
        raise UserError(
            f"dataset_name: {name} is neither a path here nor a Hub data set that you may see; check the name, or if "
            "it is private log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except ConnectionError as error:
        raise UserError(
            f"Hub data set {name} cannot be reached and is not in the cache: no network, or HF_HUB_OFFLINE is set; "
            "connect, or give a folder as dataset_name"
        ) from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, OSError) and error.errno in (EACCES, EDQUOT, ENOSPC):
            raise
        raise UserError(f"Hub data set {name} cannot be loaded: {error.__cause__ or error}") from error


def _checked(rows: Dataset, image: str, label: str) -> Dataset:
    """The rows with photos left undecoded, once the two columns are known to be there."""
    for key, column in (("image_column_name", image), ("label_column_name", label)):
        if column not in rows.column_names:
            raise UserError(f"{key}: no column {column!r}; there are {', '.join(rows.column_names)}")
    feature = rows.features[image]
    inside = set(feature) if isinstance(feature, dict) else set()
    if not (isinstance(feature, Image) or inside & {"bytes", "path"} or getattr(feature, "dtype", "") in _PHOTO_TYPES):
        raise UserError(f"image_column_name: column {image!r} holds {feature}, neither photos nor paths")
    rows = rows.with_format(None)
    for name in [name for name, kind in rows.features.items() if isinstance(kind, Image) or name == image]:
        rows = rows.cast_column(name, Image(decode=False))
    return rows


_PHOTO_TYPES = ("string", "large_string", "binary", "large_binary")


@contextmanager
def _bars(shown: bool):
    """Progress bars of `datasets`, hidden for a moment where there is little to wait for."""
    hide = not shown and not datasets.are_progress_bars_disabled()
    if hide:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            datasets.enable_progress_bars()


def _inspect(photos: list[dict]) -> dict[str, list]:
    results = [inspect_photo(photo or {}) for photo in photos]
    return dict(zip((*MEASURED, "error"), map(list, zip(*results))))


def _inspected(pool: Dataset, image: str, num_proc: int | None) -> Dataset:
    """`fingerprint, width, height, error` of each photo; photos pass through a few at a time and are not copied."""
    processes = num_proc or (min(os.cpu_count() or 1, len(pool) // 500) if len(pool) >= MANY else 1)
    kinds = {
        "fingerprint": Value("string"),
        "width": Value("int32"),
        "height": Value("int32"),
        "error": Value("string"),
    }
    with _bars(len(pool) >= MANY):
        return pool.select_columns(image).map(
            _inspect,
            input_columns=image,
            remove_columns=image,
            features=Features(kinds),
            batched=True,
            batch_size=16,
            num_proc=processes if processes > 1 else None,
            keep_in_memory=True,  # a few dozen bytes a row; a cache file would go stale when a photo changes
            load_from_cache_file=False,
            desc="reading photos",
        )


def _given_ids(pool: Dataset) -> list[str]:
    return [str(value) for value in pool["id"][:] if value is not None] if "id" in pool.column_names else []


def _paths(pool: Dataset, image: str, root: Path | None) -> list[str | None]:
    """Where each photo lies below the folder, or the name that travels with its bytes; None for a path elsewhere."""
    base = os.path.abspath(root) + os.sep if root else ""
    paths = pool.select_columns(image).flatten()[f"{image}.path"][:]
    inside = [path.removeprefix(base) if path else None for path in paths]
    return [None if path is None or os.path.isabs(path) else Path(path).as_posix() for path in inside]


def _ids(given: list[str], paths: list[str | None], fingerprints: list[str], order: list[tuple]) -> list[str]:
    """Unique ids: the source's own, else paths, else fingerprints (numbered in `order` where rows share a photo)."""
    if len(set(given)) == len(paths):
        return given
    if None not in paths and len(set(paths)) == len(paths):
        return paths
    twice = {value for value, count in Counter(fingerprints).items() if count > 1}
    ids = list(fingerprints)
    numbers: Counter = Counter()
    for row in sorted((row for row, value in enumerate(ids) if value in twice), key=lambda row: order[row]):
        numbers[fingerprints[row]] += 1
        ids[row] = f"{fingerprints[row]}-{numbers[fingerprints[row]]}"
    return ids


def _renamed(pool: Dataset, image: str, label: str, used: set[str]) -> Dataset:
    """The source's columns: photos as `image`, those we measure ourselves or took over dropped, others that have a
    name of ours renamed."""
    drop = {name for name in pool.column_names if name in MEASURED or name == label or name in used}
    names = {name: f"source_{name}" for name in pool.column_names if name in OWN and name not in drop | {image}}
    drop |= set(names.values()) & set(pool.column_names)  # of an earlier pass through here
    return (
        pool.remove_columns(sorted(drop))
        .rename_columns(names)
        .rename_columns({image: "image"} if image != "image" else {})
    )


def _check_classes(data: Dataset, names: list[str], title: str) -> None:
    present = sorted(set(data["label"][:]))
    if len(names) < 2 or len(present) < 2:
        found = names[present[0]] if present else "none"
        raise UserError(
            f"{title}: all {len(data)} photos are of one class ({found!r}); a classifier needs at least two"
        )
