"""`provenance.json`: what stands behind the figures of a published model, step by step, back to the photos."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from natix_hf.documents.document import Document
from natix_hf.documents.ledger import LedgerEntry, read_ledger
from natix_hf.documents.step_record import StepRecord


class Provenance(Document):
    """The steps of a run and who read which rows, without a name of a photo.

    Attributes:
        steps: the earliest first; the files that they name are those of the run, by their fingerprints.
        ledger: the reads, the earliest first.
    """

    file_name: ClassVar[str] = "provenance.json"

    steps: list[StepRecord]
    ledger: list[LedgerEntry]

    @classmethod
    def of(cls, run: Path) -> Self:
        """What the records of a run say."""
        records = [StepRecord.of(run, path.stem) for path in (run / "steps").glob("*.json")]
        return cls(steps=sorted(filter(None, records), key=lambda one: one.started), ledger=read_ledger(run))

    def made(self, name: str) -> StepRecord | None:
        """The step that wrote a file."""
        return next((step for step in self.steps if name in step.writes), None)
