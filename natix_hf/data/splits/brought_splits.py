"""Checks the four splits that a source already has: nothing may be in two of them."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import DatasetDict

from natix_hf.data.splits.contracts import SPLITS
from natix_hf.data.splits.groups import Grouping
from natix_hf.errors import UserError


def check_given(data: DatasetDict) -> None:
    """Raise `UserError` if a group, photo or id is in two splits, a split is empty, or train lacks a class."""
    for split in SPLITS:
        if not len(data[split]):
            raise UserError(
                f"split {split!r} of the data set is empty: add rows to it, or let natix_hf make the splits"
            )
    for what, column in (("group", "group"), ("photo", "fingerprint"), ("id", "id")):
        home: dict[str, tuple[str, str]] = {}
        clashes: dict[str, str] = {}
        for split in SPLITS:
            for value, row in zip(data[split][column][:], data[split]["id"][:]):
                first_split, other = home.setdefault(value, (split, row))
                if first_split != split and value not in clashes:
                    name = f"{other!r} = {row!r}" if what == "photo" else repr(value)
                    clashes[value] = f"{name} in {first_split} and {split}"
        if clashes:
            raise _shared(what, list(clashes.values()))
    names = data["train"].features["label"].names
    trained = set(data["train"]["label"][:])
    missing = [name for i, name in enumerate(names) if i not in trained]
    if missing:
        raise UserError(
            f"split 'train' has no photo of class {', '.join(map(repr, missing))}: add some or drop the class"
        )


def _shared(what: str, clashes: list[str], mend: str = "") -> UserError:
    return UserError(
        f"the data set's own splits share {len(clashes)} {what}{'s' if len(clashes) > 1 else ''}: "
        f"{'; '.join(clashes[:3])}: keep each {what} in one split, or give the rows without splits{mend}"
    )


def check_copies(ids: Sequence[str], homes: Sequence[str], grouping: Grouping) -> None:
    """Raise `UserError` if a photo and an altered copy of it are in different splits."""
    clashes = [
        f"{ids[pair.first]!r} in {homes[pair.first]} and {ids[pair.second]!r} in {homes[pair.second]}"
        for pair in grouping.pairs
        if homes[pair.first] != homes[pair.second]
    ]
    if clashes:
        raise _shared("near-duplicate", clashes, ", or accept them with near_duplicates: false")
