"""`ledger.jsonl`: which rows each step of a run read. Entries are appended and never changed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from natix_hf.documents.document import Part
from natix_hf.documents.figures import Count
from natix_hf.errors import UserError
from natix_hf.files import append_text

NAME = "ledger.jsonl"


class LedgerEntry(Part):
    """Rows that a step read, at `time` (seconds since 1970)."""

    step: str
    role: Literal["training", "selection", "policy", "final_evaluation", "refit", "unlabelled"]
    split: Literal["train", "val_select", "val_calib", "val_test", "pool"]
    part: Literal["fit", "control"] | None = None
    rows: Count
    fingerprint: str
    time: float | None = None


def note_reads(run: Path, entries: Iterable[LedgerEntry]) -> None:
    """Append entries to the ledger of a run, in one write."""
    lines = "".join(json.dumps(entry.plain(), ensure_ascii=False) + "\n" for entry in entries)
    if lines:
        append_text(Path(run) / NAME, lines)


def read_ledger(run: Path) -> list[LedgerEntry]:
    """The ledger of a run, the earliest entry first; empty if nothing was read yet.

    Raises:
        UserError: a line is not a ledger entry.
    """
    path = Path(run) / NAME
    if not path.is_file():
        return []
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path}: line {number}"
        try:
            entries.append(LedgerEntry.check(json.loads(line), where))
        except ValueError:
            raise UserError(f"{where}: not a ledger entry: restore the file") from None
    return entries
