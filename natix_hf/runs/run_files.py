"""The files of a run, each read once."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.decision.calibration import Calibration
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.runs.saved_logits import check_classes, read_predictions


class RunFiles:
    """The files of a run folder. Each one is read at first access and cached."""

    def __init__(self, run: str | Path):
        self.run = Path(run)
        self._rows: dict[str, SavedLogits] = {}

    @cached_property
    def record(self) -> RunRecord:
        return RunRecord.read(self.run)

    @cached_property
    def splits(self) -> SplitCertificate:
        return read_certificate(self.run)

    @cached_property
    def fitted(self) -> CalibrationFile:
        return CalibrationFile.read(self.run)

    @cached_property
    def calibration(self) -> Calibration:
        return Calibration.from_document(self.fitted)

    def has_rows(self, split: str) -> bool:
        """Whether there are predictions of a split."""
        return (self.run / "predictions" / f"{split}.parquet").is_file()

    def rows(self, split: str) -> SavedLogits:
        """The predictions of a split, as `read_predictions` returns them; checks the number of classes."""
        if split not in self._rows:
            rows = read_predictions(self.run, split, fitted=self.fitted)
            check_classes(rows, self.splits.label_names, f"{self.run}: predictions/{split}.parquet")
            self._rows[split] = rows
        return self._rows[split]
