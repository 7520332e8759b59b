"""Adds new photos to existing splits without moving an existing row.

New photos that are byte-for-byte copies of existing ones, or would tie rows of two splits, are left out and listed.
This file joins the old and the new rows; `splits.cut` divides them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import DatasetDict, concatenate_datasets

from natix_hf.data.sources.columns import as_name, column_values, has_column, with_text
from natix_hf.data.sources.known_sources import read_rows
from natix_hf.data.sources.rows import Rows
from natix_hf.data.sources.stacking import stacked
from natix_hf.data.splits.contracts import SPLITS
from natix_hf.data.splits.cut import Cut, cut
from natix_hf.data.splits.split_options import DEFAULT_RATIOS, Plan
from natix_hf.documents.figures import Left
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.errors import UserError


def plan_of(certificate: SplitCertificate) -> Plan:
    """The plan by which splits were made, as far as their certificate records it."""
    rules = certificate.rules
    return Plan(
        ratios=certificate.ratios or DEFAULT_RATIOS,
        seed=certificate.seed,
        strata=certificate.strata,
        hold_out=certificate.hold_out,
        near_duplicates=rules.near_duplicates,
        place_column=rules.place_column,
        time_column=rules.time_column,
        metres=rules.metres,
        seconds=rules.seconds,
    )


def extended(folder: str | Path, certificate: SplitCertificate, source: Any, plan: Plan, **options: Any) -> Cut:
    """The splits in `folder` with the rows of `source` added.

    Args:
        folder: a folder written by `data split`.
        certificate: the certificate of the folder.
        source: a source for `load_rows`, with the classes of the splits.
        plan: how to divide the new rows.
        options: options of `load_rows` for the new rows.

    Raises:
        UserError: if the folder has no splits, if its rows and certificate differ, or if the source is invalid.
    """
    old = read_rows(str(folder), num_proc=options.get("num_proc"))
    if not isinstance(old.data, DatasetDict):
        raise UserError(f"--extend {folder}: not a folder of four splits: make one with python -m natix_hf.data split")
    rules = certificate.rules
    earlier = cut(old, Plan(near_duplicates=rules.near_duplicates), certificate=certificate)
    columns = [column for column in rules.group_columns if column != "group"]
    options = {**options, "label_names": certificate.label_names}
    options["group_column"] = options.get("group_column") or columns or None
    new = read_rows(source, looks=plan.near_duplicates, **options)
    if isinstance(new.data, DatasetDict):
        raise UserError("--extend: the new photos already have four splits: give them without splits")
    return cut(_together(old, new, earlier), plan, earlier=earlier)


def _together(old: Rows, new: Rows, earlier: Cut) -> Rows:
    """The old and the new rows as one table, without new photos that are byte-for-byte copies of old ones."""
    pool = concatenate_datasets([old.data[split] for split in SPLITS])
    ids, prints = pool["id"][:], pool["fingerprint"][:]
    holder, names = dict(zip(prints, ids)), set(ids)
    keep, dropped, called = [], [], []
    for row, (name, print_) in enumerate(zip(new.data["id"][:], new.data["fingerprint"][:])):
        if print_ in holder:
            dropped.append(Left(id=name, reason=f"byte-for-byte copy of {holder[print_]!r}, which is already there"))
            continue
        keep.append(row)
        called.append(name if name not in names else f"{name}~{print_[:8]}")
        names.add(called[-1])
    added = with_text(new.data.select(keep, keep_in_memory=True), "id", called)
    of_new = {column: [entries[row] for row in keep] for column, entries in new.group_values.items()}
    values = {"group": [*_groups(earlier, ids), *of_new.pop("group", [None] * len(keep))]}
    for column, entries in of_new.items():
        known = column_values(pool, column, "group_column") if has_column(pool, column) else [None] * len(ids)
        values[column] = [*map(as_name, known), *entries]
    data = stacked([pool, added], ["the earlier splits", "the new photos"])
    certificate = earlier.description
    broken, left = certificate.broken + new.broken, certificate.dropped + new.dropped + dropped
    return Rows(data, broken, left, values, old.notes + new.notes)


def _groups(earlier: Cut, ids: list[str]) -> list[str]:
    """The group of each row of the earlier splits."""
    groups: dict[str, str] = {}
    for split in SPLITS:
        groups |= dict(zip(earlier.places[split]["id"][:], earlier.places[split]["group"][:]))
    return [groups[row] for row in ids]
