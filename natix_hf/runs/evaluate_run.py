"""Computes the final figures of a run from its saved `val_test` logits and its calibration."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.data.splits.contracts import count_final_read
from natix_hf.decision.calibration import Calibration
from natix_hf.decision.selective import selective_document
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.ledger import LedgerEntry, note_reads
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.selective import CascadeFigures
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.errors import LeakageError
from natix_hf.files import fingerprint_bytes
from natix_hf.report.slices import slices_document
from natix_hf.report.summary import metrics_document
from natix_hf.runs import folder as run_folder
from natix_hf.runs.calibrate_cascade import stage_rows
from natix_hf.runs.calibrate_run import carried
from natix_hf.runs.figures_by_stage import stages_document
from natix_hf.runs.measure_robustness import challenge_documents
from natix_hf.runs.over_probe import over_probe
from natix_hf.runs.saved_logits import check_classes, read_predictions
from natix_hf.runs.steps import EVALUATE, carried_out
from natix_hf.streetvision.field import Field

SEED = 0  # of all resamples


def evaluate_run(run: Path, *, field: Field | None = None) -> FinalFigures:
    """Compute the figures on `val_test`: `metrics.json`, and selective, slices, robustness, reward and over_probe.

    The read is noted in the ledger of the run and counted on this machine. A refit reads nothing and keeps the figures
    of the honest run.

    Args:
        run: a folder whose training is finished.
        field: scores of other participants, for `reward.json`; by default a record that is not confirmed.

    Raises:
        LeakageError: the run is one of a sweep, which may not read `val_test`.
        UserError: a file of the run is missing or invalid. Nothing is then read, counted or written.
    """
    record = RunRecord.read(run)
    if record.purpose == "refit":
        return FinalFigures.read(run)
    if record.purpose == "sweep":
        raise LeakageError(f"step 'final figures' asked for val_test of {run}: {run_folder.SWEPT}")
    with carried_out(run, EVALUATE, {"seed": SEED, "field": field and field.name}):
        fitted, splits = CalibrationFile.read(run), read_certificate(run)
        calibration, names = Calibration.from_document(fitted), splits.label_names
        predictions = run / "predictions"
        if (predictions / "val_calib.parquet").is_file():  # card and page need it later; a fault is reported now
            _rows(run, "val_calib", fitted, names)
        _rows(run, "val_select", fitted, names)
        rows = _rows(run, "val_test", fitted, names)
        logits, calibrated = calibration.served(rows.logits), calibration.calibrated(rows.logits)
        decision = json.dumps(carried(fitted).entries(), sort_keys=True).encode()
        evaluated = fingerprint_bytes((predictions / "val_test.parquet").read_bytes() + decision)
        fingerprint = splits.fingerprints["val_test"]
        before = count_final_read(fingerprint, evaluated, run.name)
        entry = LedgerEntry(
            step="final figures",
            role="final_evaluation",
            split="val_test",
            rows=len(rows.label),
            fingerprint=fingerprint,
            time=time.time(),
        )
        note_reads(run, [entry])
        labels, groups, positive = rows.label, rows.group, record.positive
        document = metrics_document(
            logits,
            rows.logits,
            labels,
            groups,
            label_names=names,
            positive=positive,
            split="val_test",
            times_read_before=before,
            stages=stages_document(rows, calibration, fitted.prior.target),
        )
        document.write(run)
        about = {"decisions": logits.argmax(axis=1), "cascade": _cascade(run, fitted)}
        selective_document(calibrated, labels, groups, fitted.guarantee, positive, **about).write(run)
        if rows.slices:
            slices_document(logits, labels, groups, rows.slices, names, positive).write(run)
        challenge_documents(run, rows, calibration, field=field, label_names=names, positive=positive)
        if (predictions / "probe" / "val_test.parquet").is_file():
            fit, test = (read_predictions(run, f"probe/{split}") for split in ("val_calib", "val_test"))
            over_probe(fit, test, logits, positive).write(run)
    return document


def _rows(run: Path, split: str, fitted: CalibrationFile, names: Sequence[str]) -> SavedLogits:
    """The predictions of a split, with one logit per class."""
    rows = read_predictions(run, split, fitted=fitted)
    check_classes(rows, names, f"{run}: predictions/{split}.parquet")
    return rows


def _cascade(run: Path, fitted: CalibrationFile) -> CascadeFigures | None:
    """Cost and accuracy loss of early exits on `val_test`; None for a run without them."""
    if fitted.cascade is None:
        return None
    from natix_hf.decision.cascade import cascade_figures

    return cascade_figures(fitted.cascade, stage_rows(read_predictions(run, "val_test")), fitted.positive)
