"""Compares finished runs from the files in their folders, after a check that all were tested on the same photos.

No model runs, and the comparison is not a new read of `val_test`: the predictions exist, and the read was counted when
each run was evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.decision.calibration import Calibration
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.cascade import TwoModels, cost_text
from natix_hf.documents.comparison import Comparison, Cost
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.photo_cost import PhotoCost
from natix_hf.documents.robustness import Robustness
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.run_speed import RunSpeed
from natix_hf.documents.selective import Selective
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.errors import UserError
from natix_hf.report.comparison import Judged, comparison_document
from natix_hf.runs import folder as run_folder
from natix_hf.runs.saved_logits import deployed, read_predictions


class _Tested(NamedTuple):
    """What a run was tested on: its certificate, its predictions on `val_test`, and its record."""

    certificate: SplitCertificate
    rows: SavedLogits
    record: RunRecord


def compare_runs(folders: Sequence[str | Path], *, n_boot: int = 1000) -> Comparison:
    """The content of `comparison.json`.

    Args:
        folders: two or more finished runs; the first is the reference.

    Raises:
        UserError: there are fewer than two runs, a run has no figures of its own, or the runs were tested on different
            photos, labels or classes. The message says which runs, and how they differ.
    """
    runs = [run_folder.finished(folder) for folder in folders]
    if len(runs) < 2:
        raise UserError(
            f"compare: expected two or more runs, found {len(runs)}: python -m natix_hf.compare runs/a runs/b"
        )
    if twice := next((run for i, run in enumerate(runs) if run.resolve() in {r.resolve() for r in runs[:i]}), None):
        raise UserError(f"compare: {twice} is given twice: name different runs")
    records = [RunRecord.read(run) for run in runs]
    for run, record in zip(runs, records):
        if record.refit is not None:
            raise UserError(f"{run}: a refit has no figures of its own: compare its honest run {record.refit.name}")
        if not (run / "metrics.json").is_file():
            raise UserError(f"{run}: not evaluated yet: run python -m natix_hf.evaluate {run}")
    tested = [_Tested(read_certificate(run), _by_id(run), record) for run, record in zip(runs, records)]
    first = tested[0]
    for run, other in zip(runs[1:], tested[1:]):
        positives = first.record.positive, other.record.positive
        fault = differing_classes(first.certificate, other.certificate, *positives) or _differing_photos(first, other)
        if fault:
            raise UserError(
                f"{run}: {fault} than {runs[0]}, so their figures cannot be compared: train both on the same photos "
                "with the same split (seed, ratios, groups)"
            )
    judged = []
    for name, run, one in zip(_names(runs), runs, tested):
        fitted = CalibrationFile.read(run)
        calibration = Calibration.from_document(fitted)
        judged.append(Judged(name, calibration.served(deployed(one.rows, fitted).logits), _cost(run, one.record)))
    return comparison_document(
        judged,
        first.rows.label,
        first.rows.group,
        first.rows.ids,
        first.rows.slices,
        first.certificate.label_names,
        first.record.positive,
        notes=[*_notes(judged, [one.rows for one in tested]), *_early(judged, runs)],
        n_boot=n_boot,
    )


def _by_id(run: Path) -> SavedLogits:
    """The predictions on `val_test` in the order of the ids."""
    rows = read_predictions(run, "val_test")
    order = np.argsort(rows.ids.astype(str), kind="stable")
    slices = {column: values[order] for column, values in rows.slices.items()}
    whole = None if rows.whole is None else rows.whole[order]
    return SavedLogits(rows.logits[order], rows.label[order], rows.group[order], rows.ids[order], slices, whole=whole)


def differing_classes(
    first: SplitCertificate, other: SplitCertificate, positive: int | None, other_positive: int | None
) -> str | None:
    """How the classes of two runs differ, for a message; None if they are the same.

    Args:
        first, other: their certificates.
        positive, other_positive: ids of their positive classes.
    """
    if first.label_names != other.label_names:
        names = " against ".join(", ".join(one.label_names[:5]) for one in (other, first))
        return f"other classes ({names})"
    return "another positive class" if positive != other_positive else None


def _differing_photos(first: _Tested, other: _Tested) -> str | None:
    """How the test photos of two runs differ, for a message; None if they are the same with the same labels."""
    ids, other_ids = set(first.rows.ids), set(other.rows.ids)
    if ids != other_ids:
        shared = len(ids & other_ids)
        return f"other photos in val_test ({len(other_ids)} against {len(ids)}, {shared} of them the same)"
    if first.certificate.fingerprints["val_test"] != other.certificate.fingerprints["val_test"]:
        return "photos with the same names but other content in val_test (fingerprints differ)"
    odd = int(np.sum(first.rows.label != other.rows.label))
    return f"other labels for {odd} of {len(ids)} photos in val_test" if odd else None


def _names(runs: Sequence[Path]) -> list[str]:
    """Folder names with as many parent folders as needed to make them unique."""
    paths = [run.resolve() for run in runs]
    for parts in range(1, 1 + max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _cost(run: Path, record: RunRecord) -> Cost:
    weights, latency = run / "model.safetensors", None
    size = weights.stat().st_size if weights.is_file() else None
    photo = PhotoCost.read(run) if PhotoCost.there(run) else None
    if TwoModels.there(run):
        both = TwoModels.read(run)
        size, photo = both.first.bytes + both.second.bytes, both.both()
    if Robustness.there(run) and (measured := Robustness.read(run).latency):
        latency = measured.p50
    return Cost(
        method=record.method,
        parameters=record.parameters,
        trainable_parameters=record.trainable_parameters,
        megabytes=None if size is None else round(size / 1e6, 3),
        training_seconds=RunSpeed.read(run).time.get("train") if RunSpeed.there(run) else None,
        latency_p50=latency,
        times_read_before=FinalFigures.read(run).times_read_before,
        photo=photo,
    )


def _notes(judged: Sequence[Judged], tables: Sequence[SavedLogits]) -> list[str]:
    most = 1 + max(run.cost.times_read_before for run in judged)
    notes = [
        f"at least {max(most, len(judged))} models were evaluated on these photos on this machine: if you choose the "
        "best of them by these figures, you need new photos to know how good it is"
    ]
    if any(not np.array_equal(table.group, tables[0].group) for table in tables[1:]):
        notes.append(f"the runs have different groups of photos; the groups of {judged[0].name} are resampled")
    return notes


def _early(judged: Sequence[Judged], runs: Sequence[Path]) -> list[str]:
    """Notes on the mean cost per photo of runs with early exits, which no column shows."""
    notes = []
    for one, run in zip(judged, runs):
        if Selective.there(run) and (exits := Selective.read(run).cascade):
            cost = exits.mean_cost
            notes.append(
                f"{one.name}: {exits.early.value:.1%} of the photos leave early, {cost_text(cost.value)} "
                f"[{cost_text(cost.low)}, {cost_text(cost.high)}] of {sum(exits.cost):.4g} {exits.cost_in} per photo; "
                "the columns views, GFLOP and seconds are for a photo that stays"
            )
    return notes
