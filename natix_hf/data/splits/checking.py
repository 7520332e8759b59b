"""Verifies four splits and their certificate: `python -m natix_hf.data check data/streets`.

It reads every photo again, searches for copies again and counts everything again, without trusting the certificate. A
violation is a leak, or a statement of the certificate that is wrong. A warning is worth a look. Nothing is changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk

from natix_hf.data.load_photos import certificate_beside
from natix_hf.data.sources.columns import as_name, column_values, has_column
from natix_hf.data.sources.known_sources import read_rows
from natix_hf.data.sources.metadata import places, times
from natix_hf.data.splits.certificate import (
    NO_RULES,
    bind,
    copy_sets,
    counted,
    label_conflicts,
    prior_shift,
    straddling,
    with_ids,
)
from natix_hf.data.splits.certificate_text import POINTS, SHIFTED, largest_difference, shift_sentence, straddle
from natix_hf.data.splits.certificate_text import counted as number_of
from natix_hf.data.splits.contact_sheet import contact_sheet as draw_contact_sheet
from natix_hf.data.splits.contracts import PARTS, SPLITS
from natix_hf.data.splits.groups import Grouping, group_rows
from natix_hf.data.splits.shortcut import (
    ASPECT,
    CONTENT_MADE,
    beside_edges,
    fact_table,
    file_facts,
    shortcut,
    strongest,
)
from natix_hf.documents.figures import Left
from natix_hf.documents.split_certificate import CountedRows, Halves, Rules, SplitCertificate
from natix_hf.errors import UserError, few
from natix_hf.photos.perceptual_hashes import thumbnails

NAMED = 20  # leaks and conflicts that are listed
COLUMNS = ("source", "city_name")  # columns that, like file facts, may reveal the class
MAX_AUROC = 0.75


@dataclass
class Report:
    """The results of a check.

    Args:
        violations: leaks, and statements of the certificate that are wrong.
        warnings: results worth a look.
        lines: all results, one per line, in the order of the checks.
    """

    violations: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def fact(self, text: str) -> None:
        """Add a neutral result."""
        self.lines.append(text)

    def warn(self, text: str) -> None:
        """Add a warning."""
        self.warnings.append(text)
        self.lines.append(f"warning: {text}")

    def violate(self, text: str) -> None:
        """Add a violation."""
        self.violations.append(text)
        self.lines.append(f"VIOLATION: {text}")


@dataclass(frozen=True)
class _Pool:
    """The rows of the four splits one after the other.

    Args:
        data: the rows, with new fingerprints and looks.
        ids: `(n,)` ids, as in `data`.
        homes: `(n,)` the split of each row.
        labels: `(n,)` class names.
    """

    data: Dataset
    ids: list[str]
    homes: list[str]
    labels: list[str]

    def row(self, number: int) -> str:
        """The name of a row in messages."""
        return f"{self.ids[number]} ({self.homes[number]})"


def check(
    data: str | Path | DatasetDict,
    *,
    max_auroc: float = MAX_AUROC,
    contact_sheet: str | Path | None = None,
    columns: Sequence[str] | None = None,
    **source_options: Any,
) -> Report:
    """Check four splits: certificate, photos, leaks, copies, label conflicts, balance and shortcuts.

    Args:
        data: folder of splits, Hub id, or the four splits themselves.
        max_auroc: limit for the AUROC with which file facts alone may predict the class.
        contact_sheet: PNG file to write if there are copies with different labels.
        columns: columns of the data set to use as file facts; by default those of `COLUMNS` that exist.
        source_options: options of `load_rows`.

    Raises:
        UserError: if the data set cannot be read or does not have the four splits.
    """
    if not 0.5 <= max_auroc <= 1:
        raise UserError(f"max_auroc: expected 0.5 (allow no shortcut) to 1 (allow any), found {max_auroc:g}")
    report = Report()
    rows = read_rows(data, **{"broken_photos": "skip", "say": report.fact, **source_options})
    certificate = _certificate(data, report)
    if not isinstance(rows.data, DatasetDict):
        raise UserError(
            f"{'the data set' if isinstance(data, DatasetDict) else data}: check needs the four splits "
            f"{', '.join(SPLITS)}, and none may be empty: make them with python -m natix_hf.data split"
        )
    names = rows.label_names
    parts = [rows.data[split] for split in SPLITS]
    homes = [split for split, part in zip(SPLITS, parts) for _ in range(len(part))]
    joined = concatenate_datasets(parts)
    pool = _Pool(joined, joined["id"][:], homes, [names[label] for label in joined["label"][:]])
    _check_photos(report, rows.broken, len(pool.homes))
    for note in rows.notes:
        report.warn(f"photos: {note}")
    if certificate is not None:
        _check_document(report, certificate, rows.data, Path(data).expanduser())
    grouping = _tied(pool, rows.group_values, certificate.rules if certificate else NO_RULES)
    _check_ties(report, pool, grouping)
    if certificate is not None:
        _check_parts(report, pool, grouping, certificate.parts.val_calib)
    _check_conflicts(report, pool, grouping, contact_sheet)
    _check_classes(report, rows.data, names)
    chosen = [name for name in COLUMNS if name in joined.column_names] if columns is None else columns
    _check_shortcut(report, pool, grouping, chosen, max_auroc)
    report.fact(f"{number_of(len(report.violations), 'violation')}, {number_of(len(report.warnings), 'warning')}")
    return report


def _certificate(data: str | Path | DatasetDict, report: Report) -> SplitCertificate | None:
    if isinstance(data, DatasetDict):
        report.warn("certificate: none, because these rows are in memory only")
        return None
    try:
        certificate = certificate_beside(data)
    except UserError as error:
        report.violate(f"certificate: {error}")
        return None
    if certificate is None:
        report.violate(
            "certificate: there is no splits.json: python -m natix_hf.data split writes one and keeps the existing "
            "splits"
        )
    else:
        report.fact(f"certificate: unchanged since it was written, seal {certificate.seal}")
    return certificate


def _check_photos(report: Report, broken: list[Left], readable: int) -> None:
    if broken:
        names = few((f"{photo.id} ({photo.reason})" for photo in broken), NAMED)
        report.violate(f"photos: {len(broken):,} of {readable + len(broken):,} cannot be read: {names}")
    else:
        report.fact(f"photos: all {readable:,} can be read")


def _check_document(report: Report, certificate: SplitCertificate, splits: DatasetDict, folder: Path) -> None:
    """Compare the certificate with what is now counted from the rows."""
    differing = bind(certificate, splits)
    for text in differing:
        report.violate(f"certificate: {text}")
    changed = _changed(splits, folder)
    if changed:
        report.violate(f"photos: {len(changed):,} changed since the split: {few(changed, NAMED)}")
    if differing:
        return
    places = dict(splits)
    for part in PARTS:
        places[f"val_calib/{part}"] = with_ids(splits["val_calib"], getattr(certificate.parts.val_calib, part))
    fresh = counted(places, certificate.label_names)
    recorded = certificate.model_fields_set - {"ids", "parts"}  # older certificates have fewer fields
    counts = [key for key in CountedRows.model_fields if key in recorded]
    wrong = [key for key in counts if getattr(fresh, key) != getattr(certificate, key)]
    for key in wrong:
        report.violate(f"certificate: {key} in splits.json differs from what the data set contains")
    if not wrong:
        report.fact(f"certificate: ids, classes, groups and bytes match the data set, {certificate.fingerprint}")


def _changed(splits: DatasetDict, folder: Path) -> list[str]:
    """Ids of rows whose photo does not have its saved fingerprint."""
    if not (folder / "dataset_dict.json").is_file():
        return []
    saved = load_from_disk(str(folder))
    changed = []
    for split in SPLITS:
        now = dict(zip(splits[split]["id"][:], splits[split]["fingerprint"][:]))
        stored = zip(saved[split]["id"][:], saved[split]["fingerprint"][:])
        changed += [row for row, fingerprint in stored if now.get(row, fingerprint) != fingerprint]
    return changed


def _tied(pool: _Pool, values: dict[str, dict[str, list]], rules: Rules) -> Grouping:
    """Group the rows again, by the columns of the certificate, the files and the photos."""
    columns = {name: [value for split in SPLITS for value in values[split][name]] for name in values["train"]}
    columns |= {
        name: [as_name(value) for value in column_values(pool.data, name, "group_column")]
        for name in rules.group_columns
        if name not in columns and has_column(pool.data, name)
    }
    place, time = rules.place_column, rules.time_column
    near = rules.metres is not None and place is not None and has_column(pool.data, place)
    return group_rows(
        pool.ids,
        columns,
        pool.data["fingerprint"][:],
        pool.data["look"][:],
        places=places(pool.data, place) if near else None,
        times=times(pool.data, time) if near and time and has_column(pool.data, time) else None,
        metres=rules.metres if near else None,
        seconds=rules.seconds if near else None,
        largest_share=1.0,
    )


def _check_ties(report: Report, pool: _Pool, grouping: Grouping) -> None:
    ties = ", ".join(f"{kind} {count:,}" for kind, count in grouping.ties.items())
    report.fact(f"ties: {ties}; the largest group has {grouping.largest[1]:,} of {len(pool.homes):,} rows")
    torn = straddling(grouping.numbers, pool.homes)
    if torn:
        report.violate(f"leak: {straddle(len(torn))} two splits")
        _list_leaks(report, pool, grouping, torn)
    else:
        report.fact("0 groups straddle two splits; ties searched again in columns, files and photos")
    sets = copy_sets(len(pool.homes), grouping.pairs)
    for split in SPLITS:
        inside = [sum(pool.homes[row] == split for row in rows) for rows, _ in sets]
        repeated = sum(count - 1 for count in inside if count > 1)
        report.fact(
            f"copies: {repeated:,} of {pool.homes.count(split):,} photos of {split} are copies of another photo in "
            f"{split}"
        )


def _list_leaks(report: Report, pool: _Pool, grouping: Grouping, torn: list[int]) -> None:
    """List copies in two splits, and a pair of rows of each other group that straddles splits."""
    explained = set()
    leaks = []
    for pair in grouping.pairs:
        if pool.homes[pair.first] != pool.homes[pair.second]:
            explained.add(int(grouping.numbers[pair.first]))
            how = pair.kind if pair.how == "same" else f"{pair.kind}, {pair.how}"
            leaks.append(f"{pool.row(pair.first)} and {pool.row(pair.second)} show the same photo ({how})")
    for number in torn:
        if number not in explained:
            rows = np.flatnonzero(grouping.numbers == number)
            other = next(row for row in rows if pool.homes[row] != pool.homes[rows[0]])
            pair = f"{pool.row(int(rows[0]))} and {pool.row(int(other))}"
            leaks.append(f"{pair} belong to one group, {grouping.names[number]}")
    for leak in leaks[:NAMED]:
        report.violate(f"leak: {leak}")
    if len(leaks) > NAMED:
        report.violate(f"leak: {len(leaks) - NAMED:,} more such pairs")


def _check_parts(report: Report, pool: _Pool, grouping: Grouping, parts: Halves) -> None:
    home = {row: part for part, ids in parts for row in ids}
    for part in PARTS:
        present = {label for row, label in zip(pool.ids, pool.labels) if home.get(row) == part}
        missing = sorted(set(pool.labels) - present)
        if missing:
            report.warn(f"val_calib: its part {part} has no photo of {', '.join(missing)}")
    torn = straddling(grouping.numbers, [home.get(row) for row in pool.ids])
    sizes = ", ".join(f"{part} {len(ids):,}" for part, ids in parts)
    if torn:
        report.violate(f"val_calib: {straddle(len(torn))} its parts ({sizes})")
    else:
        report.fact(f"val_calib: 0 groups straddle its parts ({sizes})")


def _check_conflicts(report: Report, pool: _Pool, grouping: Grouping, picture: str | Path | None) -> None:
    conflicts = label_conflicts(pool.ids, pool.labels, grouping.pairs)
    if not conflicts:
        report.fact("labels: no photo has copies with different labels")
        return
    homes = dict(zip(pool.ids, pool.homes))
    across = [len({homes[row] for row in conflict.ids}) > 1 for conflict in conflicts]
    say = report.violate if any(across) else report.warn
    photos = number_of(len(conflicts), "photo")
    say(f"labels: {photos} with differently labelled copies, {sum(across):,} across two splits")
    for conflict in conflicts[:NAMED]:
        copies = ", ".join(f"{row} {label}" for row, label in zip(conflict.ids, conflict.labels))
        report.fact(f"labels: {copies} ({conflict.kind})")
    if len(conflicts) > NAMED:
        report.fact(f"labels: {len(conflicts) - NAMED:,} more such photos")
    if picture is not None:
        rows = with_ids(pool.data, [row for conflict in conflicts for row in conflict.ids])
        draw_contact_sheet(picture, conflicts, {row["id"]: row["image"] for row in rows})
        report.fact(f"labels: {picture} shows the copies side by side")


def _check_classes(report: Report, splits: DatasetDict, names: list[str]) -> None:
    counts = {}
    for split in SPLITS:
        by_label = Counter(splits[split]["label"][:])
        counts[split] = {name: by_label[i] for i, name in enumerate(names)}
        per_class = ", ".join(f"{name} {count:,}" for name, count in counts[split].items())
        missing = [name for name, count in counts[split].items() if not count]
        if missing:
            report.violate(f"classes: {split} has no photo of {', '.join(missing)} ({per_class})")
        else:
            report.fact(f"classes: {split} {per_class}")
    shift = prior_shift(counts)
    shifted = shift.p < SHIFTED and largest_difference(shift.shares)[0] > POINTS
    (report.warn if shifted else report.fact)(f"classes: {shift_sentence(shift)}")


def _check_shortcut(report: Report, pool: _Pool, grouping: Grouping, columns: Sequence[str], max_auroc: float) -> None:
    values = {name: column_values(pool.data, name, "columns") for name in columns}
    batches = pool.data.select_columns("image").iter(batch_size=32)
    facts = (file_facts(photo) for batch in batches for photo in batch["image"])
    names, table = fact_table(facts, values)
    labels = np.asarray(pool.data["label"][:])
    made = np.isin(names, CONTENT_MADE)
    result = shortcut(table[:, ~made], np.asarray(names)[~made].tolist(), labels, grouping.numbers)
    if result.auroc is None:
        report.fact(f"shortcut: not measured ({result.reason})")
        return
    over = result.auroc > max_auroc
    low, high = result.interval
    (report.violate if over else report.fact)(
        f"shortcut: file facts alone predict the class with AUROC {result.auroc:.3f} (95 % interval {low:.3f} to "
        f"{high:.3f}), {'over' if over else 'within'} the limit of {max_auroc:g}; AUROC of the strongest single "
        f"facts: {_strongest_text(result.strongest)}"
    )
    alone, worth_a_line = dict(result.strongest), (0.5 + max_auroc) / 2
    if over and alone.get(ASPECT, 0.5) > worth_a_line:
        report.fact(
            f"shortcut: the model sees the aspect ratio (AUROC {alone[ASPECT]:.2f}) with resize: squash, which "
            "distorts wide photos more than narrow ones; resize: crop keeps the proportions and hides it"
        )
    sizes, which = table[:, made], np.asarray(names)[made].tolist()
    content = strongest(sizes, which, labels)
    if content and content[0][1] > worth_a_line:
        rest = strongest(beside_edges(sizes, thumbnails(pool.data["look"][:])), which, labels)
        report.fact(
            f"shortcut: note: {_strongest_text(content)} predict the class too; they depend on what the photo shows "
            "(a street full of cones needs more bytes), so they are no violation; after correction for the edges in "
            f"a thumbnail: {_strongest_text(rest)}; what remains can be fine texture, another camera or compression"
        )


def _strongest_text(facts: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {alone:.2f}" for name, alone in facts[:3]) or "none differs"
