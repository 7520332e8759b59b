"""`provenance.json`: the steps that led from the photos to the figures of a published model."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from natix_hf.documents.document import Document
from natix_hf.documents.ledger import LedgerEntry, read_ledger
from natix_hf.documents.step_record import StepRecord


class Provenance(Document):
    """The steps of a run and the rows that they read, without names of photos.

    Attributes:
        steps: the earliest first; they identify the run's files by fingerprints.
        ledger: the reads, the earliest first.
    """

    file_name: ClassVar[str] = "provenance.json"

    steps: list[StepRecord]
    ledger: list[LedgerEntry]

    @classmethod
    def of(cls, run: Path) -> Self:
        """Collect the records of a run."""
        records = [StepRecord.of(run, path.stem) for path in (run / "steps").glob("*.json")]
        return cls(steps=sorted(filter(None, records), key=lambda record: record.started), ledger=read_ledger(run))

    def made(self, name: str) -> StepRecord | None:
        """The step that wrote a file."""
        return next((step for step in self.steps if name in step.writes), None)
