"""Makes, reads and compares `splits.json`, the certificate of four splits.

All counts come from the rows of the splits. A seal over the whole document reveals edits by hand, and fingerprints tie
the document to its rows. `checking` verifies a certificate against the photos.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from natix_hf.data.splits.contracts import PARTS, SPLITS
from natix_hf.data.splits.places import components
from natix_hf.documents.figures import Left
from natix_hf.documents.split_certificate import (
    CountedRows,
    LabelConflict,
    LargestGroup,
    Parts,
    PriorShift,
    Rules,
    SplitCertificate,
)
from natix_hf.errors import UserError, few
from natix_hf.files import fingerprint_bytes

if TYPE_CHECKING:
    from datasets import Dataset

    from natix_hf.data.sources.rows import Rows
    from natix_hf.data.splits.groups import Grouping, Pair

PRINT = 16  # hex digits of a fingerprint that identify a photo
SIZES = ("1", "2", "3-5", "6-10", "over 10")  # classes of group sizes, in rows
KINDS = ("bytes", "pixels", "near-duplicate")  # of copies, the most certain first
NO_RULES = Rules(group_columns=[], metres=None, seconds=None, near_duplicates=False)
_OTHER_PHOTOS = "the photos are not the ones that splits.json was made for (fingerprints differ)"


def _digest(lines: Iterable[str]) -> str:
    return fingerprint_bytes("".join(f"{line}\n" for line in lines).encode())


def rows_fingerprint(rows: Dataset) -> str:
    """The blake2b-128 of the rows' sorted ids and photo fingerprints. It does not depend on the order of the rows."""
    return _digest(map("\0".join, sorted(zip(rows["id"][:], rows["fingerprint"][:]))))


def bytes_fingerprint(rows: Dataset) -> str:
    """The blake2b-128 of the sorted photo fingerprints. It does not depend on the ids of the rows."""
    return _digest(sorted(rows["fingerprint"][:]))


def photo_prints(rows: Dataset) -> str:
    """The first 64 bits of every photo's fingerprint, sorted and concatenated (16 hex digits each).

    They show later whether a photo is one of these. With a million photos, the chance that another photo matches one
    of them is 1 in 2e13.
    """
    return "".join(sorted(fingerprint[:PRINT] for fingerprint in rows["fingerprint"][:]))


def listed_prints(prints: str) -> list[str]:
    """The prints in a text of `photo_prints`."""
    return [prints[start : start + PRINT] for start in range(0, len(prints), PRINT)]


def known_photos(certificate: SplitCertificate) -> dict[str, str]:
    """First 64 bits of a fingerprint -> split of the photo. Empty if the certificate has no photo prints."""
    return {print_: split for split, prints in certificate.photo_prints.items() for print_ in listed_prints(prints)}


def prior_shift(class_counts: Mapping[str, Mapping[str, int]]) -> PriorShift:
    """Pearson's chi-squared test of split x class: do class shares differ between the splits?

    Args:
        class_counts: split -> class -> photos; splits and classes without a photo are not tested.
    """
    from scipy.stats import chi2_contingency  # takes a second, and every verb reads certificates

    table = np.array([list(counts.values()) for counts in class_counts.values()])  # (splits, classes) photos
    tested = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    test = chi2_contingency(tested, correction=False)
    shares = {
        split: {name: count / max(sum(counts.values()), 1) for name, count in counts.items()}
        for split, counts in class_counts.items()
    }
    return PriorShift(chi2=float(test.statistic), dof=int(test.dof), p=float(test.pvalue), shares=shares)


def copy_sets(n: int, pairs: Sequence[Pair]) -> list[tuple[list[int], str]]:
    """Sets of rows that show the same photo, each with the least certain kind of its pairs.

    Args:
        n: number of rows.
        pairs: pairs of row numbers. Pairs that share a row belong to one set.

    Returns:
        `(row numbers, kind)` of each set of two or more, ordered by first row.
    """
    component = components(n, np.array([p.first for p in pairs], int), np.array([p.second for p in pairs], int))
    members: dict[int, set[int]] = {}
    kinds: dict[int, str] = {}
    for pair in pairs:
        number = int(component[pair.first])
        members.setdefault(number, set()).update((pair.first, pair.second))
        kinds[number] = max(kinds.get(number, KINDS[0]), pair.kind, key=KINDS.index)
    return sorted((sorted(rows), kinds[number]) for number, rows in members.items())


