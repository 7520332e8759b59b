"""The logits of a split on disk, written once: what calibration, figures, the page and comparisons read afterwards.

`predictions/<split>.parquet` holds id, group, label and logits of each row, the kinds of photos that figures are
broken down by (`slice:<column>`), and no coordinates; where a challenge profile sent the photos, also how. This module
knows no figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from natix_hf.data.splits.slicing import slice_values
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.errors import UserError, one_line
from natix_hf.files import replacing

SENT = b"sent"  # in the file's metadata: how a challenge profile took the photos
SENT_BEFORE = "upright by EXIF orientation and coded once as JPEG (natix_hf 0.1)"  # of files that do not say it
SLICE = "slice:"  # stands before the name of a column that figures are broken down by


def read_predictions(run: Path, split: str, part: str | None = None) -> SavedLogits:
    """The logits of one split as a run wrote them.

    Raises:
        UserError: the run has no such file, e.g. because it is not finished, or what it holds are no logits and labels
            of one model: NaN, probabilities, labels out of range.
    """
    path = Path(run) / "predictions" / f"{split}.parquet"
    if not path.is_file():
        raise UserError(f"{path}: no such file: is {run} a finished run? natix_hf.train writes it at the end")
    try:
        table = pq.read_table(path)
        if part is not None:
            table = table.filter(pa.compute.equal(table["part"], part))
        _check(table, f"{path}{f', part {part}' if part else ''}")
    except (pa.ArrowException, KeyError) as error:
        raise UserError(f"{path}: no predictions that natix_hf.train wrote: {one_line(error)}") from None
    texts = {name: np.array(table[name].to_pylist(), dtype=object) for name in table.column_names if _is_text(name)}
    return SavedLogits(
        logits=np.array(table["logits"].to_pylist(), dtype=np.float64),
        label=table["label"].to_numpy(),
        group=texts["group"],
        ids=texts["id"],
        slices={name.removeprefix(SLICE): texts[name] for name in texts if name.startswith(SLICE)},
        source=texts.get("source"),
    )


def _check(table: pa.Table, what: str) -> None:
    """Raise `UserError` for rows that no model of one set of classes gave."""
    ids, labels = table["id"].to_pylist(), table["label"].to_numpy()
    sizes = set(map(len, table["logits"].to_pylist()))
    if not ids or len(sizes) != 1:
        found = f"rows of {', '.join(map(str, sorted(sizes)))} logits" if ids else "no rows"
        raise UserError(f"{what}: {found}, those of one model expected: bring the file back")
    logits = np.array(table["logits"].to_pylist(), dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        raise UserError(
            f"{what}: {len(bad)} of {len(ids)} rows have NaN or infinite logits (the first is {ids[bad[0]]}): the "
            "training has diverged or ran in fp16: train again with a lower learning_rate, in bf16 or fp32"
        )
    if ((logits >= 0) & (logits <= 1)).all() and np.allclose(logits.sum(axis=1), 1.0, atol=1e-4):
        raise UserError(
            f"{what}: probabilities given where logits are expected (all {len(ids)} rows lie in [0, 1] and sum to 1); "
            "write what the model gives before its softmax, or the logarithm of the probabilities"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= logits.shape[1]))
    if len(outside):
        first = outside[0]
        raise UserError(
            f"{what}: label {labels[first]} of {ids[first]} is not in 0..{logits.shape[1] - 1}, the classes of the "
            "model: bring the file back"
        )


def check_classes(rows: SavedLogits, names: Sequence[str], what: str) -> None:
    """Raise `UserError` where predictions have another number of logits than there are classes."""
    if rows.logits.shape[1] != len(names):
        raise UserError(
            f"{what}: {rows.logits.shape[1]} logits a photo, and the run has {len(names)} classes "
            f"({', '.join(names[:5])}): bring the run's own file back"
        )


def _is_text(name: str) -> bool:
    return name in ("id", "group", "source") or name.startswith(SLICE)


def sent_as(path: Path) -> str:
    """How the photos of a file with predictions under a challenge profile were sent."""
    told = (pq.read_schema(path).metadata or {}).get(SENT)
    return SENT_BEFORE if told is None else told.decode()


def write_predictions(
    path: Path, parts: list[tuple[str | None, Any, np.ndarray]], slices: Sequence[str] = (), *, sent: str | None = None
) -> None:
    """Write parts of a split as `predictions/<split>.parquet`.

    Args:
        path: of the file.
        parts: name, rows and logits `(n, classes)` of each.
        slices: the columns that figures are broken down by; by default all that are fit, see `data.splits.slicing`.
        sent: how the challenge profile took the photos, where they are as one sends them.
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
    kinds = slice_values([rows for _, rows, _ in parts], slices)
    columns |= {f"{SLICE}{name}": values for name, values in kinds.items()}
    table = pa.table({**columns, "logits": pa.array(columns["logits"], pa.list_(pa.float32()))})
    if sent is not None:
        table = table.replace_schema_metadata({SENT: sent})
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
