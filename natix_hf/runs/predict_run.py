"""Predicts the logits of each split once. Calibration, figures and comparisons read them from disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from natix_hf.data.splits.contracts import LockedSplits
from natix_hf.data.splits.slicing import ORIENTATION
from natix_hf.inference.robustness import SentPhotos
from natix_hf.photos.geometry import Geometry, Tiles
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.measure_robustness import predict_challenged
from natix_hf.runs.saved_logits import write_predictions
from natix_hf.runs.steps import PREDICT, carried_out

# File name -> role and parts that are predicted after training.
TABLES = {
    "val_select": ("selection", (None,)),
    "val_calib": ("policy", ("fit", "control")),
    "val_test": ("final_evaluation", (None,)),
}


class Network(Protocol):
    """A model that gives logits before calibration; `NatixTrainer` is one."""

    processing_class: Any

    def logits(self, rows: Any) -> np.ndarray:
        """`(n, classes)` float32 of rows, in order, on the client's path."""

    def logits_by_stage(self, rows: Any) -> tuple[np.ndarray, np.ndarray]:
        """For a model that sees tiles: the logits of the whole photo alone, and those of all views."""

    def logits_of_photos(self, photos: SentPhotos) -> np.ndarray:
        """`(n, classes)` float32 of photos as a challenge sends them."""

    def probe_predictions(self) -> dict[str, tuple[str | None, Any, np.ndarray]]:
        """By split: part, rows and logits of the probe that training started from; empty without such a probe."""


def predict_run(
    run: Path, splits: LockedSplits, network: Network, options: DecisionOptions, *, writes: bool = True
) -> None:
    """Write `predictions/` of a run, on all processes together; for a run of a sweep only those on `val_select`.

    Args:
        run: the run folder.
        splits: the splits of the run.
        network: the trained model.
        options: their `slices` (a run on rectangles also has `orientation` by default), `calibrate_on` and
            `robustness` are used.
        writes: whether this process writes.
    """
    purpose = splits.purpose
    tables = {"val_select": TABLES["val_select"]} if purpose == "sweep" else TABLES
    asked = dataclasses.asdict(options)
    geometry = Geometry.of(network.processing_class)
    # A square input distorts portrait and landscape photos equally; a rectangle does not.
    also = () if geometry.height == geometry.width else (ORIENTATION,)
    tiled = isinstance(geometry, Tiles)
    with carried_out(run, PREDICT, asked, purpose=purpose, splits=splits, noted=writes):
        for name, (role, parts) in tables.items():
            predicted, whole = [], []
            for part in parts:
                rows = splits.rows(role, step="predictions", part=part)
                if tiled:
                    first, logits = network.logits_by_stage(rows)
                    whole.append(first)
                else:
                    logits = network.logits(rows)
                predicted.append((part, rows, logits))
            if writes:
                slices = () if purpose == "sweep" else options.slices
                path = run / "predictions" / f"{name}.parquet"
                write_predictions(path, predicted, slices, also=also, whole=whole)
            if purpose != "sweep":
                predict_challenged(
                    run,
                    options,
                    name,
                    predicted,
                    processor=network.processing_class,
                    logits=network.logits_of_photos,
                    write=writes,
                )
        for name, predicted in network.probe_predictions().items():
            if writes:
                write_predictions(run / "predictions" / "probe" / f"{name}.parquet", [predicted])
