"""Intervals: equal to a plain bootstrap, right in their promise, honest without mistakes."""

import numpy as np
import pytest
from counted_work import counted_work

from natix_hf.report.intervals import (
    _bootstrapped,
    bootstrap_intervals,
    difference_to_rest,
    paired_differences,
)
from natix_hf.report.metrics import METRICS, classification_metrics
from natix_hf.resampling import times_drawn


def draw(n: int, classes: int, seed: int = 0, skill: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    logits = generator.normal(size=(n, classes)).round(1)  # rounded: ties among the scores
    logits[np.arange(n), labels] += skill
    return logits, labels


@pytest.mark.parametrize("classes", [2, 4])
def test_every_resample_equals_the_plain_metrics_of_its_rows(classes):
    logits, labels = draw(60, classes)
    groups = np.random.default_rng(1).integers(0, 25, 60)
    group_of_row = np.unique(groups, return_inverse=True)[1]
    fast = _bootstrapped(logits, labels, group_of_row, positive=1, n_boot=40, seed=5)
    times = np.concatenate(list(times_drawn(group_of_row.max() + 1, 40, seed=5, at_once=7)))
    for draw_of_groups, *figures in zip(times, *(fast[name] for name in METRICS), strict=True):
        rows = np.repeat(np.arange(60), draw_of_groups[group_of_row].astype(int))
        plain = classification_metrics(logits[rows], labels[rows])
        assert dict(zip(METRICS, figures, strict=True)) == pytest.approx(plain, nan_ok=True)


def test_values_equal_the_plain_metrics_and_lie_inside():
    logits, labels = draw(300, 3)
    intervals = bootstrap_intervals(logits, labels, None)
    assert {name: interval["value"] for name, interval in intervals.items()} == classification_metrics(logits, labels)
    assert all(interval["low"] <= interval["value"] <= interval["high"] for interval in intervals.values())


def test_same_seed_same_interval_and_group_names_do_not_matter():
    logits, labels = draw(100, 2)
    groups = np.arange(100) // 4
    first = bootstrap_intervals(logits, labels, groups, n_boot=200)
    assert first == bootstrap_intervals(logits, labels, np.array([f"video {g:03}" for g in groups]), n_boot=200)
    assert first != bootstrap_intervals(logits, labels, groups, n_boot=200, seed=1)


def test_copies_inside_a_group_do_not_narrow_the_interval():
    logits, labels = draw(100, 2)
    single = bootstrap_intervals(logits, labels, None, n_boot=300)
    copied = bootstrap_intervals(
        np.repeat(logits, 10, axis=0), np.repeat(labels, 10), np.repeat(np.arange(100), 10), n_boot=300
    )
    for name in METRICS:
        assert copied[name] == pytest.approx(single[name])


def test_accuracy_interval_agrees_with_the_normal_approximation():
    logits, labels = draw(4000, 2)
    interval = bootstrap_intervals(logits, labels, None)["accuracy"]
    p = interval["value"]
    half = 1.96 * np.sqrt(p * (1 - p) / 4000)
    assert (interval["low"], interval["high"]) == pytest.approx((p - half, p + half), abs=0.15 * half)


def test_the_promised_level_is_kept():
    """120 data sets of 60 cameras with 4 photos each; photos of a camera are right or wrong together in part."""
    generator = np.random.default_rng(0)
    held, repetitions = {"accuracy": 0, "auroc": 0, "log_loss": 0}, 120

    def rows(cameras):
        labels = np.repeat(generator.integers(0, 2, cameras), 4)
        margin = np.where(labels == 1, 1.0, -1.0) + np.repeat(generator.normal(0, 0.8, cameras), 4)
        margin = margin + generator.normal(0, 0.6, 4 * cameras)
        return np.stack([-margin, margin], axis=1), labels, np.repeat(np.arange(cameras), 4)

    truth = classification_metrics(*rows(50_000)[:2])
    naive_held, held_beside = 0, 0
    for repetition in range(repetitions):
        logits, labels, groups = rows(60)
        intervals = bootstrap_intervals(logits, labels, groups, n_boot=200)
        for name in held:
            held[name] += intervals[name]["low"] <= truth[name] <= intervals[name]["high"]
        if repetition < 40:
            held_beside = held["accuracy"]
            naive = bootstrap_intervals(logits, labels, None, n_boot=200)["accuracy"]
            naive_held += naive["low"] <= truth["accuracy"] <= naive["high"]
    # 0.95 less three standard errors (0.06) and less the small-sample shortfall of percentile intervals (0.02)
    for name, count in held.items():
        assert 0.87 <= count / repetitions <= 1.0, name
    assert naive_held < held_beside  # photos resampled one by one promise too much


def test_a_paired_difference_of_equals_is_zero_and_of_unequals_signed():
    logits, labels = draw(300, 2, skill=1.0)
    better = logits.copy()
    better[np.arange(300), labels] += 1.0
    equal = paired_differences(logits, logits, labels, None)
    assert equal == {name: {"difference": 0, "low": 0, "high": 0} for name in METRICS}
    gain = paired_differences(better, logits, labels, None)["accuracy"]
    loss = paired_differences(logits, better, labels, None)["accuracy"]
    assert 0 < gain["low"] <= gain["difference"] <= gain["high"]
    assert (loss["difference"], loss["low"]) == pytest.approx((-gain["difference"], -gain["high"]))


def test_pairing_narrows_the_interval():
    logits, labels = draw(400, 2)
    other = logits + np.random.default_rng(3).normal(0, 0.2, logits.shape)
    paired = paired_differences(logits, other, labels, None)["accuracy"]
    single = bootstrap_intervals(logits, labels, None)["accuracy"]
    assert paired["high"] - paired["low"] < single["high"] - single["low"]


def test_paired_differences_equal_a_plain_bootstrap_of_the_rows():
    logits, labels = draw(80, 3)
    other = logits + np.random.default_rng(3).normal(0, 0.7, logits.shape)
    groups = np.random.default_rng(1).integers(0, 30, 80)
    found = paired_differences(logits, other, labels, groups, n_boot=60, seed=4)
    times = np.concatenate(list(times_drawn(len(np.unique(groups)), 60, seed=4, at_once=60)))
    group_of_row = np.unique(groups, return_inverse=True)[1]
    resamples = [np.repeat(np.arange(80), one[group_of_row].astype(int)) for one in times]
    drawn = [
        {m: a - b for (m, a), b in zip(one.items(), two.values(), strict=True)}
        for one, two in (
            (classification_metrics(logits[rows], labels[rows]), classification_metrics(other[rows], labels[rows]))
            for rows in resamples
        )
    ]
    for name in METRICS:
        low, high = np.quantile([one[name] for one in drawn], [0.025, 0.975])
        assert (found[name]["low"], found[name]["high"]) == pytest.approx((low, high)), name


@pytest.mark.parametrize("classes", [2, 3])
def test_a_part_beside_the_rest_equals_a_plain_bootstrap_of_the_rows(classes):
    logits, labels = draw(90, classes)
    groups = np.random.default_rng(1).integers(0, 25, 90)
    inside = np.random.default_rng(2).random(90) < 0.3  # groups with rows in both parts
    found = difference_to_rest(logits, labels, groups, inside, n_boot=50, seed=6)
    group_of_row = np.unique(groups, return_inverse=True)[1]
    times = np.concatenate(list(times_drawn(len(np.unique(groups)), 50, seed=6, at_once=50)))
    drawn = []
    for one in times:
        rows = np.repeat(np.arange(90), one[group_of_row].astype(int))
        part, rest = rows[inside[rows]], rows[~inside[rows]]
        both = [classification_metrics(logits[r], labels[r]) for r in (part, rest)]
        gaps = [
            np.mean(logits[part][labels[part] == k].argmax(1) == k)
            - np.mean(logits[rest][labels[rest] == k].argmax(1) == k)
            for k in set(labels[part]) & set(labels[rest])
        ]
        drawn.append({m: both[0][m] - both[1][m] for m in METRICS} | {"balanced_accuracy": np.mean(gaps)})
    for name in METRICS:
        if name == "ece":
            assert np.isnan(found[name]["difference"])
            continue
        values = np.array([one[name] for one in drawn])
        low, high = np.nanquantile(values, [0.025, 0.975])
        assert (found[name]["low"], found[name]["high"]) == pytest.approx((low, high)), name
        assert found[name]["error"] == pytest.approx(np.nanstd(values, ddof=1)), name


def test_a_part_of_one_class_is_compared_by_that_class_alone():
    labels = np.repeat([0, 1, 0, 1], [40, 10, 30, 20])
    inside = np.arange(100) < 40  # zeros only, 10 of 40 wrong; of the other zeros 3 of 30
    predicted = labels.copy()
    predicted[:10], predicted[50:53], predicted[80:90] = 1, 1, 0
    found = difference_to_rest(np.eye(2)[predicted] * 3, labels, None, inside, n_boot=200)
    assert found["balanced_accuracy"]["difference"] == pytest.approx(30 / 40 - 27 / 30)
    assert all(np.isnan(found[name]["low"]) for name in ("mcc", "macro_f1", "auroc"))
    with pytest.raises(ValueError, match="rows on both sides"):
        difference_to_rest(np.eye(2)[predicted], labels, None, np.ones(100, dtype=bool))


def test_no_mistake_is_not_certainty():
    labels = np.tile([0, 1], 187)
    logits = np.stack([1 - labels, labels], axis=1) * 5.0
    intervals = bootstrap_intervals(logits, labels, None)
    assert intervals["accuracy"]["low"] == pytest.approx(0.025 ** (1 / 374))  # Clopper and Pearson, 374 of 374
    for name in ("balanced_accuracy", "macro_f1", "mcc", "auroc"):
        assert 0.9 < intervals[name]["low"] < 1.0 == intervals[name]["high"], name
    few = bootstrap_intervals(logits, labels, np.arange(374) // 34)  # 11 groups know less than 374
    assert few["accuracy"]["low"] == pytest.approx(0.025 ** (1 / 11))


def test_a_class_lost_in_some_resamples_is_left_out_of_auroc():
    logits, labels = draw(40, 2)
    labels[:] = 0
    labels[0] = 1
    interval = bootstrap_intervals(logits, labels, None)["auroc"]
    assert np.isfinite([interval["low"], interval["high"]]).all()
    labels[0] = 0
    assert all(np.isnan(value) for value in bootstrap_intervals(logits, labels, None)["auroc"].values())


def test_many_resamples_are_computed_at_once():
    logits, labels = draw(300, 13)
    bootstrap_intervals(logits, labels, None, n_boot=1)  # imports
    few, many = (counted_work(lambda n=n: bootstrap_intervals(logits, labels, None, n_boot=n)) for n in (100, 1000))
    assert many.calls < 2 * few.calls


def test_groups_of_another_length_are_refused():
    logits, labels = draw(10, 2)
    with pytest.raises(ValueError, match="expected one group per row, found 9 for 10 rows"):
        bootstrap_intervals(logits, labels, np.arange(9))
