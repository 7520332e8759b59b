"""Ties by place and time: pairs of photos taken within given distances in metres and seconds.

Cells are so small that all points of one cell are tied. Then only neighbouring cells that are not yet connected are
compared. So not all pairs are listed, and thousands of photos of one crossing cost little more than one. Works on
arrays of coordinates and times.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

EARTH = 6_371_008.8  # metres, mean radius
CHUNK = 1 << 20  # pairs compared at once
LEAST = 1e-6  # metres and seconds; 0 means the same place and the same time


def components(n: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The component of each of `n` nodes under the edges `first[i]`-`second[i]`: `(n,)` numbers from 0."""
    from scipy.sparse import coo_matrix  # scipy takes half a second, and every verb reads certificates
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(first), dtype=np.int8), (first, second)), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def haversine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`(n,)` metres along the great circle between `(n, 2)` latitudes and longitudes in degrees."""
    (lat_a, lon_a), (lat_b, lon_b) = np.radians(a).T, np.radians(b).T
    inner = np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    return 2 * EARTH * np.arcsin(np.sqrt(np.clip(inner, 0, 1)))


def expand(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For counts (2, 0, 3): owners (0, 0, 2, 2, 2) and positions within them (0, 1, 0, 1, 2)."""
    owners = np.repeat(np.arange(len(counts)), counts)
    return owners, np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)


def chunks(costs: np.ndarray) -> list[slice]:
    """Consecutive slices with a total cost of at most `CHUNK` each, or with a single item."""
    bounds, total = [0], np.cumsum(costs)
    while bounds[-1] < len(costs):
        done = total[bounds[-1] - 1] if bounds[-1] else 0
        bounds.append(max(int(np.searchsorted(total, done + CHUNK, side="right")), bounds[-1] + 1))
    return [slice(a, b) for a, b in pairwise(bounds)]


