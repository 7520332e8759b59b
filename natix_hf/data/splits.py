"""From rows to four locked splits: train, val_select, val_calib (cut again into fit and control) and val_test.

Whole groups, stratified by class, the same for the same rows and seed in whatever order they come. A source that
brings the four splits keeps them, after a check that no group, no photo and no id stands in two. This file knows
nothing of where the rows came from.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, DatasetInfo
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from natix_hf.data.contracts import PARTS, SPLITS, LockedSplits
from natix_hf.data.placement import place
from natix_hf.data.sources import Rows
from natix_hf.errors import UserError

DEFAULT_RATIOS = (0.60, 0.15, 0.15, 0.10)


def check_ratios(ratios: Sequence[float]) -> tuple[float, ...]:
    """The four ratios, if they are four positive numbers that sum to 1.

    Raises:
        UserError: if they are not.
    """
    shares = tuple(float(ratio) for ratio in ratios)
    if len(shares) != len(SPLITS) or not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise UserError(
            f"split_ratios: expected four positive numbers that sum to 1, for {', '.join(SPLITS)}; found "
            f"{', '.join(f'{share:g}' for share in shares)} (sum {sum(shares):g})"
        )
    return shares


def _codes(values: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Number the distinct values in sorted order: `(n,)` numbers, and the values they stand for."""
    names, codes = np.unique(np.asarray(values, dtype=object), return_inverse=True)
    return codes, names.tolist()


def _joined(groups: Sequence[str], fingerprints: Sequence[str]) -> tuple[np.ndarray, list[str], int]:
    """Groups, with those that share a photo made one: numbers, the first name of each, how many rows repeat a
    photo."""
    codes, names = _codes(groups)
    photos, prints = _codes(fingerprints)
    repeated = len(groups) - len(prints)
    if not repeated:
        return codes, names, 0
    nodes = len(names) + len(prints)
    links = coo_matrix((np.ones(len(codes)), (codes, len(names) + photos)), shape=(nodes, nodes))
    component = connected_components(links, directed=False)[1][: len(names)]
    _, first, number = np.unique(
        component, return_index=True, return_inverse=True
    )  # names are sorted: the first is the least
    return number[codes], [names[i] for i in first], repeated


def assign(
    labels: Sequence[int | str],
    groups: Sequence[str | None],
    ids: Sequence[str],
    ratios: Sequence[float] = DEFAULT_RATIOS,
    seed: int = 0,
) -> list[str]:
    """The split of each row; whole groups, classes in proportion, independent of the order of the rows.

    Args:
        labels: `(n,)` classes.
        groups: `(n,)` names of groups; None means a group of its own.
        ids: `(n,)` unique ids.
        ratios: four positive numbers that sum to 1, for `SPLITS`.
        seed: of the shuffle.

    Returns:
        `(n,)` names of `SPLITS`; every class stands in each of them.

    Raises:
        UserError: for other ratios, and for a class with fewer photos or groups than there are splits.
    """
    shares = check_ratios(ratios)
    classes, names = _codes(labels)
    codes, group_names = _codes([f"row:{i}" if group is None else group for group, i in zip(groups, ids)])
    homes = place(classes, codes, group_names, shares, seed, label_names=[str(name) for name in names])
    return [SPLITS[home] for home in homes]


def rows_fingerprint(rows: Dataset) -> str:
    """The blake2b-128 of the sorted ids and photo fingerprints of some rows; their order does not matter."""
    digest = hashlib.blake2b(digest_size=16)
    for pair in sorted(zip(rows["id"][:], rows["fingerprint"][:])):
        digest.update("\0".join(pair).encode() + b"\n")
    return digest.hexdigest()


def _select(data: Dataset, indices: np.ndarray) -> Dataset:
    """Some rows; where the photos are paths, as a small table of their own, else as a view that copies no photo."""
    rows = data.select(indices, keep_in_memory=True)
    if pc.struct_field(data.data.table.column("image"), "bytes").null_count == len(data.data):
        return Dataset(rows.with_format("arrow")[:], info=DatasetInfo(features=data.features))
    return rows


