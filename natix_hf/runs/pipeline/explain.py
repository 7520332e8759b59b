"""Explains how a file of a run was made: the chain of steps from the file back to the photos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from natix_hf.documents.ledger import read_ledger
from natix_hf.documents.step_record import FilePrint, StepRecord
from natix_hf.errors import UserError
from natix_hf.runs.steps import CHAINS, EXPORT, PROVE


def explained(run: Path, name: str) -> list[str]:
    """Lines that say how a file was made: step, time, versions, options and inputs, back to the photos.

    Raises:
        UserError: no step of the run has a record of this file.
    """
    run = Path(run).expanduser()
    if not (run / "steps").is_dir():
        raise UserError(f"{run}: no steps/ folder, so the origin of its files is unknown: give the folder of a run")
    kinds = {step.name: step for chain in (*CHAINS.values(), (EXPORT, PROVE)) for step in chain}
    records = {name: record for name in kinds if (record := StepRecord.of(run, name)) is not None}
    if not any(name in record.writes for record in records.values()):
        known = sorted({file for record in records.values() for file in record.writes})
        raise UserError(f"{run}: no step wrote {name}: the steps wrote {', '.join(known[:20])}")
    versions = [record.versions for record in records.values()]
    alike = all(one == versions[0] for one in versions)
    lines = [f"all steps with {_packages(versions[0])}"] if alike else []
    described: set[str] = set()

    def describe(name: str, depth: int) -> None:
        record = next((one for one in records.values() if name in one.writes), None)
        if record is None:
            return
        indent, written, path = "  " * depth, record.writes[name], run / name
        same = path.is_file() and FilePrint.of(path, written).fingerprint == written.fingerprint
        lines.append(f"{indent}{name} ({written.fingerprint[:12]}{'' if same else ', changed since it was made'})")
        if record.name in described:
            lines.append(f"{indent}  by {record.name}, see above")
            return
        described.add(record.name)
        more = [f"by {record.name}: {kinds[record.name].does}; {record.started}, {record.seconds:.1f} s"]
        if not alike:
            more.append(f"with {_packages(record.versions)}")
        if asked := {key: value for key, value in record.options.items() if value not in (None, [], "none")}:
            more.append(f"options: {', '.join(f'{key} {value}' for key, value in asked.items())}")
        lines.extend(f"{indent}  {line}" for line in [*more, *_photos(run, record.name)])
        for source in record.reads:
            describe(source, depth + 2)

    describe(name, 0)
    return lines


def _packages(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in versions.items())


# Step of the run -> the names under which it appears in the ledger.
READERS = {
    "train": ("train", "frozen features", "choose checkpoint", "refit"),
    "predict": ("predictions",),
    "calibrate": ("fit calibration", "guarantee"),
    "show": ("doubtful labels", "confident mistakes"),
    "evaluate": ("final figures",),
}


def _photos(run: Path, step: str) -> list[str]:
    """The rows that a step read, according to the ledger of the run."""
    rows_read: dict[tuple[str, str], int] = {}
    for entry in read_ledger(run):
        if entry.step in READERS.get(step, ()):
            part = f"{entry.split}/{entry.part}" if entry.part else entry.split
            rows_read[part, entry.fingerprint] = entry.rows
    return [f"photos: {rows} of {split} (fingerprint {one[:12]})" for (split, one), rows in rows_read.items()]
