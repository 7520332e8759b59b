"""Writes and reads the logits of a split, which calibration, figures, report and comparisons use.

`predictions/<split>.parquet` holds id, group, label and logits of each row, and the metadata columns for slices
(`slice:<column>`), but no coordinates. If a challenge profile sent the photos, the file says how. For a model that
sees tiles it also holds the logits of the whole photo alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from natix_hf.data.splits.slicing import slice_values
from natix_hf.decision.temperature import checked_rows
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.errors import UserError, one_line
from natix_hf.files import replacing

if TYPE_CHECKING:
    from natix_hf.decision.cascade import TwoStages

SENT = b"sent"  # key of the file's metadata: how a profile sent the photos
SENT_BEFORE = "upright by EXIF orientation and coded once as JPEG (natix_hf 0.1)"  # of files that do not say it
WHOLE = "whole_logits"
SLICE = "slice:"  # prefix of the columns for slices


def read_predictions(
    run: Path, split: str, part: str | None = None, *, fitted: CalibrationFile | None = None
) -> SavedLogits:
    """The logits of one split as a run wrote them.

    Args:
        run, split, part: the run folder, the split, and its part if it has parts.
        fitted: the run's calibration. For a cascade, the logits are then those of the cascade, calibrated stage by
            stage, on which the rest of the calibration was fitted.

    Raises:
        UserError: the run has no such file, for example because it is not finished; or the file does not hold logits
            and labels of one model (NaN, probabilities, labels out of range).
    """
    path = Path(run) / "predictions" / f"{split}.parquet"
    if not path.is_file():
        raise UserError(f"{path}: no such file: give a finished run; natix_hf.train writes this file at the end")
    try:
        table = pq.read_table(path)
        if part is not None:
            table = table.filter(pa.compute.equal(table["part"], part))
        _check(table, f"{path}{f', part {part}' if part else ''}")
    except (pa.ArrowException, KeyError) as error:
        raise UserError(f"{path}: no predictions of natix_hf.train: {one_line(error)}: restore the file") from None
    named = [name for name in table.column_names if name in ("id", "group", "source") or name.startswith(SLICE)]
    texts = {name: np.array(table[name].to_pylist(), dtype=object) for name in named}
    rows = SavedLogits(
        logits=np.array(table["logits"].to_pylist(), dtype=np.float64),
        label=table["label"].to_numpy(),
        group=texts["group"],
        ids=texts["id"],
        slices={name.removeprefix(SLICE): texts[name] for name in texts if name.startswith(SLICE)},
        source=texts.get("source"),
        whole=np.array(table[WHOLE].to_pylist(), dtype=np.float64) if WHOLE in table.column_names else None,
    )
    return rows if fitted is None else deployed(rows, fitted)


def deployed(rows: SavedLogits, fitted: CalibrationFile) -> SavedLogits:
    """The rows with the logits that a calibration was fitted on; for a cascade, the combined logits of both stages."""
    if fitted.cascade is None:
        return rows
    from natix_hf.decision.cascade import TwoStages

    return answered(rows, TwoStages.from_document(fitted.cascade, fitted.positive))


def answered(rows: SavedLogits, stages: TwoStages) -> SavedLogits:
    """The rows with the logits of a cascade, calibrated stage by stage."""
    return dataclasses.replace(rows, logits=stages.composite(rows.whole, rows.logits).logits)


def _check(table: pa.Table, what: str) -> None:
    """Raise `UserError` if the rows cannot come from one model."""
    ids, labels = table["id"].to_pylist(), table["label"].to_numpy()
    sizes = set(map(len, table["logits"].to_pylist()))
    if not ids or len(sizes) != 1:
        content = f"rows of {', '.join(map(str, sorted(sizes)))} logits" if ids else "no rows"
        raise UserError(f"{what}: expected the logits of one model, found {content}: restore the file")
    checked_rows(table["logits"].to_pylist(), labels, what, ids)


def check_classes(rows: SavedLogits, names: Sequence[str], what: str) -> None:
    """Raise `UserError` if the number of logits differs from the number of classes."""
    if rows.logits.shape[1] != len(names):
        raise UserError(
            f"{what}: expected {len(names)} logits per photo, one per class ({', '.join(names[:5])}); found "
            f"{rows.logits.shape[1]}: restore the run's own file"
        )


def sent_as(path: Path) -> str:
    """How the photos of a file with predictions under a profile were sent."""
    sent = (pq.read_schema(path).metadata or {}).get(SENT)
    return SENT_BEFORE if sent is None else sent.decode()


def write_predictions(
    path: Path,
    parts: list[tuple[str | None, Any, np.ndarray]],
    slices: Sequence[str] = (),
    *,
    also: Sequence[str] = (),
    sent: str | None = None,
    whole: Sequence[np.ndarray] = (),
) -> None:
    """Write parts of a split as `predictions/<split>.parquet`.

    Args:
        parts: name, rows and logits `(n, classes)` of each part.
        slices: columns to break the figures down by; by default all suitable ones, see `data.splits.slicing`.
        also: columns of `slicing.DERIVED` to add to these defaults.
        sent: how a challenge profile sent the photos, if one did.
        whole: for each part the logits of the whole photo alone, if the model sees tiles.
    """
    columns: dict[str, list] = {"id": [], "group": [], "label": [], "logits": [], "part": []}
    for part, rows, logits in parts:
        for name in ("id", "group", "label"):
            columns[name] += rows[name][:]
        columns["logits"] += logits.tolist()
        columns["part"] += [part] * len(logits)
    if all(part is None for part in columns["part"]):
        del columns["part"]
    for name in ("source", "width", "height"):
        if all(name in rows.column_names for _, rows, _ in parts):
            columns[name] = [value for _, rows, _ in parts for value in rows[name][:]]
    kinds = slice_values([rows for _, rows, _ in parts], slices, also=also)
    columns |= {f"{SLICE}{name}": values for name, values in kinds.items()}
    table = pa.table({**columns, "logits": pa.array(columns["logits"], pa.list_(pa.float32()))})
    if whole:
        values = [row for logits in whole for row in logits.tolist()]
        table = table.append_column(WHOLE, pa.array(values, pa.list_(pa.float32())))
    if sent is not None:
        table = table.replace_schema_metadata({SENT: sent})
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
