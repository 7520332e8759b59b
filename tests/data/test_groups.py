"""Ties of every kind, closed transitively, the same in any order of the rows; a chain that swallows all is named."""

from __future__ import annotations

import numpy as np
import pytest

from natix_hf.data.splits.groups import Pair, group_rows
from natix_hf.errors import UserError
from natix_hf.photos.perceptual_hashes import look
from natix_hf.scenes.photos import scene


def ids(n: int) -> list[str]:
    return [f"p{number:03d}" for number in range(n)]


def members(grouping, names: list[str]) -> dict[str, set[str]]:
    """The ids of each group, by its name."""
    groups: dict[str, set[str]] = {name: set() for name in grouping.names}
    for name, number in zip(names, grouping.numbers):
        groups[grouping.names[number]].add(name)
    return groups


def test_rows_without_ties_are_groups_of_their_own():
    grouping = group_rows(["b", "a"], {"video": [None, None]}, ["1", "2"], None)
    assert members(grouping, ["b", "a"]) == {"row:b": {"b"}, "row:a": {"a"}}
    assert grouping.ties == {"video": 0, "bytes": 0}
    assert grouping.pairs == []


def test_no_rows_make_no_groups():
    grouping = group_rows([], {"video": []}, [], [])
    assert (len(grouping.numbers), grouping.names, grouping.pairs) == (0, [], [])


def test_ties_of_several_kinds_are_closed_transitively():
    """a-b by video, b-c by sequence, c-d by bytes, d-e by place."""
    places = np.array([[np.nan] * 2] * 3 + [[48.0, 11.0], [48.0, 11.00001], [48.0, 12.0]])
    grouping = group_rows(
        list("abcdef"),
        {"video": ["v1", "v1", None, None, None, None], "sequence": [None, "s", "s", None, None, "v1"]},
        ["1", "2", "3", "3", "4", "5"],
        None,
        places=places,
        metres=5.0,
    )
    # `f` is of sequence "v1", which is not video "v1".
    assert members(grouping, list("abcdef")) == {"row:d": set("abcde"), "sequence:v1": {"f"}}
    assert grouping.ties == {"video": 1, "sequence": 1, "place and time": 1, "bytes": 1}
    assert grouping.pairs == [Pair(2, 3, "bytes", "same", 1.0)]
    assert grouping.largest == ("row:d", 5)
    assert grouping.sizes.tolist() == [5, 1]


def test_a_single_group_column_names_groups_by_its_values():
    grouping = group_rows(["a", "b", "c"], {"video": ["v2", "v2", "v1"]}, ["1", "2", "1"], None)
    assert grouping.names == ["v1"]


def test_times_hold_photos_of_one_place_apart():
    places = np.full((3, 2), 10.0)
    times = np.array([0.0, 30.0, 86_400.0])
    tied = {"places": places, "times": times, "metres": 10.0}
    assert group_rows(ids(3), {}, ids(3), None, **tied, seconds=60.0).sizes.tolist() == [2, 1]
    assert group_rows(ids(3), {}, ids(3), None, **tied).sizes.tolist() == [3]


def planted(rng: np.random.Generator, n: int) -> dict:
    """A table with ties of every kind but looks."""
    return {
        "ids": [f"id-{number}" for number in rng.permutation(n)],
        "groups": {
            "video": [None if rng.random() < 0.5 else f"v{rng.integers(n)}" for _ in range(n)],
            "walk": [None if rng.random() < 0.8 else f"w{rng.integers(n)}" for _ in range(n)],
        },
        "fingerprints": [f"f{rng.integers(3 * n)}" for _ in range(n)],
        "places": rng.uniform(0, 0.02, (n, 2)),
        "times": rng.uniform(0, 1000, n),
    }


def test_groups_are_the_components_of_all_ties():
    """Against a union-find over all pairs of a small table."""
    n = 120
    table = planted(np.random.default_rng(0), n)
    grouping = group_rows(
        table["ids"],
        table["groups"],
        table["fingerprints"],
        None,
        places=table["places"],
        times=table["times"],
        metres=60.0,
        seconds=300.0,
    )
    home = list(range(n))
    for i in range(n):
        for j in range(i):
            same = any(column[i] is not None and column[i] == column[j] for column in table["groups"].values())
            same |= table["fingerprints"][i] == table["fingerprints"][j]
            metres = np.hypot(*(table["places"][i] - table["places"][j])) * 111_195  # at the equator
            if same or (metres <= 60.0 and abs(table["times"][i] - table["times"][j]) <= 300):
                home = [home[i] if at == home[j] else at for at in home]
    assert len({*zip(home, grouping.numbers.tolist())}) == len(set(home)) == len(grouping.names)


