"""Pairs of 64-bit hashes that differ in few bits, found without comparing all pairs.

Two hashes that differ in at most 5 bits agree in at least 3 of their 8 bytes. For each of the 56 triples of bytes the
hashes are put into a table by these bytes; what meets there is counted bit by bit. The search is exact but for
buckets that are over-full, which are counted. This file knows hashes only.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from natix_hf.data.places import CHUNK, chunks, expand

DISTANCE = 5  # bits
CROWD = 4096  # different hashes in one bucket, above which it is not looked into
TRIPLES = tuple(combinations(range(8), 3))


@dataclass(frozen=True)
class Candidates:
    """Hashes near to queries.

    Args:
        row: `(k,)` row of the query.
        query: `(k,)` column of the query.
        value: `(k,)` number of the hash that it is near to.
        distance: `(k,)` bits in which they differ, at most `DISTANCE`.
        crowded: look-ups that met an over-full bucket; they may have missed pairs that no other bucket shows.
    """

    row: np.ndarray
    query: np.ndarray
    value: np.ndarray
    distance: np.ndarray
    crowded: int


def search(values: np.ndarray, queries: np.ndarray) -> Candidates:
    """Every value within `DISTANCE` bits of every query, once each.

    Args:
        values: `(m,)` uint64, all different.
        queries: `(n, Q)` uint64.
    """
    bits = int(np.clip(np.ceil(np.log2(max(len(values), 1))) + 3, 8, 24))
    bytes_of = values.view(np.uint8).reshape(-1, 8)
    found, crowded = [], 0
    for triple in TRIPLES:
        slots = _slots(bytes_of, triple, bits)
        order = np.argsort(slots).astype(np.int32)
        ends = np.cumsum(np.bincount(slots, minlength=1 << bits), dtype=np.int32)
        sizes = np.diff(ends, prepend=np.int32(0))
        for column in range(queries.shape[1]):
            for start in range(0, len(queries), CHUNK):
                asked = np.ascontiguousarray(queries[start : start + CHUNK, column])
                slot = _slots(asked.view(np.uint8).reshape(-1, 8), triple, bits)
                counts = sizes[slot]
                over = counts > CROWD
                crowded += int(over.sum())
                hit = np.flatnonzero((counts > 0) & ~over)
                for part in chunks(counts[hit]):
                    rows = hit[part]
                    owner, position = expand(counts[rows])
                    rows = rows[owner]
                    value = order[ends[slot[rows]] - 1 - position]
                    differ = asked[rows] ^ values[value]
                    distance = np.bitwise_count(differ)
                    near = np.flatnonzero(distance <= DISTANCE)
                    near = near[_first_triple(differ[near], triple)]
                    found.append(
                        (
                            (rows[near] + start).astype(np.int32),
                            np.full(len(near), column, dtype=np.int8),
                            value[near],
                            distance[near],
                        )
                    )
    kinds = (np.int32, np.int8, np.int32, np.uint8)
    columns = [
        np.concatenate([np.empty(0, kind), *column]) for kind, column in zip(kinds, zip(*found) if found else [()] * 4)
    ]
    order = np.lexsort((columns[2], columns[0], columns[3], columns[1]))
    return Candidates(*(column[order] for column in columns), crowded)


def _slots(bytes_of: np.ndarray, triple: tuple[int, int, int], bits: int) -> np.ndarray:
    """The bucket of each hash: its three bytes, mixed down to `bits` bits (Knuth's multiplicative hashing)."""
    a, b, c = (bytes_of[:, at].astype(np.uint32) for at in triple)
    key = a | b << 8 | c << 16
    return key if bits == 24 else (key * np.uint32(2654435769)) >> np.uint32(32 - bits)


def _first_triple(differ: np.ndarray, triple: tuple[int, int, int]) -> np.ndarray:
    """Whether a pair's first three equal bytes are these: a pair that meets in several tables counts once."""
    equal = differ.view(np.uint8).reshape(-1, 8) == 0
    rank = np.cumsum(equal, axis=1)
    return equal[:, triple[2]] & (rank[:, triple[2]] == 3) & equal[:, triple[0]] & equal[:, triple[1]]
