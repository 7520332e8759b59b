"""Reads parquet files as tables, with the class names that each file itself defines.

`datasets` uses the column types of the first file for all files. If a later file has the class names in another order,
its ids would silently change their meaning.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset, Features, load_dataset

from natix_hf.data.sources.columns import names_in
from natix_hf.data.sources.stacking import stacked


def read_parquet(parts: Mapping[str, Sequence[Path]]) -> dict[str, Dataset]:
    """The files of each part as one table, memory-mapped.

    Args:
        parts: part -> its files.

    Raises:
        UserError: if the columns of files do not match.
        ArrowException, DatasetsError, ValueError: from `load_dataset`, if a file is not parquet.
    """
    alike: dict[tuple, dict[str, list[Path]]] = {}
    for part, files in parts.items():
        for file in files:
            alike.setdefault(tuple(sorted(file_names(file).items())), {}).setdefault(part, []).append(file)
    read: dict[str, list[tuple[Dataset, str]]] = {part: [] for part in parts}
    for members in alike.values():
        data_files = {part: [glob.escape(str(file)) for file in files] for part, files in members.items()}
        for part, rows in load_dataset("parquet", data_files=data_files).items():
            read[part].append((rows, members[part][0].name))
    return {part: tables[0][0] if len(tables) == 1 else stacked(*zip(*tables)) for part, tables in read.items()}


def file_names(file: Path) -> dict[str, tuple[str, ...]]:
    """The class names that a file defines, as in `names_in`."""
    return names_in(Features.from_arrow_schema(pq.read_schema(file)))
