"""`steps/<name>.json`: what a step of a run read and wrote, so that it can be told whether that still stands."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Count
from natix_hf.files import fingerprint_file, write_text
from natix_hf.options import RecipeValue


class FilePrint(Part):
    """A file as it was: its size, when it was last changed, and the blake2b-128 of its bytes."""

    size: Count
    changed: Count
    fingerprint: str

    @classmethod
    def of(cls, path: Path, before: FilePrint | None = None) -> Self:
        """The print of a file; a file of the size and time of `before` is taken to hold the same bytes."""
        found = os.stat(path)
        if before is not None and (found.st_size, found.st_mtime_ns) == (before.size, before.changed):
            return before
        return cls(size=found.st_size, changed=found.st_mtime_ns, fingerprint=fingerprint_file(path))


class StepRecord(Document):
    """What a step did.

    Attributes:
        reads, writes: the files of the run, by their path in its folder.
        options: what it was asked for.
        started: ISO 8601, in UTC.
    """

    name: str
    reads: dict[str, FilePrint]
    writes: dict[str, FilePrint]
    options: dict[str, RecipeValue]
    versions: dict[str, str]
    started: str
    seconds: Amount

    @staticmethod
    def path(run: Path, name: str) -> Path:
        """Where the record of a step lies."""
        return Path(run) / "steps" / f"{name}.json"

    @classmethod
    def of(cls, run: Path, name: str) -> Self | None:
        """The record of a step of a run; None where it has not been done."""
        path = cls.path(run, name)
        return cls.parse(path.read_bytes(), str(path)) if path.is_file() else None

    def note(self, run: Path) -> None:
        """Write the record into a run."""
        path = self.path(run, self.name)
        path.parent.mkdir(exist_ok=True)
        write_text(path, self.text())


def prints(run: Path, names: Iterable[str], before: dict[str, FilePrint] | None = None) -> dict[str, FilePrint]:
    """The prints of those of these files that are there."""
    before = before or {}
    return {name: FilePrint.of(run / name, before.get(name)) for name in names if (run / name).is_file()}
