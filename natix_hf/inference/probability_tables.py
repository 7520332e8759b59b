"""Reads probabilities from a table that `natix_hf.predict` wrote (see `classify.write_rows`)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from natix_hf.errors import UserError

SUMS = 1e-3  # tolerance on the sum of a photo's probabilities, which are written with 6 digits


def read_probabilities(path: str | Path, labels: Sequence[str]) -> tuple[np.ndarray, int]:
    """The calibrated probabilities of each photo, and the number of photos without them because they were unreadable.

    Args:
        path: CSV or JSON lines.

    Returns:
        `(n, classes)` float64, and the number of unreadable photos.

    Raises:
        UserError: the table does not exist, has other classes, or has a row without valid probabilities (the message
            gives the line).
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix not in (".csv", ".jsonl"):
        raise UserError(
            f"{path}: expected .csv or .jsonl, found a {path.suffix} file: give a table that natix_hf.predict wrote"
        )
    rows, without = [], 0
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for line, values in _csv(file, path, labels) if path.suffix == ".csv" else _jsonl(file, path, labels):
                if values is None:
                    without += 1
                else:
                    rows.append(_checked(values, path, line))
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path}: not a text file: give a table that natix_hf.predict wrote") from None
    if not rows:
        raise UserError(f"{path}: no probabilities found: give a table that natix_hf.predict wrote")
    return np.array(rows), without


def _csv(file: Any, path: Path, labels: Sequence[str]) -> Iterator[tuple[int, list[Any] | None]]:
    table = csv.DictReader(file)
    columns = [f"p_{label}" for label in labels]
    names = [name for name in table.fieldnames or [] if name.startswith("p_")]
    if sorted(names) != sorted(columns):
        raise UserError(
            f"{path}: expected the columns {', '.join(columns[:5])}; found "
            f"{', '.join(names[:5]) or 'no columns of probabilities'}: give the table that natix_hf.predict wrote "
            "with this model"
        )
    for row in table:
        yield table.line_num, None if row.get("error") else [row[name] for name in columns]


def _jsonl(file: Any, path: Path, labels: Sequence[str]) -> Iterator[tuple[int, list[Any] | None]]:
    for line, text in enumerate(file, start=1):
        try:
            row = json.loads(text)
            failed = "error" in row
            values = {} if failed else row["probabilities"]
            names = sorted(values)
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f"{path}: line {line} is not a row that natix_hf.predict wrote: write the table again"
            ) from None
        if not failed and names != sorted(labels):
            raise UserError(
                f"{path}: line {line}: expected the classes {', '.join(labels[:5])}; found {', '.join(names[:5])}: "
                "give the table that natix_hf.predict wrote with this model"
            )
        yield line, None if failed else [values[label] for label in labels]


def _checked(values: list[Any], path: Path, line: int) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or not all(0 <= p <= 1 for p in numbers) or abs(sum(numbers) - 1) > SUMS:
        shown = " ".join(str(value) for value in values)[:60]
        raise UserError(f"{path}: line {line}: expected probabilities that sum to 1, found '{shown}': predict again")
    return numbers
