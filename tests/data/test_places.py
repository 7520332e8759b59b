"""Ties by place and time against all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from natix_hf.data.splits import places
from natix_hf.data.splits.places import components, haversine, place_ties


def brute_force(spots: np.ndarray, times: np.ndarray | None, metres: float, seconds: float | None) -> np.ndarray:
    """The component of each row, from the distances of all pairs."""
    a, b = np.triu_indices(len(spots), 1)
    with np.errstate(invalid="ignore"):
        near = haversine(spots[a], spots[b]) <= metres
        if times is not None and seconds is not None:
            near &= ~(np.abs(times[a] - times[b]) > seconds)
    return components(len(spots), a[near], b[near])


def same_partition(one: np.ndarray, two: np.ndarray) -> bool:
    both = np.unique(np.column_stack([one, two]), axis=0)
    return len(both) == len(np.unique(one)) == len(np.unique(two))


def town(rng: np.random.Generator, n: int, centre: tuple[float, float], metres: float) -> np.ndarray:
    """Spots scattered around a centre, a tenth of them unknown."""
    degrees = rng.normal(0, metres / 111_195, (n, 2)) / [1, np.cos(np.radians(centre[0]))]
    spots = np.array(centre) + degrees
    spots[rng.random(n) < 0.1] = np.nan
    return spots


@pytest.mark.parametrize("centre", [(39.77, -86.16), (-33.9, 179.9999), (89.999, 10.0), (0.0, 0.0)])
@pytest.mark.parametrize("seconds", [None, 30.0, 600.0])
@pytest.mark.parametrize("spread", [20.0, 150.0, 2000.0])
def test_place_ties_connect_what_all_pairs_connect(centre, seconds, spread):
    rng = np.random.default_rng(int(spread))
    spots = town(rng, 300, centre, spread)
    spots[:, 1] = (spots[:, 1] + 180) % 360 - 180
    times = rng.uniform(0, 7200, 300) + 1.7e9
    times[rng.random(300) < 0.02] = np.nan
    first, second = place_ties(spots, times, 15.0, seconds)
    assert (haversine(spots[first], spots[second]) <= 15.0001).all()
    assert same_partition(components(300, first, second), brute_force(spots, times, 15.0, seconds))


def test_place_ties_do_not_depend_on_the_size_of_the_chunks(monkeypatch):
    rng = np.random.default_rng(1)
    spots, times = town(rng, 400, (52.5, 13.4), 10.0), rng.uniform(0, 500, 400)
    expected = brute_force(spots, times, 8.0, 5.0)
    monkeypatch.setattr(places, "CHUNK", 50)
    monkeypatch.setattr(places.chunks, "__defaults__", (50,))
    assert same_partition(components(400, *place_ties(spots, times, 8.0, 5.0)), expected)


def test_an_unknown_time_ties_by_place_alone():
    spots = np.array([[10.0, 10.0]] * 3)
    times = np.array([0.0, 1e6, np.nan])
    assert len(place_ties(spots[:2], times[:2], 10.0, 60.0)[0]) == 0
    assert len(set(components(3, *place_ties(spots, times, 10.0, 60.0)))) == 1


def test_zero_metres_and_seconds_tie_the_same_spot_and_moment():
    spots = np.array([[10.0, 10.0], [10.0, 10.0], [10.0, 10.0001], [10.0, 10.0]])
    times = np.array([5.0, 5.0, 5.0, 6.0])
    first, second = place_ties(spots, times, 0.0, 0.0)
    assert (first.tolist(), second.tolist()) == ([0], [1])


def test_thousands_on_one_spot_cost_no_pairs(monkeypatch):
    rng = np.random.default_rng(2)
    compared = []
    original = places.expand
    monkeypatch.setattr(places, "expand", lambda counts: compared.append(int(counts.sum())) or original(counts))
    spots = np.concatenate([np.full((20_000, 2), 48.1), 48.1 + rng.normal(0, 5e-5, (20_000, 2))])
    first, second = place_ties(spots, None, 30.0, None)
    assert len(set(components(len(spots), first, second))) == 1
    assert len(first) < len(spots) + 100
    assert sum(compared) < 5_000_000  # of 800,000,000 pairs


def test_no_known_place_ties_nothing():
    first, _ = place_ties(np.full((5, 2), np.nan), None, 10.0, None)
    assert len(first) == 0
