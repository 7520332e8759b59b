"""The certificate of a split, `splits.json`: what stands where, counted from the rows that stand there.

A seal over the whole document tells a file that was edited by hand, fingerprints tie it to the rows. This file knows
neither how the rows were divided nor how their photos look; whether the document tells the truth is found out in
`checking`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import chi2_contingency

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
from natix_hf.files import fingerprint_bytes, read_json

if TYPE_CHECKING:
    from datasets import Dataset

    from natix_hf.data.sources.rows import Rows
    from natix_hf.data.splits.groups import Grouping, Pair

PRINT = 16  # hex digits of a fingerprint that tell a photo from others
SIZES = ("1", "2", "3-5", "6-10", "over 10")  # rows of a group
KINDS = ("bytes", "pixels", "near-duplicate")  # of copies, the surest first
NO_RULES = Rules(group_columns=[], metres=None, seconds=None, near_duplicates=False)
_OTHER_PHOTOS = "the photos are not those that splits.json was made for (fingerprints differ)"


def _digest(lines: Iterable[str]) -> str:
    return fingerprint_bytes("".join(f"{line}\n" for line in lines).encode())


def rows_fingerprint(rows: Dataset) -> str:
    """The blake2b-128 of the sorted ids and photo fingerprints of some rows; their order does not matter."""
    return _digest(map("\0".join, sorted(zip(rows["id"][:], rows["fingerprint"][:]))))


def bytes_fingerprint(rows: Dataset) -> str:
    """The blake2b-128 of the sorted photo fingerprints alone: the same whatever the rows are called."""
    return _digest(sorted(rows["fingerprint"][:]))


def photo_prints(rows: Dataset) -> str:
    """The first 64 bits of every photo's fingerprint, sorted and written one after the other (16 hex digits each).

    Enough to tell later whether a photo is one of these: among a million of them a strange photo is taken for one
    once in 2e13 times.
    """
    return "".join(sorted(fingerprint[:PRINT] for fingerprint in rows["fingerprint"][:]))


def known_photos(certificate: SplitCertificate) -> dict[str, str]:
    """The first 64 bits of a fingerprint -> the split that its photo stands in; empty for a certificate without."""
    return {
        prints[start : start + PRINT]: split
        for split, prints in certificate.photo_prints.items()
        for start in range(0, len(prints), PRINT)
    }


def prior_shift(class_counts: Mapping[str, Mapping[str, int]]) -> PriorShift:
    """Whether the splits differ in their classes: Pearson's chi-squared test of split x class.

    Args:
        class_counts: split -> class -> photos; splits and classes without a photo are left out of the test.
    """
    table = np.array([list(counts.values()) for counts in class_counts.values()])  # (splits, classes) photos
    tested = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    test = chi2_contingency(tested, correction=False)
    shares = {
        split: {name: count / max(sum(counts.values()), 1) for name, count in counts.items()}
        for split, counts in class_counts.items()
    }
    return PriorShift(chi2=float(test.statistic), dof=int(test.dof), p=float(test.pvalue), shares=shares)


def copy_sets(n: int, pairs: Sequence[Pair]) -> list[tuple[list[int], str]]:
    """Sets of rows that show the same photo, and the least sure kind of the pairs that connect each.

    Args:
        n: rows.
        pairs: of row numbers; chains of pairs are one set.

    Returns:
        `(row numbers, kind)` of each set of two or more, in the order of their first rows.
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
    """Copies of one photo that carry different labels.

    Args:
        ids: `(n,)` ids of the rows that `pairs` number.
        labels: `(n,)` classes; rows without one are passed over.
        pairs: copies.

    Returns:
        One for each set of copies, sorted by ids.
    """
    found = []
    for rows, kind in copy_sets(len(ids), pairs):
        copies = sorted((ids[row], labels[row]) for row in rows if labels[row] is not None)
        if len({label for _, label in copies}) > 1:
            found.append(LabelConflict(ids=[i for i, _ in copies], labels=[name for _, name in copies], kind=kind))
    return sorted(found, key=lambda conflict: conflict.ids)


def straddling(numbers: np.ndarray, homes: Sequence[str | None]) -> list[int]:
    """The groups that stand in two splits.

    Args:
        numbers: `(n,)` group of each row.
        homes: `(n,)` split of each row; rows that stand nowhere are passed over.
    """
    splits: dict[int, set[str]] = {}
    for number, home in zip(numbers.tolist(), homes):
        if home is not None:
            splits.setdefault(number, set()).add(home)
    return sorted(number for number, there in splits.items() if len(there) > 1)


