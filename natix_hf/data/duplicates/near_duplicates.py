"""Finds rows that show the same photo, perhaps re-encoded, resized, brightened, mirrored or cropped.

Hashes give candidates, and aligned thumbnails confirm them. Rows that are already connected are not compared again, so
n copies of one photo cost about n comparisons. The module works on looks and row numbers and opens no photo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import minimum_spanning_tree

from natix_hf.data.duplicates.alignment import compare, flat
from natix_hf.data.duplicates.candidates import search
from natix_hf.data.splits.places import components, expand
from natix_hf.photos.perceptual_hashes import WINDOWS, hashes, thumbnails, window

HOW = ("same", "mirrored", "cropped", "mirrored and cropped")
# The thresholds were chosen on generated streets of another seed than that of tests/bench/planted_leaks.py. There 202
# pairs of frames of one sequence had similar hashes, and 1 pair passed; with a correlation of 0.994, 8 pairs passed.
# Of 720 brightened photos, 4 are missed.
CORRELATION = 0.9955  # least correlation of copies
LOCAL = 0.35  # most mean difference of a region between copies, relative to the contrast
CROPPED = 0.9  # pixels of the thumbnail (1.4 % of the photo) from which a copy counts as cropped
ALL_BUT_EQUAL = 2  # largest difference of grey levels between thumbnails for which the full photos are compared
ROUNDS = 8  # most leaders that the rows of one hash are compared with
MOST = 16  # most leaders of one hash that candidates are compared with


@dataclass(frozen=True)
class Copies:
    """Pairs of copies; they connect all copies of a photo, but not every pair is listed.

    Args:
        first, second: `(k,)` row numbers.
        how: `(k,)` indices into `HOW`.
        correlation: `(k,)` of the aligned thumbnails.
        pixels: `(k,)` whether all pixels are equal.
        compared: number of pairs whose thumbnails were compared.
        crowded: number of rows and look-ups left out because too many different photos have (nearly) the same hash.
    """

    first: np.ndarray
    second: np.ndarray
    how: np.ndarray
    correlation: np.ndarray
    pixels: np.ndarray
    compared: int
    crowded: int


class _Search:
    """State of the search: the components found so far, and the pairs that connect them."""

    def __init__(self, looks: Sequence[bytes], same_pixels: Callable[[int, int], bool] | None) -> None:
        self.looks, self.same_pixels = looks, same_pixels
        self.label = np.arange(len(looks))
        self.found: list[tuple[int, int, int, float, bool]] = []
        self.compared = 0

    def verify(self, first: np.ndarray, second: np.ndarray, query: np.ndarray) -> np.ndarray:
        """Compare pairs and connect those that are copies. Returns `(k,)`, whether each pair is."""
        passed = np.zeros(len(first), dtype=bool)
        for start in range(0, len(first), 64):  # small enough for the processor's cache
            part = slice(start, start + 64)
            left, right = (thumbnails([self.looks[row] for row in rows[part]]) for rows in (first, second))
            correlation, local, cut = compare(left, right, query[part])
            passed[part] = (correlation >= CORRELATION) & (local <= LOCAL)
            mirrored = query[part] >= len(WINDOWS)
            gap = np.abs(left.astype(np.int16) - right).max(axis=(1, 2))
            for at in np.flatnonzero(passed[part]).tolist():
                i, j = int(first[start + at]), int(second[start + at])
                equal = bool(query[start + at] == 0 and gap[at] <= ALL_BUT_EQUAL and self._equal(i, j))
                how = int(mirrored[at]) + 2 * int(cut[at] > CROPPED)
                self.found.append((i, j, how, float(correlation[at]), equal))
        self.compared += len(first)
        self.connect(first[passed], second[passed])
        return passed

    def _equal(self, i: int, j: int) -> bool:
        return self.same_pixels is not None and self.same_pixels(i, j)

    def connect(self, first: np.ndarray, second: np.ndarray) -> None:
        """Merge the components of each pair of rows; a merged component keeps the least of its labels."""
        nodes, ends = np.unique(self.label[np.concatenate([first, second])], return_inverse=True)
        merged = components(len(nodes), ends[: len(first)], ends[len(first) :])
        _, least, number = np.unique(merged, return_index=True, return_inverse=True)
        renamed = np.arange(len(self.label))
        renamed[nodes] = nodes[least][number]
        self.label = renamed[self.label]

    def apart(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return self.label[first] != self.label[second]

    def settle(self, first: np.ndarray, second: np.ndarray, query: np.ndarray, distance: np.ndarray) -> None:
        """Compare candidates, nearest first, until each is connected or rejected.

        Each of the first rounds compares only a spanning forest of the remaining candidates, since a forest is enough
        to connect a cluster of copies.
        """
        for _ in range(3):
            left = self.apart(first, second)
            first, second, query, distance = first[left], second[left], query[left], distance[left]
            if not len(first):
                return
            chosen = self._forest(first, second)
            self.verify(first[chosen], second[chosen], query[chosen])
            remaining = np.ones(len(first), dtype=bool)
            remaining[chosen] = False
            first, second, query, distance = first[remaining], second[remaining], query[remaining], distance[remaining]
        for start in range(0, len(first), 1024):
            part = slice(start, start + 1024)
            left = np.flatnonzero(self.apart(first[part], second[part])) + start
            self.verify(first[left], second[left], query[left])

    def _forest(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Indices of a minimum spanning forest of the candidates, which prefers near ones."""
        a, b = self.label[first], self.label[second]
        a, b = np.minimum(a, b), np.maximum(a, b)
        nodes, ends = np.unique(np.concatenate([a, b]), return_inverse=True)
        a, b = ends[: len(a)], ends[len(a) :]
        # One candidate per pair of components: candidates are sorted, so the first is the nearest.
        keys, pick = np.unique(a * len(nodes) + b, return_index=True)
        rank = np.empty(len(pick))
        rank[np.argsort(pick)] = np.arange(1, len(pick) + 1)
        tree = minimum_spanning_tree(coo_matrix((rank, (a[pick], b[pick])), shape=(len(nodes), len(nodes)))).tocoo()
        low, high = np.minimum(tree.row, tree.col), np.maximum(tree.row, tree.col)
        return np.sort(pick[np.searchsorted(keys, low.astype(np.int64) * len(nodes) + high)])