def place_ties(
    places: np.ndarray, times: np.ndarray | None, metres: float, seconds: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows that connect all rows within `metres` and, if both times are known, within `seconds`.

    Args:
        places: `(n, 2)` latitude and longitude in degrees, NaN where unknown.
        times: `(n,)` seconds, NaN where unknown. A row without a time is tied by place alone.
        metres: greatest distance along the great circle.
        seconds: greatest difference of times; None ties by place alone.

    Returns:
        `(k,)` and `(k,)` row numbers, each pair within the limits. They have the same connected components as all such
        pairs.
    """
    known = np.flatnonzero(~np.isnan(places).any(axis=1))
    times = np.full(len(places), np.nan) if times is None or seconds is None else times
    # Rows with the same place and time are one point, represented by the first row.
    first, number = _distinct(*places[known].T, np.nan_to_num(times[known], nan=-np.inf))
    rows = known[first]
    again = rows[number] != known
    same = rows[number][again], known[again]
    a, b = _point_ties(places[rows], times[rows], metres, 0.0 if seconds is None else seconds)
    return np.concatenate([same[0], rows[a]]), np.concatenate([same[1], rows[b]])


def _distinct(*columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each set of rows that agree in all columns, and the number of each row's set."""
    order = np.lexsort(columns)
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.any([column[order][1:] != column[order][:-1] for column in columns], axis=0)
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.cumsum(new) - 1
    return order[new], number


def _point_ties(places: np.ndarray, times: np.ndarray, metres: float, seconds: float):
    if not len(places):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    metres, seconds = max(metres, LEAST), max(seconds, LEAST)
    lat, lon = np.radians(places).T
    ball = EARTH * np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    chord = 2 * EARTH * np.sin(min(metres / (2 * EARTH), np.pi / 2))
    side = chord / 1.7321  # the diagonal of a cube of this side is just below the chord
    # Integer cells in units of sides and of seconds. Time cell 0 is for unknown times; 1 is empty, so that no known
    # time is next to 0.
    corners = np.floor(ball / side)
    first, cube = _distinct(*corners.T)
    cubes = corners[first]
    timed = ~np.isnan(times)
    moment = np.zeros(len(times), dtype=np.int64)
    if timed.any():
        moment[timed] = np.unique(np.floor(times[timed] / seconds), return_inverse=True)[1] + 2
    width = int(moment.max()) + 2
    cells, cell = np.unique(cube * width + moment, return_inverse=True)
    order = np.argsort(cell, kind="stable")
    starts = np.searchsorted(cell[order], np.arange(len(cells) + 1))
    inside = np.flatnonzero(np.diff(cell[order]) == 0)
    ties = [(order[inside], order[inside + 1])]
    component = components(len(places), *ties[0])
    left, right = _neighbours(cubes, cells, width, chord / side)
    sizes = np.diff(starts)
    for part in chunks(sizes[left] * sizes[right]):
        one, two = left[part], right[part]
        apart = component[order[starts[one]]] != component[order[starts[two]]]
        new_ties = _compare(order, starts, one[apart], two[apart], ball, times, chord, seconds)
        ties.append(new_ties)
        if len(new_ties[0]):
            edges = [np.concatenate(side) for side in zip(*ties)]
            component = components(len(places), *edges)
    return tuple(np.concatenate(side) for side in zip(*ties))


def _neighbours(cubes: np.ndarray, cells: np.ndarray, width: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of cells whose points may be tied: cubes within `reach` sides, with the same, the next or no time cell."""
    from scipy.spatial import cKDTree

    # If points of two cubes are within reach, the corners are at most reach + diagonal apart.
    near = cKDTree(cubes).query_pairs(reach + 1.7321, output_type="ndarray")
    own = np.arange(len(cubes))
    pairs = np.concatenate([near, near[:, ::-1], np.column_stack([own, own])])
    cube_of, moment_of = np.divmod(cells, width)
    starts = np.searchsorted(cube_of, np.arange(len(cubes) + 1))
    left, right = [], []
    for part in chunks(np.diff(starts)[pairs[:, 0]]):
        here, there = pairs[part].T
        owner, position = expand(np.diff(starts)[here])
        cell = starts[here[owner]] + position
        for step in (0, 1):  # -1 is not needed: each pair of cubes is listed in both directions
            key = there[owner] * width + moment_of[cell] + step
            match = np.minimum(np.searchsorted(cells, key), len(cells) - 1)
            hit = (cells[match] == key) & (cell != match) & ((step == 1) | (cell < match))
            left.append(cell[hit])
            right.append(match[hit])
        untimed = moment_of[cell] == 0
        untimed_cell, target = cell[untimed], there[owner][untimed]
        owner, position = expand(np.diff(starts)[target])
        other = starts[target[owner]] + position
        hit = moment_of[other] > 0
        left.append(untimed_cell[owner][hit])
        right.append(other[hit])
    return np.concatenate(left), np.concatenate(right)


def _compare(order, starts, one, two, ball, times, chord, seconds) -> tuple[np.ndarray, np.ndarray]:
    """One tied pair of points for each pair of cells that has one. At most `CHUNK` pairs are in memory."""
    sizes = np.diff(starts)
    # A pair of crowded cells may exceed a chunk: it is divided into strips of the left cell's points.
    strip = np.maximum(CHUNK // np.maximum(sizes[two], 1), 1)
    owner, position = expand(-(-sizes[one] // strip))
    begin = position * strip[owner]
    rows = np.minimum(strip[owner], sizes[one][owner] - begin)
    found_a, found_b, done = [], [], np.zeros(len(one), dtype=bool)
    for part in chunks(rows * sizes[two][owner]):
        strips = np.arange(len(owner))[part]
        strips = strips[~done[owner[strips]]]
        pair, within = expand(rows[strips] * sizes[two][owner[strips]])
        cell_pair = owner[strips][pair]
        down, across = np.divmod(within, sizes[two][cell_pair])
        a = order[starts[one[cell_pair]] + begin[strips][pair] + down]
        b = order[starts[two[cell_pair]] + across]
        near = ((ball[a] - ball[b]) ** 2).sum(axis=1) <= chord**2
        near &= ~(np.abs(times[a] - times[b]) > seconds)  # NaN compares as False: an unknown time ties
        tied, where = np.unique(cell_pair[near], return_index=True)
        found_a.append(a[near][where])
        found_b.append(b[near][where])
        done[tied] = True
    empty = np.empty(0, dtype=np.int64)
    return np.concatenate([empty, *found_a]), np.concatenate([empty, *found_b])