def test_the_order_of_the_rows_changes_nothing():
    photos = [scene(313, index).image for index in range(8)]
    photos += [photo.resize((photo.width // 2, photo.height // 2)) for photo in photos[:4]] + photos[4:6]
    looks = [look(photo) for photo in photos]
    n = len(looks)
    table = planted(np.random.default_rng(1), n)
    table["fingerprints"] = [f"f{number % 13}" for number in range(n)]  # the last row repeats the first
    results = []
    for order in (np.arange(n), np.random.default_rng(2).permutation(n)):
        names = [table["ids"][row] for row in order]
        grouping = group_rows(
            names,
            {column: [values[row] for row in order] for column, values in table["groups"].items()},
            [table["fingerprints"][row] for row in order],
            [looks[row] for row in order],
            places=table["places"][order],
            metres=100.0,
            same_pixels=lambda i, j, order=order: looks[order[i]] == looks[order[j]],
        )
        pairs = {(frozenset((names[p.first], names[p.second])), p.kind, p.how, p.correlation) for p in grouping.pairs}
        results.append((grouping.names, members(grouping, names), grouping.ties, pairs))
    assert results[0] == results[1]
    assert results[0][2]["pixels"] >= 1
    assert results[0][2]["near-duplicate"] >= 3


def test_pixel_equal_is_a_finer_name_for_near_duplicates():
    seen = [look(scene(313, 0).image)] * 2 + [look(scene(313, 9).image)] * 2
    grouping = group_rows(list("abcd"), {}, list("1234"), seen, same_pixels=lambda i, j: {i, j} == {0, 1})
    assert [(pair.first, pair.second, pair.kind) for pair in grouping.pairs] == [
        (0, 1, "pixels"),
        (2, 3, "near-duplicate"),
    ]
    assert grouping.ties == {"bytes": 0, "pixels": 1, "near-duplicate": 1}


def test_equal_files_in_thousands_are_one_group_of_one_comparison_each():
    seen = look(scene(313, 0).image)
    grouping = group_rows(ids(3000), {}, ["same"] * 3000, [seen] * 3000, largest_share=1.0)
    assert len(grouping.names) == 1
    assert len(grouping.pairs) == grouping.ties["bytes"] == 2999
    assert grouping.ties["near-duplicate"] == 0


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("video", ["'video'", "share video 'v'", "group by another column"]),
        ("place and time", ["'place and time'", "m apart", "choose a smaller distance"]),
        ("bytes", ["'bytes'", "are the same file", "remove the copies"]),
    ],
)
def test_a_chain_that_swallows_the_rows_is_named(kind, expected):
    """30 rows, pairs of them tied by walk; one kind of tie chains 24 of them."""
    n, chained = 30, 24
    columns = {"walk": [f"w{number // 2}" for number in range(n)]}
    prints, places = ids(n), np.full((n, 2), np.nan)
    if kind == "video":
        columns["video"] = ["v" if number < chained else None for number in range(n)]
    if kind == "bytes":
        prints = ["same" if number < chained else str(number) for number in range(n)]
    if kind == "place and time":
        places[:chained] = [[0, number * 0.0001] for number in range(chained)]  # 11 m from one to the next
    with pytest.raises(UserError) as error:
        group_rows(ids(n), columns, prints, None, places=places, metres=12.0)
    message = str(error.value)
    assert "\n" not in message
    for part in ["24 of 30 rows (80%)", "allowed 50%", "has 2 rows", "'p0", "largest_share", *expected]:
        assert part in message, message
    assert group_rows(ids(n), columns, prints, None, places=places, metres=12.0, largest_share=0.8).largest[1] == 24


def test_few_rows_may_be_one_group():
    assert len(group_rows(ids(19), {"video": ["v"] * 19}, ids(19), None).names) == 1
    with pytest.raises(UserError, match="share video 'v'"):
        group_rows(ids(20), {"video": ["v"] * 20}, ids(20), None)
