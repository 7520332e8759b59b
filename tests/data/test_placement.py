"""Whole groups go where the shares lack most: strata in proportion, around what is fixed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from natix_hf.data.splits.placement import place
from natix_hf.errors import UserError

SHARES = (0.6, 0.15, 0.15, 0.1)


def singles(n: int) -> tuple[np.ndarray, list[str]]:
    return np.arange(n), [f"g{i:05d}" for i in range(n)]


def test_a_second_property_is_kept_in_proportion_within_each_class():
    labels = np.repeat([0, 1], [800, 200])
    strata = np.tile([0, 0, 0, 1], 250)  # one in four is taken at night
    groups, names = singles(1000)
    homes = place(labels, groups, names, SHARES, 0, strata=strata, label_names=["None", "Roadwork"])
    counts = Counter(zip(homes.tolist(), labels.tolist(), strata.tolist()))
    assert [counts[home, 1, 1] for home in range(4)] == pytest.approx([30, 7.5, 7.5, 5], abs=0.5)
    assert [counts[home, 0, 0] for home in range(4)] == [360, 90, 90, 60]


def test_without_the_second_property_its_share_wanders():
    labels, strata = np.repeat([0, 1], [800, 200]), np.tile([0, 0, 0, 1], 250)
    groups, names = singles(1000)
    plain = place(labels, groups, names, SHARES, 0)
    night = [np.sum((plain == home) & (labels == 1) & (strata == 1)) for home in range(4)]
    assert max(abs(count - share * 50) for count, share in zip(night, SHARES)) > 0.5


def test_strata_hold_for_groups_of_many_rows():
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 12, 300)
    groups = np.repeat(np.arange(300), sizes)
    labels, strata = np.repeat(rng.integers(0, 2, 300), sizes), np.repeat(rng.integers(0, 3, 300), sizes)
    homes = place(labels, groups, [f"g{i:03d}" for i in range(300)], SHARES, 0, strata=strata)
    for stratum in range(3):
        for home, share in enumerate(SHARES):
            assert abs(np.mean(homes[strata == stratum] == home) - share) < 0.03
    assert all(len(set(homes[groups == group])) == 1 for group in range(300))


def test_fixed_rows_stay_take_their_group_along_and_the_others_fill_what_is_left():
    labels = np.zeros(100, dtype=int)
    groups = np.concatenate([[0, 0], np.arange(1, 99)])
    fixed = np.full(100, -1)
    fixed[0] = 3
    fixed[2:52] = 0  # 50 of the 60 rows of the first share
    homes = place(labels, groups, [f"g{i:02d}" for i in range(99)], SHARES, 0, fixed=fixed)
    assert homes[1] == 3
    assert (homes[2:52] == 0).all()
    assert np.bincount(homes).tolist() == [60, 15, 15, 10]


def test_a_share_that_is_over_full_gets_nothing_more():
    fixed = np.full(100, -1)
    fixed[:40] = 3
    groups, names = singles(100)
    homes = place(np.zeros(100, dtype=int), groups, names, SHARES, 0, fixed=fixed)
    assert (homes[:40] == 3).all()
    assert np.bincount(homes[40:], minlength=4).tolist() == [40, 10, 10, 0]


def test_fixed_groups_are_not_moved_to_bring_a_class_everywhere():
    labels = np.array([0] * 20 + [1] * 4)
    fixed = np.array([-1] * 20 + [0] * 4)
    groups, names = singles(24)
    with pytest.raises(UserError, match="class 'b' cannot be in every split"):
        place(labels, groups, names, (0.5, 0.5), 0, fixed=fixed, label_names=["a", "b"])
