"""`steps/<name>.json`: the files that a step of a run read and wrote, to find out whether its result is up to date."""

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
    """The state of a file: its size, its modification time in nanoseconds, and the blake2b-128 of its bytes."""

    size: Count
    changed: Count
    fingerprint: str

    @classmethod
    def of(cls, path: Path, before: FilePrint | None = None) -> Self:
        """The state of a file. If size and time are those of `before`, the bytes are assumed to be the same."""
        stat = os.stat(path)
        if before is not None and (stat.st_size, stat.st_mtime_ns) == (before.size, before.changed):
            return before
        return cls(size=stat.st_size, changed=stat.st_mtime_ns, fingerprint=fingerprint_file(path))


class StepRecord(Document):
    """The inputs, outputs and options of a step.

    Attributes:
        reads, writes: path in the run folder -> state of the file.
        options: options of the step.
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
        """The path of a step's record."""
        return Path(run) / "steps" / f"{name}.json"

    @classmethod
    def of(cls, run: Path, name: str) -> Self | None:
        """The record of a step of a run; None if the step has not been run."""
        path = cls.path(run, name)
        return cls.parse(path.read_bytes(), str(path)) if path.is_file() else None

    def note(self, run: Path) -> None:
        """Write the record into a run."""
        path = self.path(run, self.name)
        path.parent.mkdir(exist_ok=True)
        write_text(path, self.text())


def prints(run: Path, names: Iterable[str]) -> dict[str, FilePrint]:
    """The states of the named files that exist."""
    return {name: FilePrint.of(run / name) for name in names if (run / name).is_file()}
