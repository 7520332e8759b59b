"""Photos in class folders as other forms of a data set, and the line with which a source is refused."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Image

from natix_hf.data.sources.rows import load_rows
from natix_hf.errors import UserError

COLOURS = {"None": (100, 120, 110), "Roadwork": (150, 100, 90)}  # what `make_photos` wants
NAMES = list(COLOURS)


def listed(folder: Path) -> list[tuple[str, str]]:
    """(path below the folder, class) of each photo in class folders."""
    return [(p.relative_to(folder).as_posix(), p.parent.name) for p in sorted(folder.rglob("*.jpg"))]


def as_dataset(folder: Path, **columns: list) -> Dataset:
    """The photos of class folders with numbers for labels; `columns` replaces or adds some."""
    found = listed(folder)
    given = {"image": [str(folder / path) for path, _ in found], "label": [NAMES.index(n) for _, n in found]} | columns
    return Dataset.from_dict(given).cast_column("image", Image())


def write_csv(path: Path, header: str, rows: Iterable[Iterable], mark: str = ",") -> None:
    path.write_text("\n".join([header, *(mark.join(map(str, row)) for row in rows)]) + "\n")


def refused(source: Any, **options: Any) -> str:
    """The one line with which `load_rows` refuses a source."""
    with pytest.raises(UserError) as caught:
        load_rows(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
