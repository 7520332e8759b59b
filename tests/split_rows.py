"""Rows cut into four splits and locked, as tests of data sets want them."""

from __future__ import annotations

from collections.abc import Sequence

from natix_hf.data.sources.rows import Rows
from natix_hf.data.splits.contracts import LockedSplits
from natix_hf.data.splits.cut import cut
from natix_hf.data.splits.split_options import DEFAULT_RATIOS, Plan


def split_rows(rows: Rows, ratios: Sequence[float] = DEFAULT_RATIOS, seed: int = 0, **plan) -> LockedSplits:
    """The splits; `plan` is the other fields of `Plan`."""
    return cut(rows, Plan(ratios=tuple(ratios), seed=seed, **plan)).lock()