def _check_given(data: DatasetDict) -> None:
    """No group, photo or id in two of the given splits; no split empty, no class missing from train."""
    for split in SPLITS:
        if not len(data[split]):
            raise UserError(f"split {split!r} of the data set is empty: give it rows, or let natix_hf cut the splits")
    for what, column in (("group", "group"), ("photo", "fingerprint"), ("id", "id")):
        home: dict[str, tuple[str, str]] = {}
        clashes: dict[str, str] = {}
        for split in SPLITS:
            for value, row in zip(data[split][column][:], data[split]["id"][:]):
                there, other = home.setdefault(value, (split, row))
                if there != split and value not in clashes:
                    name = f"{other!r} = {row!r}" if what == "photo" else repr(value)
                    clashes[value] = f"{name} in {there} and {split}"
        if clashes:
            raise UserError(
                f"the data set's own splits share {len(clashes)} {what}{'s' if len(clashes) > 1 else ''}: "
                f"{'; '.join(list(clashes.values())[:3])}: keep each {what} in one split, or give the rows without "
                "splits"
            )
    names = data["train"].features["label"].names
    trained = set(data["train"]["label"][:])
    missing = [name for i, name in enumerate(names) if i not in trained]
    if missing:
        raise UserError(
            f"split 'train' holds no photo of class {', '.join(map(repr, missing))}: add some or drop the class"
        )


def _halves(calib: Dataset, seed: int) -> dict[str, Dataset]:
    """val_calib cut into its parts by whole groups; a class too small for both parts stands in `fit`."""
    codes, names, _ = _joined(calib["group"][:], calib["fingerprint"][:])
    homes = place(np.asarray(calib["label"][:]), codes, names, (0.5, 0.5), seed)
    return {f"val_calib/{part}": _select(calib, np.flatnonzero(homes == i)) for i, part in enumerate(PARTS)}


def describe(
    splits: dict[str, Dataset], rows: Rows, *, ratios: Sequence[float] | None, seed: int, repeated: int
) -> dict:
    """The content of `splits.json`.

    Args:
        splits: the four splits and the two parts of `val_calib` (`val_calib/fit`, `val_calib/control`).
        rows: the rows that they were cut from.
        ratios: as asked for; None where the source brought its own splits.
        seed: of the assignment.
        repeated: rows whose photo another row has too.
    """
    names = rows.label_names
    counts = {place: Counter(part["label"][:]) for place, part in splits.items()}
    prints = {place: rows_fingerprint(part) for place, part in splits.items()}
    return {
        "version": 1,
        "label_names": names,
        "ratios": None if ratios is None else list(ratios),
        "seed": seed,
        "sizes": {split: len(splits[split]) for split in SPLITS},
        "class_counts": {place: {name: counts[place][i] for i, name in enumerate(names)} for place in splits},
        "groups": {place: len(set(part["group"][:])) for place, part in splits.items()},
        "repeated_photos": repeated,
        "broken": rows.broken,
        "fingerprint": hashlib.blake2b(
            "\n".join(prints[split] for split in SPLITS).encode(), digest_size=16
        ).hexdigest(),
        "fingerprints": prints,
        "ids": {split: list(splits[split]["id"][:]) for split in SPLITS},
        "parts": {"val_calib": {part: list(splits[f"val_calib/{part}"]["id"][:]) for part in PARTS}},
    }


def split_rows(rows: Rows, ratios: Sequence[float] = DEFAULT_RATIOS, seed: int = 0) -> LockedSplits:
    """Cut the rows into four splits and lock them; a source that brings the four keeps them.

    Rows that hold the same photo, byte for byte, are kept together as if they were of one group.

    Args:
        rows: from `load_rows`.
        ratios: four positive numbers that sum to 1; not used where the source brings its splits.
        seed: of the assignment.

    Raises:
        UserError: for bad ratios, classes or groups too few to split, and given splits that share a group, a photo
            or an id.
    """
    shares = check_ratios(ratios)
    if isinstance(rows.data, DatasetDict):
        _check_given(rows.data)
        splits = {split: rows.data[split] for split in SPLITS}
        repeated = sum(len(part) - len(set(part["fingerprint"][:])) for part in splits.values())
        return _lock(splits, rows, ratios=None, seed=seed, repeated=repeated)
    codes, names, repeated = _joined(rows.data["group"][:], rows.data["fingerprint"][:])
    try:
        homes = place(np.asarray(rows.data["label"][:]), codes, names, shares, seed, label_names=rows.label_names)
    except UserError as error:
        if not repeated:
            raise
        raise UserError(
            f"{error} ({repeated} rows repeat a photo of another row; groups that share one are one)"
        ) from error
    splits = {split: _select(rows.data, np.flatnonzero(homes == i)) for i, split in enumerate(SPLITS)}
    return _lock(splits, rows, ratios=shares, seed=seed, repeated=repeated)


def _lock(splits: dict[str, Dataset], rows: Rows, **facts) -> LockedSplits:
    everything = splits | _halves(splits["val_calib"], facts["seed"])
    return LockedSplits(everything, describe(everything, rows, **facts))
