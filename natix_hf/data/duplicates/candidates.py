"""Finds pairs of 64-bit hashes that differ in few bits, without comparing all pairs.

Two hashes that differ in at most 5 bits have at least 3 of their 8 bytes in common. For each of the 56 triples of
bytes, a table groups the hashes by these bytes, and hashes in the same bucket are compared bit by bit. The search is
exact except for overfull buckets, which are skipped and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from natix_hf.data.splits.places import CHUNK, chunks, expand

DISTANCE = 5  # bits
CROWD = 4096  # most hashes in a bucket; fuller buckets are skipped
TRIPLES = tuple(combinations(range(8), 3))
SMALL = 1 << 24  # comparisons; up to this number, comparing all pairs is faster than building the tables


@dataclass(frozen=True)
class Candidates:
    """Pairs of a query and a nearby hash.

    Args:
        row: `(k,)` row of the query.
        query: `(k,)` column of the query.
        value: `(k,)` index of the hash.
        distance: `(k,)` number of bits that differ, at most `DISTANCE`.
        crowded: number of look-ups that met an overfull bucket; pairs that no other bucket contains are missed.
    """

    row: np.ndarray
    query: np.ndarray
    value: np.ndarray
    distance: np.ndarray
    crowded: int


def search(values: np.ndarray, queries: np.ndarray) -> Candidates:
    """All pairs of a query and a value within `DISTANCE` bits, each pair once.

    Args:
        values: `(m,)` uint64 hashes, all different.
        queries: `(n, Q)` uint64 hashes.
    """
    if len(values) * queries.size <= SMALL:
        return _all_pairs(values, queries)
    bits = int(np.clip(np.ceil(np.log2(max(len(values), 1))) + 3, 8, 24))
    columns = np.ascontiguousarray(queries.T)
    parts, crowded = [], 0
    for triple in TRIPLES:
        pairs, over = _in_buckets(values, columns, triple, bits)
        parts += pairs
        crowded += over
    return _sorted(parts, crowded)


def _in_buckets(
    values: np.ndarray, columns: np.ndarray, triple: tuple[int, int, int], bits: int
) -> tuple[list[tuple[np.ndarray, ...]], int]:
    """Pairs whose first three equal bytes are `triple`, and the number of look-ups of overfull buckets."""
    parts, crowded = [], 0
    slots = _slots(values, triple, bits)
    order = np.argsort(slots).astype(np.int32)
    starts = np.zeros((1 << bits) + 1, dtype=np.int32)
    np.cumsum(np.bincount(slots, minlength=1 << bits), out=starts[1:])
    # Most look-ups hit an empty bucket. They read one byte of a table that stays in the processor's cache.
    occupied = np.diff(starts) > 0
    for number, column in enumerate(columns):
        for begin in range(0, len(column), CHUNK):
            hashes = column[begin : begin + CHUNK]
            slot = _slots(hashes, triple, bits)
            hit = np.flatnonzero(occupied[slot])
            start = starts[slot[hit]]
            counts = starts[slot[hit] + 1] - start
            over = counts > CROWD
            crowded += int(over.sum())
            hit, start, counts = hit[~over], start[~over], counts[~over]
            for part in chunks(counts):
                owner, position = expand(counts[part])
                row, value = hit[part][owner], order[start[part][owner] + position]
                differ = hashes[row] ^ values[value]
                distance = np.bitwise_count(differ)
                near = np.flatnonzero(distance <= DISTANCE)
                near = near[_first_triple(differ[near], triple)]
                rows, query = (row[near] + begin).astype(np.int32), np.full(len(near), number, dtype=np.int8)
                parts.append((rows, query, value[near], distance[near]))
    return parts, crowded


def _all_pairs(values: np.ndarray, queries: np.ndarray) -> Candidates:
    parts = []
    for column in range(queries.shape[1]):
        distance = np.bitwise_count(queries[:, column, None] ^ values)  # (n, m)
        row, value = np.nonzero(distance <= DISTANCE)
        query = np.full(len(row), column, dtype=np.int8)
        parts.append((row.astype(np.int32), query, value.astype(np.int32), distance[row, value]))
    return _sorted(parts, 0)


def _sorted(pairs: list[tuple[np.ndarray, ...]], crowded: int) -> Candidates:
    kinds = (np.int32, np.int8, np.int32, np.uint8)
    empty = [np.empty(0, dtype=kind) for kind in kinds]
    row, query, value, distance = (np.concatenate(parts) for parts in zip(empty, *pairs))
    order = np.lexsort((value, row, distance, query))
    return Candidates(row[order], query[order], value[order], distance[order], crowded)


def _slots(hashes: np.ndarray, triple: tuple[int, int, int], bits: int) -> np.ndarray:
    """The bucket of each hash: three of its bytes, reduced to `bits` bits (Knuth's multiplicative hashing)."""
    mask = np.uint64(sum(0xFF << (8 * at) for at in triple))
    return (((hashes & mask) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits)).astype(np.int32)


def _first_triple(differ: np.ndarray, triple: tuple[int, int, int]) -> np.ndarray:
    """Whether `triple` is a pair's first three equal bytes, so that a pair found in several tables counts once."""
    equal = differ.view(np.uint8).reshape(-1, 8) == 0
    rank = np.cumsum(equal, axis=1)
    return equal[:, triple[2]] & (rank[:, triple[2]] == 3) & equal[:, triple[0]] & equal[:, triple[1]]
