"""Reads photos and labels from any source, and returns rows with the same columns.

A source is a folder, a table, parquet files, a `save_to_disk` folder, a data set on the Hub, a `datasets` object, or
several of these. Every row gets `id, image, label, group, origin, source, fingerprint, width, height, look`. Every
photo is opened once, to find the unreadable ones. `splits` decides which rows are used for training and testing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import datasets
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from natix_hf.data.sources.columns import as_name, differing_by_case, group_names, has_column
from natix_hf.data.sources.ids import given_ids, row_ids
from natix_hf.data.sources.metadata import contradictions
from natix_hf.data.sources.pooling import agreed_classes, left_out, pooled_values
from natix_hf.data.sources.reading import Given, Raw, named_sources, read_source
from natix_hf.data.sources.stacking import stacked
from natix_hf.data.splits.contracts import SPLITS
from natix_hf.documents.figures import Left
from natix_hf.errors import UserError, few
from natix_hf.photos.client_view import client_notes
from natix_hf.photos.conversion import converted
from natix_hf.photos.decode import MAX_PHOTO_MB
from natix_hf.photos.inspection import inspected

MEASURED = ("fingerprint", "width", "height", "look")
SHOWN = 20  # most classes that `class_line` names
OWN = ("id", "image", "label", "group", "origin", "source", *MEASURED)


@dataclass(frozen=True)
class Rows:
    """The rows of all sources, and what was left out.

    Attributes:
        data: a `Dataset`, or a `DatasetDict` if the source has the four splits.
        broken: photos that cannot be read.
        dropped: readable rows that were excluded.
        group_values: group column -> its value in each row of `data`, None if missing. For a `DatasetDict`: split ->
            such a dict.
        notes: lines to show to the user.
    """

    data: Dataset | DatasetDict
    broken: list[Left]
    dropped: list[Left] = field(default_factory=list)
    group_values: dict = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def label_names(self) -> list[str]:
        """The classes, in the order of their numbers."""
        part = self.data["train"] if isinstance(self.data, DatasetDict) else self.data
        return list(part.features["label"].names)


def load_rows(
    dataset_name: Given | Sequence[Given],
    *,
    dataset_config: str | None = None,
    image_column_name: str = "image",
    label_column_name: str = "label",
    group_column: str | Sequence[str] | None = None,
    label_names: list[str] | None = None,
    description_column: str | None = None,
    positive_label: str | None = None,
    source_caps: Mapping[str, int] | None = None,
    source_weights: Mapping[str, float] | None = None,
    cap_seed: int = 0,
    broken_photos: str = "refuse",
    max_photo_mb: float = MAX_PHOTO_MB,
    max_photo_pixels: int | None = None,
    convert_photos: bool = False,
    looks: bool = True,
    trust_remote_code: bool = False,
    num_proc: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Rows:
    """Read a data set in any common form, or several as one.

    Args:
        dataset_name: folder, `.csv` / `.jsonl` / `.parquet` file, Hub id, a `datasets` object, or a list of these.
            Each may be written `name=path`. The name is stored in the column `source`. With several sources it is
            also a prefix of the ids (`name/id`).
        image_column_name: column with the photos. In a table of paths, `image_path` and `file_name` are recognised.
        label_column_name: column with the labels.
        group_column: group columns, each a column name (which may contain dots) or a path into structs. By default
            each row is its own group. Rows of two sources with the same value are in one group.
        label_names: the K classes in order; label 0 is the first.
        description_column: a text that only rows of the positive class have. Rows whose class and text contradict
            each other are excluded. Sources without the column are not checked.
        positive_label: the class that is described, by default the one with id 1.
        source_caps: largest number of rows per source. Groups stay whole; the choice depends only on `cap_seed` and
            the groups.
        source_weights: shares of the sources in the result, reached by capping sources with too many rows.
        cap_seed: seed of the choice.
        broken_photos: `refuse` or `skip`.
        max_photo_mb: a file over this many megabytes counts as broken and is not read.
        max_photo_pixels: a photo over this many pixels counts as broken and is not decoded; None is Pillow's limit.
        convert_photos: store photos that a client's pipeline would see differently (`client_view`) as 8-bit PNG.
        looks: add the column `look`. Reading is a little cheaper without it.
        trust_remote_code: passed to `load_dataset` if True.
        num_proc: processes that read the photos; by default one per core, fewer for a small data set.
        say: called with lines for the user before photos are read: the classes with their counts, then for each
            source where the labels come from and what was ignored.

    Returns:
        The rows. A source with exactly the four splits keeps them. Other sources are pooled, and `origin` names the
        part of its source that a row comes from. Other columns are kept; if one has the name of a column above, it is
        renamed to `source_<name>`. Splits saved by this package also keep their `id, group, origin, source`.
    """
    if broken_photos not in ("refuse", "skip"):
        raise UserError(f"broken_photos: expected refuse or skip, found {broken_photos!r}")
    group_columns = [group_column] if isinstance(group_column, str) else list(group_column or ())
    raws, labels, names = load_labels(
        dataset_name,
        dataset_config=dataset_config,
        image_column_name=image_column_name,
        label_column_name=label_column_name,
        text_columns={*group_columns, *filter(None, [description_column])},
        label_names=label_names,
        trust_remote_code=trust_remote_code,
        say=say,
    )
    title = " + ".join(raw.source.title for raw in raws)
    saved = not group_columns and all(raw.ours for raw in raws)
    group_columns = ["group"] if saved else group_columns
    values = {column: pooled_values(raws, column, "group_column") for column in group_columns}
    if not saved:  # saved values match splits.json
        values = {column: list(map(as_name, of_column)) for column, of_column in values.items()}
        for line in _differing_by_case(names, values):
            say(line)
    ids_of_sources = [given_ids(raw) for raw in raws]
    used = {label_column_name, *MEASURED, *(["group"] if group_columns == ["group"] else [])}
    carried = _carried(raws, ids_of_sources, image_column_name, used)
    photos = carried.select_columns("image")
    limits = {"max_photo_mb": max_photo_mb, "max_photo_pixels": max_photo_pixels}
    inspection = inspected(photos, looks=looks, num_proc=num_proc, **limits)
    parts = [part for raw in raws for part in raw.parts]
    order = list(zip(parts, *(map(str, column) for column in values.values()), labels))
    ids, called = row_ids(raws, ids_of_sources, photos.flatten()["image.path"][:], inspection["fingerprint"][:], order)
    errors = inspection["error"][:]
    broken = [Left(id=name, reason=reason) for name, reason in zip(called, errors) if reason is not None]
    if broken and broken_photos == "refuse":
        raise _unreadable(title, broken, len(ids))
    columns = {
        "id": ids,
        "label": labels,
        "group": group_names(values, ids),
        "origin": _fact(raws, "origin", [raw.parts for raw in raws]),
        "source": _fact(raws, "source", [[raw.source.name] * len(raw.parts) for raw in raws]),
    }
    excluded: dict[int, str] = {}
    if description_column:
        reasons = _contradicting(raws, labels, names, description_column, positive_label)
        excluded = {row: reason for row, reason in reasons.items() if errors[row] is None}
    kept = [row for row, reason in enumerate(errors) if reason is None and row not in excluded]
    excluded |= left_out(
        columns["source"], columns["group"], kept, caps=source_caps, weights=source_weights, seed=cap_seed
    )
    kept = [row for row in kept if row not in excluded]
    if broken and not kept:
        raise UserError(
            f"{title}: none of {len(ids)} photos can be used; the first is {broken[0].id}: {broken[0].reason}"
        )
    _check_classes([labels[row] for row in kept], names, title)
    made = Dataset.from_dict(columns, features=_features(names))
    data = datasets.concatenate_datasets([made, inspection.remove_columns(["error", "client"]), carried], axis=1)
    client = inspection["client"][:]
    if convert_photos:
        data, client = converted(data, [row for row in kept if client[row]]), [""] * len(ids)
    notes = client_notes([client[row] for row in kept], [ids[row] for row in kept])
    dropped = [Left(id=ids[row], reason=excluded[row]) for row in sorted(excluded)]
    if not raws[0].brings_splits:
        return Rows(_select(data, kept), broken, dropped, _some(values, kept), notes)
    members = {split: [row for row in kept if parts[row] == split] for split in SPLITS}
    return Rows(
        DatasetDict({split: _select(data, rows) for split, rows in members.items()}),
        broken,
        dropped,
        {split: _some(values, rows) for split, rows in members.items()},
        notes,
    )


def _carried(raws: list[Raw], given: list[list[str] | None], image: str, used: set[str]) -> Dataset:
    """The columns of all sources as one table, without those in `used` and those that `load_rows` makes anew."""
    pools = []
    for raw, ids in zip(raws, given):
        dropped = used | _kept_facts(raw, alone=len(raws) == 1) | ({"id"} if ids else set())
        pools.append(_renamed(raw.pool, image, dropped))
    return stacked(pools, [f"source {raw.source.name}" for raw in raws])


def _unreadable(title: str, broken: list[Left], photos: int) -> UserError:
    first = ", ".join(f"{photo.id} ({photo.reason})" for photo in broken[:3]) + ", ..." * (len(broken) > 3)
    return UserError(
        f"{title}: {len(broken)} of {photos} photos cannot be read: {first}: remove them or set broken_photos: skip"
    )


def _differing_by_case(names: Sequence[str], groups: Mapping[str, Sequence[str | None]]) -> list[str]:
    """Lines about classes, or values of a group column, that differ only in case; at most three for each."""
    named = {"classes": names, **{f"groups of {column}": values for column, values in groups.items()}}
    return [
        f"{what} that differ only in case: {', '.join(alike)}; give them one name if they are the same"
        for what, values in named.items()
        for alike in differing_by_case(values)[:3]
    ]


def load_labels(
    dataset_name: Given | Sequence[Given],
    *,
    dataset_config: str | None = None,
    image_column_name: str = "image",
    label_column_name: str = "label",
    text_columns: Set[str] = frozenset(),
    label_names: list[str] | None = None,
    trust_remote_code: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[Raw], list[int], list[str]]:
    """The sources, the class number of every row and the class names. Opens no photo.

    Args:
        text_columns: CSV columns to read as text, besides ids and labels.
        dataset_name, ...: as in `load_rows`.
    """
    text = {"id", label_column_name, *text_columns}
    raws = [
        read_source(source, dataset_config, image_column_name, label_column_name, text, trust_remote_code)
        for source in named_sources(dataset_name)
    ]
    _check_splits(raws)
    labels, names = agreed_classes(raws, label_column_name, label_names)
    say(class_line(labels, names))
    for raw in raws:
        say(f"labels: {raw.labels_from}")
    return raws, labels, names


def class_line(labels: Sequence[int], names: Sequence[str]) -> str:
    """A line with the classes and their numbers of photos."""
    counts = Counter(labels)
    shown = few((f"{name} {counts[i]:,}" for i, name in enumerate(names)), SHOWN)
    return f"{len(names)} classes: {shown}"


def _check_splits(raws: list[Raw]) -> None:
    """Refuse to pool a source that has the four splits with others, since that would undo its splits."""
    bring = [raw.source.title for raw in raws if raw.brings_splits]
    others = [raw.source.title for raw in raws if not raw.brings_splits]
    if bring and others:
        raise UserError(
            f"{bring[0]} has its own four splits, but {others[0]} does not: pooling them would put test rows into "
            "training: add the new photos with --extend, or give both without splits"
        )


def _fact(raws: list[Raw], column: str, otherwise: list[list[str]]) -> list[str]:
    """A column of all rows: the source's own values if `_kept_facts` keeps them, else those of `otherwise`."""
    facts: list[str] = []
    for raw, values in zip(raws, otherwise):
        facts += raw.pool[column][:] if column in _kept_facts(raw, alone=len(raws) == 1) else values
    return facts


