"""The share of decisions that changed, against draws made by hand and the closed form where none did."""

from __future__ import annotations

import numpy as np
import pytest

from natix_hf.decision.changed_decisions import changed_share


def test_none_changed_leaves_what_so_few_groups_could_hide():
    groups = np.repeat(np.arange(20), 5)
    found = changed_share(np.zeros(100, dtype=bool), groups)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert changed_share(np.zeros(100, dtype=bool), None).high == pytest.approx(1 - 0.025**0.01)


def test_photos_of_one_group_change_together_and_the_interval_knows():
    changed = np.repeat([True] + [False] * 19, 5)
    by_group, by_photo = changed_share(changed, np.repeat(np.arange(20), 5)), changed_share(changed, None)
    assert by_group.value == by_photo.value == 0.05
    assert by_group.high - by_group.low > 1.5 * (by_photo.high - by_photo.low)


def test_the_interval_is_that_of_resampled_groups():
    rng = np.random.default_rng(1)
    groups, changed = rng.integers(0, 30, 200), rng.random(200) < 0.2
    names = np.unique(groups)
    rows = [np.flatnonzero(groups == name) for name in names]
    draws = []
    for _ in range(4000):
        drawn = np.concatenate([rows[i] for i in rng.integers(len(names), size=len(names))])
        draws.append(changed[drawn].mean())
    found = changed_share(changed, groups, n_boot=4000)
    assert [found.low, found.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]).tolist(), abs=0.012)