def _group_sizes(sizes: Iterable[int]) -> dict[str, int]:
    classes = np.digitize(list(sizes), (2, 3, 6, 11))
    return dict(zip(SIZES, np.bincount(classes, minlength=len(SIZES)).tolist()))


def counted(places: Mapping[str, Dataset], names: Sequence[str]) -> CountedRows:
    """What can be counted from the rows as they stand in `places`, as in `describe`; the classes are `names`."""
    counts = {place: Counter(part["label"][:]) for place, part in places.items()}
    groups = {place: Counter(part["group"][:]) for place, part in places.items()}
    prints = {place: rows_fingerprint(part) for place, part in places.items()}
    total = sum(len(places[split]) for split in SPLITS)
    everywhere = sum((groups[split] for split in SPLITS), Counter())
    # The most rows, the first by name of several.
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
    """The certificate of rows that were split, sealed.

    Args:
        places: the four splits and the two parts of `val_calib`, `group` being the name of the row's group.
        rows: the rows that they were cut from.
        grouping: of these rows (the four splits one after the other where the source brings them); None where the
            column `group` is all that was asked about.
        ratios: as asked for; None where the source brought its own splits.
        seed: of the assignment.
        strata: columns that were kept in proportion.
        hold_out: column -> values that stand in `val_test` alone.
        rules: what was tied and how.
        set_aside: rows that fit into no split.
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
    """The certificate that lies in a folder of splits (or of a run), once its form and seal are checked.

    Args:
        folder: that holds `splits.json`, or that file.

    Raises:
        UserError: there is none, or it is not what was written.
    """
    path = Path(folder)
    path = path / "splits.json" if path.is_dir() else path
    if not path.is_file():
        raise UserError(
            f"{folder}: no certificate (splits.json): make one with python -m natix_hf.data split {folder} --output "
            "FOLDER, which keeps the splits as they are"
        )
    try:
        document = read_json(path)
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}): bring the file back as it was written, or split again") from None
    if isinstance(document, dict) and document.get("version") == 1:
        raise UserError(f"{path}: of an earlier version, without a seal: split again (python -m natix_hf.data split)")
    certificate = SplitCertificate.check(document)
    certificate.check_seal(path)
    return certificate


def bind(certificate: SplitCertificate, splits: Mapping[str, Dataset]) -> list[str]:
    """Where a certificate and the rows beside it differ, one line each; empty if they belong together.

    Args:
        certificate: from `read_certificate`.
        splits: the four splits, with the fingerprints of their photos as they are now.
    """
    found: list[str] = []
    if sorted(certificate.label_names) != sorted(splits["train"].features["label"].names):
        return ["the classes of the data set are not those of splits.json"]
    for split in SPLITS:
        ids, told = set(splits[split]["id"][:]), set(certificate.ids[split])
        for rows, what in ((ids - told, "not in splits.json"), (told - ids, "in splits.json but not in the data set")):
            if rows:
                found.append(f"{split}: {len(rows)} rows are {what}: {few(sorted(rows))}")
        names = splits[split].features["label"].names
        counts = Counter(names[label] for label in splits[split]["label"][:])
        if {name: counts[name] for name in names} != certificate.class_counts[split]:
            found.append(f"{split}: photos per class are not those of splits.json")
        if ids == told and rows_fingerprint(splits[split]) != certificate.fingerprints[split]:
            found.append(f"{split}: {_OTHER_PHOTOS}")
    calib = splits["val_calib"]
    parts = certificate.parts.val_calib
    if sorted([*parts.fit, *parts.control]) != sorted(certificate.ids["val_calib"]):
        found.append("val_calib: fit and control do not make up val_calib")
    for part in PARTS:
        wanted = set(getattr(parts, part))
        rows = calib.select([i for i, row in enumerate(calib["id"][:]) if row in wanted], keep_in_memory=True)
        if len(rows) == len(wanted) and rows_fingerprint(rows) != certificate.fingerprints[f"val_calib/{part}"]:
            found.append(
                f"val_calib/{part}: the photos are not those that splits.json was made for (fingerprints differ)"
            )
    return found