def label_conflicts(ids: Sequence[str], labels: Sequence[str | None], pairs: Sequence[Pair]) -> list[LabelConflict]:
    """Photos that have copies with different labels.

    Args:
        ids: `(n,)` ids of the rows that `pairs` number.
        labels: `(n,)` classes. Rows without a label are ignored.
        pairs: copies.

    Returns:
        One conflict for each set of copies, sorted by ids.
    """
    conflicts = []
    for rows, kind in copy_sets(len(ids), pairs):
        copies = sorted((ids[row], labels[row]) for row in rows if labels[row] is not None)
        if len({label for _, label in copies}) > 1:
            conflicts.append(LabelConflict(ids=[i for i, _ in copies], labels=[name for _, name in copies], kind=kind))
    return sorted(conflicts, key=lambda conflict: conflict.ids)


def straddling(numbers: np.ndarray, homes: Sequence[str | None]) -> list[int]:
    """The groups that are in two splits.

    Args:
        numbers: `(n,)` group of each row.
        homes: `(n,)` split of each row; rows with None are left out.
    """
    splits: dict[int, set[str]] = {}
    for number, home in zip(numbers.tolist(), homes):
        if home is not None:
            splits.setdefault(number, set()).add(home)
    return sorted(number for number, homes_of_group in splits.items() if len(homes_of_group) > 1)


def _group_sizes(sizes: Iterable[int]) -> dict[str, int]:
    classes = np.digitize(list(sizes), (2, 3, 6, 11))
    return dict(zip(SIZES, np.bincount(classes, minlength=len(SIZES)).tolist()))


def counted(places: Mapping[str, Dataset], names: Sequence[str]) -> CountedRows:
    """All counts of a certificate, from the rows in `places` (see `describe`) and the class `names`."""
    counts = {place: Counter(part["label"][:]) for place, part in places.items()}
    groups = {place: Counter(part["group"][:]) for place, part in places.items()}
    prints = {place: rows_fingerprint(part) for place, part in places.items()}
    total = sum(len(places[split]) for split in SPLITS)
    everywhere = sum((groups[split] for split in SPLITS), Counter())
    # The group with the most rows. Of equally large groups, the first by name.
    largest, rows = min(everywhere.items(), key=lambda item: (-item[1], item[0]))
    photos = Counter(value for split in SPLITS for value in places[split]["fingerprint"][:])
    class_counts = {place: {name: counts[place][i] for i, name in enumerate(names)} for place in places}
    return CountedRows(
        sizes={split: len(places[split]) for split in SPLITS},
        reached={split: len(places[split]) / total for split in SPLITS},
        class_counts=class_counts,
        prior_shift=prior_shift({split: class_counts[split] for split in SPLITS}),
        groups={place: len(groups[place]) for place in places},
        group_sizes={place: _group_sizes(groups[place].values()) for place in places},
        largest_group=LargestGroup(name=largest, rows=rows, share=rows / total),
        sources=dict(sorted(Counter(name for split in SPLITS for name in places[split]["source"][:]).items())),
        repeated_photos=total - len(photos),
        fingerprint=fingerprint_bytes("\n".join(prints[split] for split in SPLITS).encode()),
        fingerprints=prints,
        byte_fingerprints={place: bytes_fingerprint(part) for place, part in places.items()},
        photo_prints={split: photo_prints(places[split]) for split in SPLITS},
        ids={split: list(places[split]["id"][:]) for split in SPLITS},
        parts=Parts(val_calib={part: list(places[f"val_calib/{part}"]["id"][:]) for part in PARTS}),
    )


