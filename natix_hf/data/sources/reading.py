"""Reads each source that the user named, from disk, the Hub or memory, as raw tables.

Labels and groups are not interpreted and no photo is opened.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from errno import EACCES, EDQUOT, ENOSPC
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict, Image

from natix_hf.data.sources.columns import check_paths, names_in
from natix_hf.data.sources.folders import WHOLE, read_local
from natix_hf.data.sources.named_places import name_and_place
from natix_hf.data.sources.parquet_files import file_names, read_parquet
from natix_hf.data.sources.stacking import stacked
from natix_hf.data.splits.contracts import SPLITS
from natix_hf.errors import UserError
from natix_hf.files import only_a_path, shown, text_path

Given = str | os.PathLike | Dataset | DatasetDict
_PHOTO_TYPES = ("string", "large_string", "binary", "large_binary")


@dataclass(frozen=True)
class Source:
    """A place that rows come from.

    Attributes:
        name: its name in the column `source`.
        place: a path, a Hub id or a `datasets` object.
        named: whether the user gave the name.
    """

    name: str
    place: Given
    named: bool

    @property
    def title(self) -> str:
        """Its name in messages."""
        if isinstance(self.place, Dataset | DatasetDict):
            return f"source {self.name}" if self.named else "the data set"
        return shown(os.fspath(self.place))


@dataclass(frozen=True)
class Raw:
    """The raw rows of a source.

    Attributes:
        source: the source.
        pool: the rows of all its parts, with undecoded photos.
        parts: `(n,)` the source's part of each row, such as its own split.
        root: the folder that paths are relative to, or None.
        labels_from: one line: where the labels come from, and what was ignored.
    """

    source: Source
    pool: Dataset
    parts: list[str]
    root: Path | None
    labels_from: str

    @property
    def brings_splits(self) -> bool:
        """Whether its parts are exactly the four splits."""
        return set(self.parts) == set(SPLITS)

    @property
    def ours(self) -> bool:
        """Whether it was split and saved by this package, so that its ids, groups and origins can be kept."""
        return self.brings_splits and {"id", "group", "fingerprint"} <= set(self.pool.column_names)


def named_sources(dataset_name: Given | Sequence[Given]) -> list[Source]:
    """The sources that a user names: one or a list, each a place or `name=place`.

    A single source without a name is called `all`. Of several, each is named after the last part of its path or after
    its Hub id.

    Raises:
        UserError: if the list is empty, or if two sources have the same name or place.
    """
    places = list(dataset_name) if isinstance(dataset_name, list | tuple) else [dataset_name]
    if not places:
        raise UserError("dataset_name: expected at least one folder, file or Hub id; found an empty list")
    sources: list[Source] = []
    for number, place in enumerate(places, start=1):
        source = _named(place, number, alone=len(places) == 1)
        for other in sources:
            if other.name == source.name:
                raise UserError(
                    f"dataset_name: two sources are called {source.name!r} ({other.title}, {source.title}): give "
                    f"them different names, such as {source.name}-2={source.title}"
                )
            if isinstance(place, str | os.PathLike) and other.title == source.title:
                raise UserError(f"dataset_name: {source.title} is given twice, as {other.name} and {source.name}")
        sources.append(source)
    return sources


def _named(place: Given, number: int, alone: bool) -> Source:
    if isinstance(place, Dataset | DatasetDict):
        return Source(WHOLE, place, False) if alone else Source(f"source-{number}", place, True)
    name, text = name_and_place(os.fspath(place))
    if name is not None:
        return Source(shown(name), text, True)
    if alone:
        return Source(WHOLE, text, False)
    path = Path(text_path(text)).expanduser()
    return Source(shown(path.resolve().name if path.exists() else text), text, False)


def read_source(
    source: Source, config: str | None, image: str, label: str | None, text_columns: set[str], trust: bool
) -> Raw:
    """Read the rows of a source, and check that it has the columns of photos and labels.

    Args:
        config: configuration of a Hub data set.
        image: the column of photos.
        label: the column of labels, or None if labels are not needed.
        text_columns: CSV columns to read as text.
        trust: whether `load_dataset` may run the data set's own code.
    """
    parts, root, labels_from = _read(source, config, image, text_columns, trust)
    empty = [part for part, rows in parts.items() if not len(rows)]
    if empty and set(parts) == set(SPLITS) != set(empty):
        raise UserError(
            f"{source.title}: its split {empty[0]!r} is empty: add rows to it, or give the rows without splits"
        )
    parts = {part: _checked(rows, source, image, label) for part, rows in parts.items() if len(rows)}
    if not parts:
        raise UserError(f"{source.title}: the data set has no rows")
    try:
        pool = stacked(list(parts.values()), list(parts))
    except UserError as error:
        raise UserError(f"{source.title}: its parts {', '.join(parts)} differ in their columns: {error}") from error
    return Raw(source, pool, [part for part, rows in parts.items() for _ in range(len(rows))], root, labels_from)


def _read(
    source: Source, config: str | None, image: str, text: set[str], trust: bool
) -> tuple[dict[str, Dataset], Path | None, str]:
    """Part -> raw rows, the folder that paths are relative to (or None), and the line for `Raw.labels_from`."""
    if isinstance(source.place, Dataset | DatasetDict):
        parts = {WHOLE: source.place} if isinstance(source.place, Dataset) else dict(source.place)
        return parts, None, source.title
    name = os.fspath(source.place)
    path = Path(text_path(name)).expanduser()
    if path.exists():
        local = read_local(path, image, text)
        return local.parts, path if path.is_dir() else path.parent, local.labels_from
    if only_a_path(name):
        raise UserError(f"dataset_name: no such file or folder: {name}")
    return _read_hub(name, config, trust), None, f"Hub data set {name}"


def _read_hub(name: str, config: str | None, trust: bool) -> dict[str, Dataset]:
    """The splits of a Hub data set."""
    page = f"{datasets.config.HF_ENDPOINT}/datasets/{name}"
    extra = {"trust_remote_code": True} if trust else {}
    try:
        if config is None and datasets.get_dataset_default_config_name(name, **extra) is None:
            names = datasets.get_dataset_config_names(name, **extra)
            raise UserError(
                f"it has {len(names)} configurations, {', '.join(names[:10])}: name one with --dataset_config"
            )
        builder = datasets.load_dataset_builder(name, config, **extra)
        files = _files_that_differ(builder)
        return read_parquet(files) if files else dict(datasets.load_dataset(name, config, **extra))
    except datasets.exceptions.DatasetNotFoundError as error:
        if "gated" in str(error):
            raise UserError(
                f"Hub data set {name} is gated: accept its terms at {page}, then log in with `hf auth login` or set "
                "HF_TOKEN"
            ) from error
        raise UserError(
            f"dataset_name: no such file or folder: {name} is neither a local path nor a Hub data set that you can "
            "access; check the name, or if it is private log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except ConnectionError as error:
        raise UserError(
            f"dataset_name: no such file or folder: {name}; if it is a Hub data set, it is not in the cache and "
            "cannot be reached (no network, or HF_HUB_OFFLINE is set): check the path, or connect"
        ) from error
    except UserError as error:
        raise UserError(f"Hub data set {name}: {error}") from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, OSError) and error.errno in (EACCES, EDQUOT, ENOSPC):
            raise
        raise UserError(f"Hub data set {name} cannot be loaded: {error.__cause__ or error}") from error


def _files_that_differ(builder: datasets.DatasetBuilder) -> dict[str, list[Path]]:
    """Split -> downloaded parquet files of a Hub data set, if they differ in their class names. Else empty.

    `datasets` would use the names of the dataset card, or of the first file, for all files.

    Raises:
        UserError: if the dataset card has the names of a file in another order.
    """
    places = builder.config.data_files or {}
    if not places or not all(str(place).endswith(".parquet") for files in places.values() for place in files):
        return {}
    fetched = datasets.DownloadManager().download({split: list(files) for split, files in places.items()})
    files = {split: [Path(file) for file in members] for split, members in fetched.items()}
    card = names_in(builder.info.features or {})
    by_file = [(file, file_names(file)) for members in files.values() for file in members]
    if len({tuple(sorted(names.items())) for _, names in by_file if names or not card}) > 1:
        return files
    for file, names in by_file:
        for column in card.keys() & names.keys():
            places = {word: i for i, word in enumerate(card[column])}
            if any(places.get(word, i) != i for i, word in enumerate(names[column])):
                raise UserError(
                    f"column {column!r} has the names {', '.join(card[column])} in README.md and "
                    f"{', '.join(names[column])} in {file.name}: use the same order in both"
                )
    return {}


def _checked(rows: Dataset, source: Source, image: str, label: str | None) -> Dataset:
    """The rows with undecoded photos, after a check of the two columns."""
    where = "" if source.name == WHOLE else f"{source.title}: "
    for key, column in (("image_column_name", image), ("label_column_name", label)):
        if column is not None and column not in rows.column_names:
            raise UserError(f"{where}{key}: no column {column!r}: the columns are {', '.join(rows.column_names)}")
    feature = rows.features[image]
    inside = set(feature) if isinstance(feature, dict) else set()
    if not (isinstance(feature, Image) or inside & {"bytes", "path"} or getattr(feature, "dtype", "") in _PHOTO_TYPES):
        raise UserError(f"{where}image_column_name: column {image!r}: expected photos or paths, found {feature}")
    rows = rows.with_format(None)
    if getattr(feature, "dtype", "") in ("string", "large_string"):
        check_paths(rows[image][:], f"column {image!r} of {source.title}")
    for name in [name for name, kind in rows.features.items() if isinstance(kind, Image) or name == image]:
        rows = rows.cast_column(name, Image(decode=False))
    return rows
