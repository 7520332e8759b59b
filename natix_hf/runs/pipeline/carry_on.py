"""Repeats the steps after training from the files of a run, with its saved model instead of the trainer's model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils.logging import disable_progress_bar

from natix_hf.data.splits.contracts import LockedSplits
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.ledger import note_reads
from natix_hf.errors import UserError
from natix_hf.inference.batches import logits_by_stage
from natix_hf.inference.classify import load_classifier
from natix_hf.inference.measured_pace import default_device
from natix_hf.inference.robustness import SentPhotos, sent_logits
from natix_hf.inference.uncalibrated_logits import uncalibrated_logits
from natix_hf.runs.assemble_model import recalibrate_weights
from natix_hf.runs.calibrate_run import calibrate_run
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.evaluate_run import evaluate_run
from natix_hf.runs.gallery import keep_photos
from natix_hf.runs.measure_robustness import note_latency
from natix_hf.runs.photos_of_run import run_splits
from natix_hf.runs.predict_run import predict_run
from natix_hf.runs.report_page import report_run
from natix_hf.runs.steps import EXPORT, PROVE, Step, carried_out


class SavedNetwork:
    """The saved model of a run, in the form that `predict_run` takes: logits before calibration.

    Args:
        run: folder of a run with an assembled model.
        batch_size, num_workers: photos per batch, and processes that decode them.
    """

    def __init__(self, run: Path, *, batch_size: int = 16, num_workers: int = 0):
        self.model, self.processing_class = load_classifier(str(run))
        self.model.set_calibration(1.0)
        self.model.to(default_device())
        self.speed = {"batch_size": batch_size, "num_workers": num_workers}

    def logits(self, rows: Any) -> np.ndarray:
        """Logits `(n, classes)`, float32, of rows, preprocessed as a client does."""
        logits = uncalibrated_logits(self.model, self.processing_class, rows["image"], None, **self.speed)
        return logits.astype(np.float32)

    def logits_by_stage(self, rows: Any) -> tuple[np.ndarray, np.ndarray]:
        """Logits of the whole photo alone, and of all views, for a model that sees tiles."""
        asked = self.model, self.processing_class, rows["image"], None
        both = uncalibrated_logits(*asked, answer=logits_by_stage, **self.speed).astype(np.float32)
        return both[:, 0], both[:, 1]

    def logits_of_photos(self, photos: SentPhotos) -> np.ndarray:
        """Logits `(n, classes)`, float32, of photos as a challenge sends them."""
        logits = sent_logits(self.model, photos.rows, self.processing_class, photos.cases, **self.speed)
        return logits.reshape(-1, logits.shape[-1])

    def probe_predictions(self) -> dict[str, tuple[str | None, Any, np.ndarray]]:
        """Empty, because the probe that training started from is not saved."""
        return {}


class CarryOn:
    """Carries out the steps after training for a run whose model is assembled.

    Args:
        run: folder of the run.
        decision: how logits become decisions.
    """

    def __init__(self, run: Path, decision: DecisionOptions):
        self.run, self.decision = run, decision
        disable_progress_bar()  # loading and saving take a moment

    @cached_property
    def splits(self) -> LockedSplits:
        return run_splits(self.run)

    def do(self, step: str) -> None:
        """Carry out the step with this name in `runs.steps`."""
        {
            "predict": self._predict,
            "calibrate": lambda: calibrate_run(self.run, self.decision),
            "assemble": lambda: recalibrate_weights(self.run, CalibrationFile.read(self.run)),
            "time": self._time,
            "show": self._show,
            "evaluate": lambda: evaluate_run(self.run),
            "report": lambda: report_run(self.run),
        }[step]()

    def _predict(self) -> None:
        predict_run(self.run, self.splits, SavedNetwork(self.run), self.decision)

    def _time(self) -> None:
        rows = self.splits.rows("final_evaluation", step="predictions")
        note_latency(self.run, *load_classifier(str(self.run)), rows)
        note_reads(self.run, self.splits.new_reads())

    def _show(self) -> None:
        keep_photos(self.run, self.splits, *load_classifier(str(self.run)))

    def export_or_prove(self, step: Step, form: str, say: Callable[[str], None]) -> None:
        """Write or verify `exports/<form>` of the run.

        Args:
            step: `EXPORT` or `PROVE`.
            form: of the export; `auto` is stock if that form can hold the model, else merged.
            say: prints the chosen form, and the photos used for the proof.
        """
        from natix_hf.hub.export_forms import export_run
        from natix_hf.hub.proof import prove

        exports = self.run / "exports"
        if step == PROVE:
            with carried_out(self.run, PROVE):
                prove(self.run, next(path.parent for path in exports.glob("*/export.json")), say=say)
            return
        shutil.rmtree(exports, ignore_errors=True)
        with carried_out(self.run, EXPORT, {"form": form}):
            try:
                first = "stock" if form == "auto" else form
                export_run(self.run, first, exports / first)
            except UserError as error:
                if form != "auto":
                    raise
                say(f"the stock form cannot hold this model, so it is exported as merged: {error}")
                shutil.rmtree(exports, ignore_errors=True)
                export_run(self.run, "merged", exports / "merged")