def describe(
    places: dict[str, Dataset],
    rows: Rows,
    grouping: Grouping | None,
    *,
    ratios: Sequence[float] | None,
    seed: int,
    strata: Sequence[str] = (),
    hold_out: Mapping[str, Sequence[str]] | None = None,
    rules: Rules = NO_RULES,
    set_aside: Sequence[Left] = (),
) -> SplitCertificate:
    """The sealed certificate of rows that were split.

    Args:
        places: the four splits and the two parts of `val_calib`. Their column `group` names each row's group.
        rows: the rows that were split.
        grouping: the grouping of these rows, or of the four splits one after the other if the source has its own.
            None if the column `group` is the only tie.
        ratios: the requested shares; None if the source has its own splits.
        seed: seed of the assignment.
        strata: columns that the splits are stratified by.
        hold_out: column -> values that only `val_test` has.
        rules: which rows were tied together.
        set_aside: rows that no split can take without a leak.
    """
    names = rows.label_names
    labels = {
        row: names[label] for split in SPLITS for row, label in zip(places[split]["id"][:], places[split]["label"][:])
    }
    homes = {row: split for split in SPLITS for row in places[split]["id"][:]}
    if grouping is None:
        ids = list(homes)
        groups = [group for split in SPLITS for group in places[split]["group"][:]]
        numbers, ties, pairs = np.unique(np.array(groups, dtype=object), return_inverse=True)[1], {}, []
    else:
        parts = [rows.data[split] for split in SPLITS] if isinstance(rows.data, dict) else [rows.data]
        ids = [row for part in parts for row in part["id"][:]]
        numbers, ties, pairs = grouping.numbers, grouping.ties, grouping.pairs
    return SplitCertificate.sealed(
        label_names=names,
        ratios=None if ratios is None else list(ratios),
        seed=seed,
        strata=list(strata),
        hold_out={column: list(values) for column, values in (hold_out or {}).items()},
        rules=rules,
        **dict(counted(places, names)),
        ties=dict(ties),
        straddling=len(straddling(numbers, [homes.get(row) for row in ids])),
        conflicts=label_conflicts(ids, [labels.get(row) for row in ids], pairs),
        broken=rows.broken,
        dropped=rows.dropped,
        set_aside=list(set_aside),
    )


def read_certificate(folder: str | Path) -> SplitCertificate:
    """Read the certificate of a folder of splits or of a run, and check its form and its seal.

    Args:
        folder: the folder that contains `splits.json`.

    Raises:
        UserError: if there is none, or if it was changed after it was written.
    """
    if not SplitCertificate.there(folder):
        raise UserError(
            f"{folder}: no certificate (splits.json): make one with python -m natix_hf.data split {folder} --output "
            "FOLDER, which keeps the splits unchanged"
        )
    certificate = SplitCertificate.read(folder)
    certificate.check_seal(Path(folder) / SplitCertificate.file_name)
    return certificate


def with_ids(rows: Dataset, ids: Collection[str]) -> Dataset:
    """The rows with these ids."""
    wanted = set(ids)
    return rows.select([i for i, row in enumerate(rows["id"][:]) if row in wanted], keep_in_memory=True)


def bind(certificate: SplitCertificate, splits: Mapping[str, Dataset]) -> list[str]:
    """How a certificate differs from the rows beside it, one line per difference; empty if they match.

    Args:
        certificate: from `read_certificate`.
        splits: the four splits, with fingerprints of the photos as they are now.
    """
    differences: list[str] = []
    if sorted(certificate.label_names) != sorted(splits["train"].features["label"].names):
        return ["the classes of the data set differ from those in splits.json"]
    for split in SPLITS:
        ids, listed = set(splits[split]["id"][:]), set(certificate.ids[split])
        if new := ids - listed:
            differences.append(f"{split}: {len(new)} rows are not in splits.json: {few(sorted(new))}")
        if lost := listed - ids:
            differences.append(
                f"{split}: {len(lost)} rows are in splits.json but not in the data set: {few(sorted(lost))}"
            )
        names = splits[split].features["label"].names
        counts = Counter(names[label] for label in splits[split]["label"][:])
        if {name: counts[name] for name in names} != certificate.class_counts[split]:
            differences.append(f"{split}: the number of photos per class differs from splits.json")
        if ids == listed and rows_fingerprint(splits[split]) != certificate.fingerprints[split]:
            differences.append(f"{split}: {_OTHER_PHOTOS}")
    parts = certificate.parts.val_calib
    if sorted([*parts.fit, *parts.control]) != sorted(certificate.ids["val_calib"]):
        differences.append("val_calib: its parts fit and control do not add up to val_calib")
    for part in PARTS:
        ids = getattr(parts, part)
        rows = with_ids(splits["val_calib"], ids)
        if len(rows) == len(ids) and rows_fingerprint(rows) != certificate.fingerprints[f"val_calib/{part}"]:
            differences.append(f"val_calib/{part}: {_OTHER_PHOTOS}")
    return differences