def _kept_facts(raw: Raw, alone: bool) -> set[str]:
    """Which of the columns `origin` and `source` to keep.

    Only splits saved by this package keep them, and `source` only if they are the only source and have no new name.
    """
    facts = {"origin", "source"} if alone and not raw.source.named else {"origin"}
    return facts & set(raw.pool.column_names) if raw.ours else set()


def _renamed(pool: Dataset, image: str, used: set[str]) -> Dataset:
    """The source's columns without those in `used`. Photos are called `image`; names of our columns are changed."""
    drop = {name for name in pool.column_names if name in used and name != image}
    names = {name: f"source_{name}" for name in pool.column_names if name in OWN and name not in drop | {image}}
    drop |= set(names.values()) & set(pool.column_names)  # from an earlier call
    pool = pool.remove_columns(sorted(drop)).rename_columns(names)
    return pool if image == "image" else pool.rename_column(image, "image")


def _contradicting(
    raws: list[Raw], labels: list[int], names: list[str], column: str, positive_label: str | None
) -> dict[int, str]:
    """Row -> reason, for rows whose class and description contradict each other, in sources with descriptions."""
    texts = pooled_values(raws, column, "description_column")
    reasons = contradictions(labels, names, texts, column, positive_label)
    described = [has_column(raw.pool, column) for raw in raws for _ in raw.parts]
    return {row: reason for row, reason in reasons.items() if described[row]}


def _features(names: list[str]) -> Features:
    text = Value("string")
    return Features({"id": text, "label": ClassLabel(names=names), "group": text, "origin": text, "source": text})


def _select(data: Dataset, rows: list[int]) -> Dataset:
    return data if len(rows) == len(data) else data.select(rows, keep_in_memory=True)


def _some(values: dict[str, list], rows: list[int]) -> dict[str, list]:
    return {column: [of_column[row] for row in rows] for column, of_column in values.items()}


def _check_classes(labels: list[int], names: list[str], title: str) -> None:
    present = sorted(set(labels))
    if len(names) < 2 or len(present) < 2:
        only = names[present[0]] if present else "none"
        raise UserError(
            f"{title}: all {len(labels)} photos are of one class ({only!r}); a classifier needs at least two"
        )
