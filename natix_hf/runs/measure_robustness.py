"""Measures a run under challenge profiles: its logits on photos as a challenge sends them, and figures from these.

`predictions/robustness/<profile>.parquet` holds each row of `val_test` under each level and distortion of the profile.
`predictions/val_calib@<profile>.parquet` holds the rows of `val_calib` as the profile sends them, for `calibrate_on`.
Both hold logits before calibration, of the same model and rows as the clean predictions, so this is not another read
of `val_test`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from natix_hf.data.splits.contracts import LockedSplits
from natix_hf.decision.calibration import Calibration
from natix_hf.decision.exit_options import without_exits
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.documents.step_record import StepRecord
from natix_hf.errors import UserError
from natix_hf.files import read_json, replacing, write_json
from natix_hf.inference.classify import load_classifier
from natix_hf.inference.measured_pace import default_device
from natix_hf.inference.robustness import SentPhotos, measure_latency, sent_logits
from natix_hf.report.robustness import Sent, latency_document, robustness_document
from natix_hf.runs.photos_of_run import run_splits
from natix_hf.runs.saved_logits import sent_as, write_predictions
from natix_hf.runs.steps import PREDICT, TIME, carried_out
from natix_hf.streetvision.client_files import LIMIT_SECONDS
from natix_hf.streetvision.field import LATE_2025, Field
from natix_hf.streetvision.profiles import LETTERBOXED, SENT, check_profiles, check_sendable, file_name
from natix_hf.streetvision.reward import Photos, reward_document
from natix_hf.streetvision.sent_photos import Case, cases_of

if TYPE_CHECKING:
    from natix_hf.runs.decision_options import DecisionOptions

TIMED = 50  # photos whose latency is measured
MOST_SOURCES, FEWEST_PHOTOS = 20, 30  # sources with a reward of their own, and the photos that such a source has

Parts = Sequence[tuple[str | None, Any, np.ndarray]]


def check_photos(splits: LockedSplits, profiles: Sequence[str]) -> None:
    """Raise `UserError` if a profile never sends one of these photos; names that are not profiles are ignored."""
    if LETTERBOXED in profiles:
        name, size = splits.narrowest()
        check_sendable(LETTERBOXED, size, name)


def predict_challenged(
    run: Path,
    options: DecisionOptions,
    split: str,
    parts: Parts,
    *,
    processor: Any,
    logits: Callable[[SentPhotos], np.ndarray],
    write: bool,
) -> None:
    """Predict a split for the recipe's `calibrate_on` and `robustness`, on all processes together.

    Args:
        run: the run folder.
        options: decision options of the run.
        split: name of the split; only `val_calib` and `val_test` are predicted.
        parts: name, rows and clean logits of each part of the split.
        processor: the image processor.
        logits: computes the model's logits `(n, classes)` before calibration, float32.
        write: whether this process writes.
    """

    def predicted(rows: Any, cases: Sequence[Case]) -> np.ndarray:
        return logits(SentPhotos(rows, processor, cases)).reshape(len(rows), len(cases), -1)

    if split == "val_calib" and options.calibrate_on != "clean":
        profile = options.calibrate_on
        views = [Case(profile, view=view) for view in range(options.calibrate_views)]
        by_part = [(part, rows, predicted(rows, views)) for part, rows, _ in parts]
        if write:
            sent = [(part, rows, ways[:, i]) for i in range(len(views)) for part, rows, ways in by_part]
            write_predictions(run / "predictions" / f"{split}@{file_name(profile)}.parquet", sent, sent=SENT)
    if split == "val_test":
        ((_, rows, _),) = parts
        for profile in options.robustness:
            cases = cases_of(profile)
            ways = predicted(rows, cases)
            if write:
                _write(run, profile, rows, cases, ways)


def _write(run: Path, profile: str, rows: Any, cases: Sequence[Case], logits: np.ndarray) -> None:
    """Write `predictions/robustness/<profile>.parquet`: all rows for the first case, then all for the second, ..."""
    columns: dict[str, list] = {name: rows[name][:] * len(cases) for name in ("id", "group", "label")}
    for name in ("profile", "level", "distortion", "severity"):
        columns[name] = [value for case in cases for value in [getattr(case, name)] * len(rows)]
    in_order = logits.transpose(1, 0, 2).reshape(-1, logits.shape[-1])
    types = {"distortion": pa.string(), "severity": pa.int64(), "logits": pa.list_(pa.float32())}
    columns["logits"] = in_order.tolist()
    table = pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})
    with replacing(run / "predictions" / "robustness" / f"{file_name(profile)}.parquet") as path:
        pq.write_table(table.replace_schema_metadata({"sent": SENT}), path)


def _read(run: Path, ids: np.ndarray) -> tuple[dict[str, list[Sent]], dict[str, str]]:
    """By profile: its cases with logits before calibration, rows in the order of `ids`; and how it sent the photos."""
    cases: dict[str, list[Sent]] = {}
    how: dict[str, str] = {}
    for path in sorted((run / "predictions" / "robustness").glob("*.parquet")):
        table = pq.read_table(path)
        n, logits = len(ids), np.array(table["logits"].to_pylist(), dtype=np.float64)
        ways = range(0, len(table), n)
        if len(table) % n or any(table["id"][i : i + n].to_pylist() != list(ids) for i in ways):
            raise UserError(
                f"{path}: expected the rows of val_test.parquet, found others: measure again: --robustness PROFILE"
            )
        place = {name: table[name].to_pylist() for name in ("profile", "level", "distortion", "severity")}
        cases[place["profile"][0]] = [
            Sent(place["level"][i], place["distortion"][i], place["severity"][i], logits[i : i + n]) for i in ways
        ]
        how[place["profile"][0]] = sent_as(path)
    return cases, how


def note_latency(run: Path, model: torch.nn.Module, processor: Any, rows: Any) -> None:
    """Measure some photos one by one on this machine's CPU, and write `predictions/robustness/latency.json`."""
    with carried_out(run, TIME):
        photos = [rows[i]["image"] for i in range(min(TIMED, len(rows)))]
        write_json(run / "predictions" / "robustness" / "latency.json", measure_latency(model, processor, photos))