def find_copies(looks: Sequence[bytes], *, same_pixels: Callable[[int, int], bool] | None = None) -> Copies:
    """Find rows that show the same photo.

    Args:
        looks: `(n,)` from `perceptual_hashes.look`.
        same_pixels: whether two rows have equal pixels after a full decode; called if thumbnails are almost equal. A
            photo with too little contrast to tell it from others (night, fog) is connected only if this returns true.
    """
    state = _Search(looks, same_pixels)
    table = hashes(looks)
    plain = np.flatnonzero(~_flat(looks))
    _tie_flat(state, np.setdiff1d(np.arange(len(looks)), plain))
    values, inverse = np.unique(table[plain, 0], return_inverse=True)
    leaders, crowded = _settle_equal(state, plain, inverse)
    # The leaders of hash number v are leaders[starts[v]:starts[v + 1]].
    value_of = np.searchsorted(values, table[leaders, 0])
    order = np.lexsort((leaders, value_of))
    leaders, value_of = leaders[order], value_of[order]
    starts = np.searchsorted(value_of, np.arange(len(values) + 1))
    counts = np.minimum(np.diff(starts), MOST)
    crowded += int((np.diff(starts) - counts).sum())
    near = search(values, table[leaders])
    owner, position = expand(counts[near.value])
    first, second = leaders[near.row[owner]], leaders[starts[near.value[owner]] + position]
    query, distance = near.query[owner].astype(np.int64), near.distance[owner]
    wanted = np.where(query == 0, (first < second) & (distance > 0), first != second)
    for kind in _order_of_queries(table.shape[1]):
        at = np.flatnonzero(wanted & np.isin(query, kind))
        at = at[np.lexsort((second[at], first[at], query[at], distance[at]))]
        state.settle(first[at], second[at], query[at], distance[at])
    columns = list(zip(*sorted(state.found))) or [(), (), (), (), ()]
    kinds = (np.int64, np.int64, np.int64, np.float64, bool)
    return Copies(*(np.array(c, dtype=k) for c, k in zip(columns, kinds)), state.compared, crowded + near.crowded)


def _order_of_queries(queries: int) -> list[list[int]]:
    """The whole photo, its mirror image, the windows, then the mirrored windows: simple explanations first."""
    cropped = [query for query in range(queries) if query % len(WINDOWS)]
    return [[0], [len(WINDOWS)], [q for q in cropped if not window(q)[0]], [q for q in cropped if window(q)[0]]]


def _flat(looks: Sequence[bytes]) -> np.ndarray:
    parts = [flat(thumbnails(looks[start : start + 4096])) for start in range(0, len(looks), 4096)]
    return np.concatenate([np.empty(0, dtype=bool), *parts])


def _tie_flat(state: _Search, rows: np.ndarray) -> None:
    """Connect flat photos, but only those with equal looks and equal pixels."""
    leaders: dict[bytes, list[int]] = {}
    for row in rows.tolist():
        known = leaders.setdefault(state.looks[row], [])
        same = next((leader for leader in known[:ROUNDS] if state._equal(leader, row)), None)
        if same is None:
            known.append(row)
        else:
            state.found.append((same, row, 0, 1.0, True))


def _settle_equal(state: _Search, rows: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, int]:
    """Compare rows of equal hash with the first of them, their leader; rows that differ form the next round.

    Returns:
        The leaders of all rounds followed by the rows that remain after `ROUNDS` rounds, and the number of the latter.
    """
    leaders = [np.empty(0, dtype=np.int64)]
    for _ in range(ROUNDS):
        _, first, inverse = np.unique(value, return_index=True, return_inverse=True)
        leaders.append(rows[first])
        others = np.flatnonzero(first[inverse] != np.arange(len(rows)))
        leader = rows[first[inverse[others]]]
        passed = state.verify(leader, rows[others], np.zeros(len(others), dtype=np.int64))
        rows, value = rows[others[~passed]], value[others[~passed]]
        if not len(rows):
            break
    return np.concatenate([*leaders, rows]), len(rows)
