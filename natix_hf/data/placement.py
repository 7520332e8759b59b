"""Places whole groups of rows into shares, stratified by class, the same for any order of the rows.

It works on arrays of class and group numbers. It knows neither photos nor what the shares are for: the four splits
and the two halves of `val_calib` are cut by the same code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from natix_hf.errors import UserError


def _shuffled(names: Sequence[str], seed: int) -> np.ndarray:
    """The rank of each name in an order that depends on the names and the seed alone."""
    keys = [(hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest(), name) for name in names]
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[sorted(range(len(names)), key=keys.__getitem__)] = np.arange(len(names))
    return ranks


class _Table:
    """How many rows of each class each group holds, and what each share still lacks.

    `surplus[share, class]` = rows placed minus rows wanted; it starts at `-share * rows of the class`.
    """

    def __init__(self, labels: np.ndarray, groups: np.ndarray, shares: np.ndarray, ranks: np.ndarray):
        self.shares, self.ranks = shares, ranks
        self.sizes = np.bincount(groups, minlength=len(ranks))  # (groups,) rows
        self.totals = np.bincount(labels)  # (classes,) rows
        pairs, self.counts = np.unique(groups * len(self.totals) + labels, return_counts=True)
        self.pair_group, self.pair_class = np.divmod(pairs, len(self.totals))
        self.starts = np.searchsorted(self.pair_group, np.arange(len(ranks) + 1))
        self.surplus = -np.outer(shares, self.totals).astype(np.float64)
        self.home = np.full(len(ranks), -1)

    def classes(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """The classes in a group and the rows of each."""
        part = slice(self.starts[group], self.starts[group + 1])
        return self.pair_class[part], self.counts[part]

    def place_large(self) -> None:
        """Groups of several rows, large ones first (shuffled among those of about the same size), each where the
        chi-squared distance between the rows placed and the rows wanted grows least."""
        several = np.flatnonzero(self.sizes > 1)
        magnitude = np.floor(np.log2(np.maximum(self.sizes, 1)))
        for group in several[np.lexsort((self.ranks[several], -magnitude[several]))]:
            classes, counts = self.classes(group)
            growth = (
                counts * (counts + 2 * self.surplus[:, classes]) / self.totals[classes]
            )  # (shares, classes of the group)
            best = int(np.argmin(growth.sum(axis=1) / self.shares))
            self.home[group] = best
            self.surplus[best, classes] += counts

    def place_single(self) -> None:
        """Groups of one row: each class fills what the shares still lack, by largest remainder; what rounding took
        from a share in one class is carried to the next, so that many small classes do not all round the same
        way."""
        carry = np.zeros(len(self.shares))
        single = np.flatnonzero(self.sizes == 1)
        single_class = self.pair_class[self.starts[single]]
        for label in np.unique(single_class):
            members = single[single_class == label]
            members = members[np.argsort(self.ranks[members])]
            lacking = np.clip(-self.surplus[:, label], 0, None)
            wanted = lacking if lacking.sum() > 0 else self.shares
            exact = len(members) * wanted / wanted.sum()
            quota = np.floor(exact + 1e-9).astype(np.int64)
            rest = exact - quota
            order = np.argsort(-np.where(rest > 1e-9, np.round(rest + carry, 9), -np.inf), kind="stable")
            quota[order[: len(members) - quota.sum()]] += 1
            carry += exact - quota
            self.home[members] = np.repeat(np.arange(len(quota)), quota)

    def repair(self, names: Sequence[str]) -> None:
        """Moves the smallest groups that can be spared, so that every share holds every class."""
        present = np.zeros(self.surplus.shape, dtype=np.int64)  # (shares, classes) groups
        np.add.at(present, (self.home[self.pair_group], self.pair_class), 1)
        for label in np.argsort(present.sum(axis=0), kind="stable"):
            for share in np.flatnonzero(present[:, label] == 0):
                holders = self.pair_group[self.pair_class == label]
                holders = holders[
                    np.lexsort((self.ranks[holders], self.sizes[holders], -present[self.home[holders], label]))
                ]
                for group in holders:
                    classes, _ = self.classes(group)
                    if (present[self.home[group], classes] >= 2).all():
                        present[self.home[group], classes] -= 1
                        present[share, classes] += 1
                        self.home[group] = share
                        break
                else:
                    raise UserError(
                        f"class {names[label]!r} cannot stand in every split with whole groups: add photos of it "
                        "from other groups, or choose a finer group_column"
                    )


def place(
    labels: np.ndarray,
    groups: np.ndarray,
    group_names: Sequence[str],
    shares: Sequence[float],
    seed: int,
    *,
    label_names: Sequence[str] | None = None,
) -> np.ndarray:
    """The share of each row: whole groups, classes in proportion, about O(n log n).

    Args:
        labels: `(n,)` class numbers from 0.
        groups: `(n,)` group numbers from 0.
        group_names: the name of each group; together with the seed they decide who goes where, row order does not.
        shares: positive, sum to 1.
        seed: of the shuffle.
        label_names: if given, every class must stand in every share, and these names are used to say where that fails.

    Returns:
        `(n,)` share numbers.

    Raises:
        UserError: with `label_names`, if a class has fewer photos or groups than there are shares.
    """
    table = _Table(labels, groups, np.asarray(shares, dtype=np.float64), _shuffled(group_names, seed))
    if label_names is not None:
        in_groups = np.bincount(table.pair_class, minlength=len(table.totals))
        for label, name in enumerate(label_names):
            rows = table.totals[label] if label < len(table.totals) else 0
            if rows < len(shares):
                raise UserError(
                    f"class {name!r} has {rows} photos, fewer than the {len(shares)} splits: add photos of it or "
                    "drop the class"
                )
            if in_groups[label] < len(shares):
                raise UserError(
                    f"class {name!r} stands in {in_groups[label]} groups, fewer than the {len(shares)} splits, and "
                    "groups are kept whole: add photos of it from other groups, or choose a finer group_column"
                )
    table.place_large()
    table.place_single()
    if label_names is not None:
        table.repair(label_names)
    return table.home[groups]
