"""Rows cut into four splits and locked, as tests of data sets want them."""

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


def photos(n: int = 240, names: tuple[str, ...] = ("None", "Roadwork"), **columns: list) -> Rows:
    """Rows of two classes in pairs that are one group, without photos; `columns` replace or add some."""
    table = {
        "id": [f"r{i:03}" for i in range(n)],
        "group": [f"g{i // 2}" for i in range(n)],
        "fingerprint": [f"{i:032x}" for i in range(n)],
        "origin": ["all"] * n,
        "source": ["all"] * n,
        "label": [i // 2 % 2 for i in range(n)],
        "city": ["Boston" if i // 2 % 3 else "Austin" for i in range(n)],
        "image": [{"bytes": None, "path": f"{i}.jpg"} for i in range(n)],
    } | columns
    kinds = {name: Value("string") for name in table}
    kinds |= {"label": ClassLabel(names=list(names)), "image": Image(decode=False)}
    return Rows(Dataset.from_dict(table, features=Features(kinds)), [])
