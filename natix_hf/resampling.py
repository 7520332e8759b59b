"""Resampling of whole groups (the cluster bootstrap): the same draws for whatever is computed on them.

Photos of one camera or video resemble each other, so the group is what was drawn independently and what is drawn
again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from natix_hf.errors import UserError

LEVEL = 0.95  # share of repetitions in which an interval is to hold the truth
ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)  # shares of the draws that lie below its ends
CELLS = 2_000_000  # numbers held at once per array: 16 MB


def group_numbers(groups: np.ndarray | None, n: int) -> np.ndarray:
    """Consecutive integers `(n,)` in place of the groups' names; None: each row is a group of its own.

    Raises:
        UserError: not one group a row.
    """
    if groups is None:
        return np.arange(n)
    groups = np.asarray(groups)
    if groups.shape != (n,):
        raise UserError(f"{groups.size} groups for {n} rows: one a row expected")
    return np.unique(groups, return_inverse=True)[1]


def times_drawn(n_groups: int, n_boot: int, seed: int, at_once: int) -> Iterator[np.ndarray]:
    """How often each group is drawn, `(<= at_once, n_groups)` float64 a time; the draws do not depend on `at_once`."""
    generator = np.random.default_rng(seed)
    for start in range(0, n_boot, at_once):
        rows = min(at_once, n_boot - start)
        drawn = generator.integers(n_groups, size=(rows, n_groups)) + np.arange(rows)[:, None] * n_groups
        yield np.bincount(drawn.ravel(), minlength=rows * n_groups).reshape(rows, n_groups).astype(np.float64)