def measure_robustness(run: Path, profiles: Sequence[str], *, num_workers: int = 2) -> None:
    """Predict `val_test` of a finished run as challenge profiles send it, in fp32, with the model that it saved.

    The rows are read for the step that writes logits, and the ledger of the run records this.

    Raises:
        UserError: a profile is unknown, the run is a refit, or its photos have changed.
    """
    check_profiles(profiles, "--robustness")
    if CalibrationFile.there(run) and CalibrationFile.read(run).cascade:
        raise UserError(
            f"--robustness: {run} has early exits, and their logits on distorted photos are not saved: "
            f"{without_exits(run)}"
        )
    splits = run_splits(run, say=print)
    check_photos(splits, profiles)
    rows = splits.rows("final_evaluation", step="predictions")
    model, processor = load_classifier(str(run))
    note_latency(run, model, processor, rows)
    model.set_calibration(1.0)  # the logits are kept as they were before calibration
    model.to(default_device())
    done = StepRecord.of(run, PREDICT.name)
    with carried_out(run, PREDICT, done and done.options, splits=splits):
        for profile in profiles:
            cases = cases_of(profile)
            logits = sent_logits(model, rows, processor, cases, num_workers=num_workers)
            _write(run, profile, rows, cases, logits)


def challenge_documents(
    run: Path,
    rows: SavedLogits,
    calibration: Calibration,
    *,
    label_names: Sequence[str],
    positive: int,
    field: Field | None = None,
) -> None:
    """Write `robustness.json` if profiles were predicted, and `reward.json` if there are two classes.

    Args:
        run: the run folder.
        rows: predictions on `val_test`, from `read_predictions`.
        calibration: calibration of the run.
        label_names: the classes in the order of their ids.
        positive: id of the positive class.
        field: the scores of other participants; by default a record that is not confirmed.
    """
    labels, groups = rows.label, rows.group
    clean, (ways, how) = calibration.served(rows.logits), _read(run, rows.ids)
    ways = {
        profile: [Sent(way.level, way.distortion, way.severity, calibration.served(way.logits)) for way in sent]
        for profile, sent in ways.items()
    }
    about = {"label_names": label_names, "positive": positive}
    if ways:
        timed = run / "predictions" / "robustness" / "latency.json"
        latency = latency_document(**read_json(timed), limit=LIMIT_SECONDS) if timed.is_file() else None
        document = robustness_document(clean, ways, labels, groups, how_sent=how, latency=latency, **about)
        document.write(run)
    if len(label_names) == 2:
        sent = {"clean": [clean]}
        sent |= {profile: [way.logits for way in cases if way.distortion is None] for profile, cases in ways.items()}
        photos = []
        for profile, logits in sent.items():
            for source, kept in _by_source(rows.source, len(labels)):
                kept_logits = np.concatenate([way[kept] for way in logits])
                times = len(logits)  # a photo in several ways stays in its group
                repeated = np.tile(labels[kept], times), np.tile(groups[kept], times)
                photos.append(Photos(profile, source, kept_logits, *repeated, how_sent=how.get(profile)))
        reward = reward_document(photos, field or LATE_2025, **about)
        reward.write(run)


def _by_source(sources: np.ndarray | None, n: int) -> list[tuple[str | None, np.ndarray]]:
    """All rows, then those of each source if there are several, the largest first."""
    kept: list[tuple[str | None, np.ndarray]] = [(None, np.ones(n, dtype=bool))]
    if sources is not None:
        names, counts = np.unique(sources.astype(str), return_counts=True)
        large = [str(names[i]) for i in np.argsort(-counts, kind="stable") if counts[i] >= FEWEST_PHOTOS]
        if len(names) > 1:
            kept += [(name, sources.astype(str) == name) for name in large[:MOST_SOURCES]]
    return kept
