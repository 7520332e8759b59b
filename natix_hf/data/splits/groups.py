"""Groups rows that show the same video, place and time, file or photo.

Each kind of tie gives pairs of rows. The connected components of all pairs are the groups that a split keeps whole. If
a chain of ties makes a group too large, an error names the kind of tie. Works on ids, names, fingerprints and looks;
labels and splits play no role.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from natix_hf.data.duplicates.near_duplicates import HOW, find_copies
from natix_hf.data.splits.places import components, haversine, place_ties
from natix_hf.errors import UserError
from natix_hf.photos.decode import StoredPhoto, open_photo

PLACES, BYTES, PIXELS, NEAR = "place and time", "bytes", "pixels", "near-duplicate"
FEW = 20  # rows; in smaller data sets one group may hold most rows
Edges = tuple[np.ndarray, np.ndarray]  # row numbers, and the rows that they are tied to


@dataclass(frozen=True, order=True)
class Pair:
    """Two rows that show the same photo.

    Args:
        first, second: row numbers, `first < second`.
        kind: `bytes`, `pixels` or `near-duplicate`.
        how: for near-duplicates `same`, `mirrored`, `cropped` or `mirrored and cropped`; else `same`.
        correlation: of the aligned thumbnails; 1.0 for bytes and pixels.
    """

    first: int
    second: int
    kind: str
    how: str
    correlation: float


@dataclass(frozen=True)
class Grouping:
    """Groups of rows, and the ties that made them.

    Args:
        numbers: `(n,)` group of each row, 0 to m - 1, in the order of the names.
        names: `(m,)` names; a group takes the first of its members' names in sorted order.
        ties: ties of each kind: the number of rows minus the number of groups if it were the only kind.
        pairs: sorted pairs, enough to connect every set of copies.
        crowded: rows and look-ups that the search for near-duplicates skipped because too many different photos have
            nearly the same hash, as from a fixed camera. 0 if the search was complete.
    """

    numbers: np.ndarray
    names: list[str]
    ties: dict[str, int]
    pairs: list[Pair]
    crowded: int = 0

    @property
    def sizes(self) -> np.ndarray:
        """`(m,)` number of rows of each group."""
        return np.bincount(self.numbers, minlength=len(self.names))

    @property
    def largest(self) -> tuple[str, int]:
        """Name and number of rows of the largest group; of equally large ones, the first by name."""
        sizes = self.sizes
        number = int(np.argmax(sizes))
        return self.names[number], int(sizes[number])


def group_rows(
    ids: Sequence[str],
    groups: Mapping[str, Sequence[str | None]],
    fingerprints: Sequence[str],
    looks: Sequence[bytes] | None,
    *,
    places: np.ndarray | None = None,
    times: np.ndarray | None = None,
    metres: float | None = None,
    seconds: float | None = None,
    same_pixels: Callable[[int, int], bool] | None = None,
    largest_share: float = 0.5,
) -> Grouping:
    """Group tied rows, transitively. The result does not depend on the order of the rows.

    Args:
        ids: `(n,)` unique ids.
        groups: group column -> `(n,)` values. Rows with the same value are tied; None ties nothing.
        fingerprints: `(n,)` digests of the files. Rows with equal ones are tied.
        looks: `(n,)` from `perceptual_hashes.look`; None skips the search for near-duplicates.
        places: `(n, 2)` latitude and longitude in degrees, NaN where unknown.
        times: `(n,)` seconds since 1970, NaN where unknown (such rows are tied by distance alone).
        metres: rows within this distance are tied; None ties no rows by place.
        seconds: greatest difference in time of rows tied by place; None ties by place alone.
        same_pixels: whether two rows are equal when decoded in full. Called only if their thumbnails are almost equal.
        largest_share: largest allowed share of the rows in one group, checked from 20 rows on.

    Raises:
        UserError: if a group is too large. The message names the kind of tie that chained it together.
    """
    # All steps below work in the order of the ids, so that the order of the rows does not matter.
    order = pc.sort_indices(pa.array(ids, pa.string())).to_numpy().astype(np.int64)
    names = _own_names(ids, groups)
    ties: dict[str, Edges] = {}
    for column, values in groups.items():
        ties[column] = _equal_values(pa.array(values, pa.string()), order)
    if metres is not None and places is not None:
        sorted_times = None if times is None else np.asarray(times, dtype=np.float64)[order]
        a, b = place_ties(np.asarray(places, dtype=np.float64)[order], sorted_times, metres, seconds)
        ties[PLACES] = order[a], order[b]
    ties[BYTES] = _equal_values(pa.array(fingerprints, pa.string()), order)
    pairs = [Pair(min(a, b), max(a, b), BYTES, "same", 1.0) for a, b in np.column_stack(ties[BYTES]).tolist()]
    crowded = 0
    if looks is not None:
        copies, crowded = _photo_pairs(order, ties[BYTES][1], looks, same_pixels)
        for kind in (PIXELS, NEAR):
            of_kind = [(pair.first, pair.second) for pair in copies if pair.kind == kind]
            ties[kind] = tuple(np.array(of_kind, dtype=np.int64).reshape(-1, 2).T)
        pairs += copies
    numbers, group_names = _close(ties, names)
    counts = {kind: len(ids) - int(components(len(ids), *edges).max(initial=-1)) - 1 for kind, edges in ties.items()}
    grouping = Grouping(numbers, group_names, counts, sorted(pairs), crowded)
    if len(ids) >= FEW and grouping.largest[1] > largest_share * len(ids):
        raise UserError(_too_large(grouping, ties, ids, groups, places, largest_share))
    return grouping


def equal_pixels(first: StoredPhoto, second: StoredPhoto) -> bool:
    """Whether two photos are equal when decoded in full."""
    one, other = open_photo(first), open_photo(second)
    return one.size == other.size and one.tobytes() == other.tobytes()


def _own_names(ids: Sequence[str], groups: Mapping[str, Sequence[str | None]]) -> pa.Array:
    """Each row's own name: its value in the first column that has one, else `row:<id>`.

    With several columns the name starts with the column, since two columns may use the same values.
    """
    names = pa.array([None] * len(ids), pa.string())
    for column, values in groups.items():
        values = pa.array(values, pa.string())
        if len(groups) > 1:
            values = pc.binary_join_element_wise(column, values, ":")
        names = pc.coalesce(names, values)
    return pc.coalesce(names, pc.binary_join_element_wise("row", pa.array(ids, pa.string()), ":"))


def _equal_values(values: pa.Array, order: np.ndarray) -> Edges:
    """Each row, and the first row (in `order`) with the same value. First rows themselves are left out."""
    values = values.take(pa.array(order))
    known = np.flatnonzero(pc.is_valid(values).to_numpy(zero_copy_only=False))
    codes = values.dictionary_encode().indices.take(pa.array(known)).to_numpy()
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    leaders = known[first][inverse]
    again = leaders != known
    return order[leaders[again]], order[known[again]]


def _photo_pairs(order, repeats, looks, same_pixels) -> tuple[list[Pair], int]:
    """Pairs of different files that show the same photo, and how many look-ups were skipped.

    Of identical files only the first by id is compared.
    """
    alone = np.ones(len(order), dtype=bool)
    alone[repeats] = False
    rows = order[alone[order]]
    ask = None if same_pixels is None else lambda i, j: same_pixels(int(rows[i]), int(rows[j]))
    copies = find_copies([looks[row] for row in rows], same_pixels=ask)
    pairs = []
    for i, j, how, correlation, equal in zip(
        rows[copies.first].tolist(),
        rows[copies.second].tolist(),
        copies.how.tolist(),
        copies.correlation.tolist(),
        copies.pixels.tolist(),
    ):
        kind, correlation = (PIXELS, 1.0) if equal else (NEAR, round(correlation, 6))
        pairs.append(Pair(min(i, j), max(i, j), kind, HOW[how], correlation))
    return pairs, copies.crowded


def _close(ties: Mapping[str, Edges], names: pa.Array) -> tuple[np.ndarray, list[str]]:
    """Component of each row under all ties, numbered in the order of the component names, and these names."""
    n = len(names)
    component = _components(n, ties)
    order = pc.sort_indices(names).to_numpy()
    _, first, number = np.unique(component[order], return_index=True, return_inverse=True)
    ranks = np.argsort(np.argsort(first))  # by each component's first name in sorted order
    numbers = np.empty(n, dtype=np.int64)
    numbers[order] = ranks[number]
    return numbers, names.take(pa.array(order[np.sort(first)])).to_pylist()


def _components(n: int, ties: Mapping[str, Edges]) -> np.ndarray:
    empty = np.empty(0, dtype=np.int64)
    edges = [np.concatenate([empty, *side]) for side in zip(*ties.values())] if ties else [empty, empty]
    return components(n, *edges)


def _too_large(grouping: Grouping, ties: Mapping[str, Edges], ids, groups, places, share: float) -> str:
    """The error text for a group that is too large: the kind of tie, an example and how to mend it."""
    n = len(ids)
    without = {
        kind: int(np.bincount(_components(n, {k: edges for k, edges in ties.items() if k != kind})).max())
        for kind in ties
    }
    culprit = min(without, key=without.__getitem__)
    name, rows = grouping.largest
    member = grouping.numbers == grouping.names.index(name)
    first, second = ties[culprit]
    inside = member[first]
    first, second = first[inside], second[inside]
    # As the example, use the row that most others are tied to.
    leaders, times = np.unique(first, return_counts=True)
    at = int(np.flatnonzero(first == leaders[np.argmax(times)])[0])
    a, b = int(first[at]), int(second[at])
    example = f"{ids[a]!r} and {ids[b]!r}"
    if culprit in groups:
        tie, mend = f"{example} share {culprit} {groups[culprit][a]!r}", "group by another column"
    elif culprit == PLACES:
        metres = float(haversine(np.asarray(places)[[a]], np.asarray(places)[[b]])[0])
        tie, mend = f"{example} are {metres:.1f} m apart", "choose a smaller distance or time"
    elif culprit == BYTES:
        tie, mend = f"{example} are the same file", "remove the copies"
    else:
        tie, mend = f"{example} show the same photo", "remove the copies"
    return (
        f"group {name!r} has {rows} of {n} rows ({rows / n:.0%}), more than the allowed {share:.0%}: ties by "
        f"{culprit!r} chain it together (without them the largest group has {without[culprit]} rows; for example "
        f"{tie}): {mend}, or allow a larger share (largest_share)"
    )
