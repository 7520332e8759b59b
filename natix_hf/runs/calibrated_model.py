"""A finished model of any folder (a run, an export, a download) and the calibration that it has."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from natix_hf.decision.calibration import Calibration
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.run_record import RunRecord


class CalibratedModel(NamedTuple):
    """A model and its calibration.

    Attributes:
        folder: folder of the model.
        calibration: its calibration; one that changes nothing if the folder has none.
        document: its `calibration.json`, if there is one.
        positive: id of the positive class.
    """

    folder: Path
    calibration: Calibration
    document: CalibrationFile | None
    positive: int

    @classmethod
    def read(cls, folder: Path, classes: int) -> CalibratedModel:
        """Read the folder of a model with this number of classes."""
        if CalibrationFile.there(folder):
            document = CalibrationFile.read(folder)
            return cls(folder, Calibration.from_document(document), document, document.positive)
        zeros = np.zeros(classes)
        positive = RunRecord.read(folder).positive if RunRecord.there(folder) else 1
        return cls(folder, Calibration("none", np.ones(classes), zeros, zeros, zeros), None, positive)
