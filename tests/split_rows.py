"""Rows without photos, and rows cut into four splits and locked."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import ClassLabel, Dataset, Features, Image, Value

from natix_hf.data.sources.rows import Rows
from natix_hf.data.splits.contracts import LockedSplits
from natix_hf.data.splits.cut import cut
from natix_hf.data.splits.split_options import DEFAULT_RATIOS, Plan


def split_rows(rows: Rows, ratios: Sequence[float] = DEFAULT_RATIOS, seed: int = 0, **plan) -> LockedSplits:
    """The splits; `plan` is the other fields of `Plan`."""
    return cut(rows, Plan(ratios=tuple(ratios), seed=seed, **plan)).lock()


def unopened(n: int = 200, names: Sequence[str] = ("None", "Roadwork"), **columns: list) -> Rows:
    """Rows as `load_rows` gives them, whose photos nobody opens; `columns` replaces theirs or adds columns of text."""
    ids = columns.get("id", [f"r{i:04}" for i in range(n)])
    table = {
        "id": ids,
        "group": [f"row:{i}" for i in ids],
        "origin": ["all"] * n,
        "source": ["all"] * n,
        "fingerprint": [f"{i:032x}" for i in range(n)],
        "label": [i % 2 for i in range(n)],
        "image": [{"bytes": None, "path": f"{i}.jpg"} for i in ids],
    } | columns
    kinds = {name: Value("string") for name in table}
    kinds |= {"label": ClassLabel(names=list(names)), "image": Image(decode=False)}
    return Rows(Dataset.from_dict(table, features=Features(kinds)), [])


def photos(n: int = 240, names: Sequence[str] = ("None", "Roadwork"), **columns: list) -> Rows:
    """Rows of two classes and two cities, in pairs that are one group; `columns` replaces or adds some."""
    pairs = [i // 2 for i in range(n)]
    city = ["Boston" if pair % 3 else "Austin" for pair in pairs]
    given = {"group": [f"g{pair}" for pair in pairs], "label": [pair % 2 for pair in pairs], "city": city}
    return unopened(n, names, **given | columns)
