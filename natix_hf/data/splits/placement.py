"""Assigns whole groups of rows to shares, stratified by class and independent of the order of the rows.

Works on arrays of class and group numbers. The same code makes the four splits and the two parts of `val_calib`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from natix_hf.errors import UserError


def _shuffled(names: Sequence[str], seed: int) -> np.ndarray:
    """The rank of each name in a random order that depends only on the names and the seed."""
    keys = [(hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest(), name) for name in names]
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[sorted(range(len(names)), key=keys.__getitem__)] = np.arange(len(names))
    return ranks


class _Table:
    """Rows of each cell (class, or class and stratum) in each group, and the rows that each share still lacks.

    `surplus[share, cell]` = rows placed minus rows wanted; it starts at `-share * rows of the cell`.
    """

    def __init__(self, cells: np.ndarray, cell_class: np.ndarray, groups: np.ndarray, shares: np.ndarray, ranks):
        self.shares, self.ranks, self.cell_class = shares, ranks, cell_class
        self.sizes = np.bincount(groups, minlength=len(ranks))  # (groups,) rows
        self.totals = np.bincount(cells, minlength=len(cell_class))  # (cells,) rows
        pairs, self.counts = np.unique(groups * len(self.totals) + cells, return_counts=True)
        self.pair_group, self.pair_cell = np.divmod(pairs, len(self.totals))
        self.pair_class = cell_class[self.pair_cell]
        self.starts = np.searchsorted(self.pair_group, np.arange(len(ranks) + 1))
        self.surplus = -np.outer(shares, self.totals).astype(np.float64)
        self.home = np.full(len(ranks), -1)
        self.fixed = np.zeros(len(ranks), dtype=bool)

    def cells(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """The cells of a group and the number of rows in each."""
        part = slice(self.starts[group], self.starts[group + 1])
        return self.pair_cell[part], self.counts[part]

    def fix(self, groups: np.ndarray, homes: np.ndarray) -> None:
        """Assign groups whose share is fixed. The other groups fill what they leave."""
        self.home[groups], self.fixed[groups] = homes, True
        given = self.fixed[self.pair_group]
        np.add.at(self.surplus, (self.home[self.pair_group[given]], self.pair_cell[given]), self.counts[given])

    def place_large(self) -> None:
        """Assign groups of several rows, large ones first, in random order among those of about the same size.

        Each goes to the share where the chi-squared distance between placed and wanted rows grows least.
        """
        several = np.flatnonzero((self.sizes > 1) & ~self.fixed)
        magnitude = np.floor(np.log2(np.maximum(self.sizes, 1)))
        for group in several[np.lexsort((self.ranks[several], -magnitude[several]))]:
            cells, counts = self.cells(group)
            growth = counts * (counts + 2 * self.surplus[:, cells]) / self.totals[cells]
            best = int(np.argmin(growth.sum(axis=1) / self.shares))
            self.home[group] = best
            self.surplus[best, cells] += counts

    def place_single(self) -> None:
        """Assign groups of one row, cell by cell, to fill what the shares still lack, by largest remainder.

        Rounding errors of a cell are carried to the next, so that many small cells do not all round the same way.
        """
        carry = np.zeros(len(self.shares))
        single = np.flatnonzero((self.sizes == 1) & ~self.fixed)
        single_cell = self.pair_cell[self.starts[single]]
        order = np.lexsort((self.ranks[single], single_cell))
        bounds = np.flatnonzero(np.diff(single_cell[order])) + 1
        for members in np.split(single[order], bounds) if len(single) else []:
            lacking = np.clip(-self.surplus[:, self.pair_cell[self.starts[members[0]]]], 0, None)
            wanted = lacking if lacking.sum() > 0 else self.shares
            exact = len(members) * wanted / wanted.sum()
            quota = np.floor(exact + 1e-9).astype(np.int64)
            rest = exact - quota
            most = np.argsort(-np.where(rest > 1e-9, np.round(rest + carry, 9), -np.inf), kind="stable")
            quota[most[: len(members) - quota.sum()]] += 1
            carry += exact - quota
            self.home[members] = np.repeat(np.arange(len(quota)), quota)

    def repair(self, names: Sequence[str]) -> None:
        """Move the smallest groups that can be spared, until every share has every class."""
        present = np.zeros((len(self.shares), len(names)), dtype=np.int64)  # (shares, classes) cells of groups
        np.add.at(present, (self.home[self.pair_group], self.pair_class), 1)
        for label in np.argsort(present.sum(axis=0), kind="stable"):
            for share in np.flatnonzero(present[:, label] == 0):
                holders = self.pair_group[(self.pair_class == label) & ~self.fixed[self.pair_group]]
                order = np.lexsort((self.ranks[holders], self.sizes[holders], -present[self.home[holders], label]))
                for group in holders[order]:
                    classes, times = np.unique(self.cell_class[self.cells(group)[0]], return_counts=True)
                    if (present[self.home[group], classes] > times).all():
                        present[self.home[group], classes] -= times
                        present[share, classes] += times
                        self.home[group] = share
                        break
                else:
                    raise UserError(
                        f"class {names[label]!r} cannot be in every split while groups stay whole: add photos of it "
                        "from other groups, or choose a finer group_column"
                    )


def place(
    labels: np.ndarray,
    groups: np.ndarray,
    group_names: Sequence[str],
    shares: Sequence[float],
    seed: int,
    *,
    strata: np.ndarray | None = None,
    fixed: np.ndarray | None = None,
    label_names: Sequence[str] | None = None,
) -> np.ndarray:
    """The share of each row, with whole groups and stratified by class, in about O(n log n).

    Args:
        labels: `(n,)` class numbers from 0.
        groups: `(n,)` group numbers from 0.
        group_names: name of each group. Names and seed determine the result; row order does not matter.
        shares: positive, sum to 1.
        strata: `(n,)` numbers of a second property to stratify by, within each class.
        fixed: `(n,)` fixed shares, -1 where free. A fixed row fixes its whole group.
        label_names: if given, every share must have every class. Errors use these names.

    Returns:
        `(n,)` share numbers.

    Raises:
        UserError: with `label_names`, if a class has fewer photos or groups than there are shares.
    """
    if strata is None:
        cells, cell_class = labels, np.arange(int(labels.max(initial=-1)) + 1)
    else:
        width = int(strata.max(initial=0)) + 1
        both, cells = np.unique(labels * width + strata, return_inverse=True)
        cell_class = both // width
    ranks = _shuffled(group_names, seed)
    table = _Table(cells, cell_class, groups, np.asarray(shares, dtype=np.float64), ranks)
    if fixed is not None:
        fixed_rows = np.flatnonzero(fixed >= 0)
        taken, first = np.unique(groups[fixed_rows], return_index=True)
        table.fix(taken, fixed[fixed_rows[first]])
    if label_names is not None:
        _check_enough(labels, groups, shares, label_names)
    table.place_large()
    table.place_single()
    if label_names is not None:
        table.repair(label_names)
    return table.home[groups]


def _check_enough(labels: np.ndarray, groups: np.ndarray, shares: Sequence[float], names: Sequence[str]) -> None:
    """Raise `UserError` if a class has fewer photos or groups than there are shares."""
    rows = np.bincount(labels, minlength=len(names))
    pairs = np.unique(groups * len(names) + labels)
    in_groups = np.bincount(pairs % len(names), minlength=len(names))
    for label, name in enumerate(names):
        if rows[label] < len(shares):
            raise UserError(
                f"class {name!r} has {rows[label]} photos, fewer than the {len(shares)} splits: add photos of it or "
                "drop the class"
            )
        if in_groups[label] < len(shares):
            raise UserError(
                f"class {name!r} is in {in_groups[label]} groups, fewer than the {len(shares)} splits, and "
                "groups are kept whole: add photos of it from other groups, or choose a finer group_column"
            )
