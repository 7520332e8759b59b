"""Four splits: whole groups, classes in proportion, the same for any order of the rows."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from counted_work import Work, counted_work
from datasets import Dataset, DatasetDict
from split_rows import split_rows, unopened

from natix_hf.data.sources.rows import Rows
from natix_hf.data.splits.contracts import SPLITS
from natix_hf.data.splits.cut import assign
from natix_hf.documents.figures import Left
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.errors import UserError

RATIOS = (0.60, 0.15, 0.15, 0.10)


def table(labels, classes=2, **columns) -> Dataset:
    return unopened(len(labels), [f"c{i}" for i in range(classes)], label=labels, **columns).data


def locked_ids(rows: Dataset | DatasetDict, seed: int = 0) -> dict:
    return split_rows(Rows(rows, []), RATIOS, seed, near_duplicates=False).description.ids


def test_splits_have_the_ratios_and_the_classes_of_the_whole():
    labels = [0] * 800 + [1] * 200
    homes = assign(labels, [None] * 1000, [str(i) for i in range(1000)], RATIOS, 0)
    counts = Counter(zip(homes, labels))
    assert counts == {
        ("train", 0): 480,
        ("train", 1): 120,
        ("val_select", 0): 120,
        ("val_select", 1): 30,
        ("val_calib", 0): 120,
        ("val_calib", 1): 30,
        ("val_test", 0): 80,
        ("val_test", 1): 20,
    }


def test_the_split_of_a_row_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 500)
    groups = [None if g > 80 else f"g{g}" for g in rng.integers(0, 120, 500)]
    ids = [f"{i}.jpg" for i in range(500)]
    first = dict(zip(ids, assign(labels, groups, ids, RATIOS, 7)))
    order = rng.permutation(500)
    second = assign([labels[i] for i in order], [groups[i] for i in order], [ids[i] for i in order], RATIOS, 7)
    assert first == dict(zip([ids[i] for i in order], second))


def test_another_seed_gives_another_split():
    ids = [str(i) for i in range(200)]
    labels = [i % 2 for i in range(200)]
    assert assign(labels, [None] * 200, ids, RATIOS, 0) != assign(labels, [None] * 200, ids, RATIOS, 1)
    groups = [f"g{i // 4}" for i in range(200)]
    assert assign(labels, groups, ids, RATIOS, 0) != assign(labels, groups, ids, RATIOS, 1)


def test_numbers_and_words_as_labels_split_alike():
    ids = [str(i) for i in range(100)]
    numbers = [i % 2 for i in range(100)]
    words = ["None" if label == 0 else "Roadwork" for label in numbers]
    assert assign(numbers, [None] * 100, ids, RATIOS, 0) == assign(words, [None] * 100, ids, RATIOS, 0)


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole_and_classes_stay_in_proportion(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.geometric(0.1, 300)  # many small videos, some of 60 frames
    groups = np.repeat([f"video {i}" for i in range(300)], sizes)
    share = np.repeat(rng.beta(2, 0.6, 300), sizes)  # videos are mostly of one class, 4 in 5 positive
    labels = (rng.random(len(share)) < share).astype(int)
    homes = np.array(assign(labels, list(groups), [str(i) for i in range(len(labels))], RATIOS, seed))
    for group in set(groups):
        assert len(set(homes[groups == group])) == 1
    for split, ratio in zip(SPLITS, RATIOS):
        assert abs((homes == split).mean() - ratio) < 0.01
        assert abs(labels[homes == split].mean() - labels.mean()) < 0.03


def test_four_photos_of_a_class_are_one_for_each_split():
    labels = [0] * 100 + [1] * 4
    homes = assign(labels, [None] * 104, [str(i) for i in range(104)], RATIOS, 0)
    assert sorted(homes[100:]) == sorted(SPLITS)


def test_every_class_stands_in_every_split_though_a_group_is_large():
    labels = [0] * 60 + [1] * 33
    groups = [None] * 60 + ["long video"] * 30 + [None] * 3
    homes = assign(labels, groups, [str(i) for i in range(93)], RATIOS, 0)
    assert {home for home, label in zip(homes, labels) if label == 1} == set(SPLITS)


def test_many_small_classes_do_not_all_round_the_same_way():
    labels = [i % 13 for i in range(130)]
    homes = Counter(assign(labels, [None] * 130, [str(i) for i in range(130)], RATIOS, 0))
    for split, ratio in zip(SPLITS, RATIOS):
        assert abs(homes[split] - 130 * ratio) <= 1.5


def test_work_and_memory_grow_with_the_rows_and_not_with_their_square():
    def work(n: int) -> Work:
        rng = np.random.default_rng(0)
        labels, numbers = rng.integers(0, 13, n), rng.integers(0, n // 5, n)
        groups, ids = [None if g % 2 else f"g{g}" for g in numbers], [str(i) for i in range(n)]
        return counted_work(lambda: assign(labels, groups, ids, RATIOS, 0))

    few, many = work(2_000), work(8_000)
    assert many.calls < 5 * few.calls
    assert many.peak < 5 * few.peak


@pytest.mark.parametrize("ratios", [(0.6, 0.2, 0.2), (0.6, 0.2, 0.1, 0.2), (0.7, 0.3, 0.1, -0.1), (0.7, 0.2, 0.1, 0)])
def test_ratios_that_are_not_four_positive_shares_of_one_are_refused(ratios):
    with pytest.raises(UserError, match="four positive numbers that sum to 1"):
        assign([0, 1] * 10, [None] * 20, [str(i) for i in range(20)], ratios, 0)


def test_a_declared_class_without_photos_is_named():
    with pytest.raises(UserError, match="class 'c2' has 0 photos"):
        split_rows(Rows(table([0, 1] * 20, classes=3), []), RATIOS, 0, near_duplicates=False)


@pytest.mark.parametrize(
    ("count", "groups", "said"),
    [
        (3, [None] * 3, "class 'Roadwork' has 3 photos, fewer than the 4 splits"),
        (20, [f"g{i % 3}" for i in range(20)], "class 'Roadwork' is in 3 groups"),
    ],
    ids=["photos", "groups"],
)
def test_a_class_with_fewer_photos_or_groups_than_splits_is_named(count, groups, said):
    ids = [str(i) for i in range(20 + count)]
    with pytest.raises(UserError, match=said):
        assign(["None"] * 20 + ["Roadwork"] * count, [None] * 20 + groups, ids, RATIOS, 0)


def test_rows_of_the_same_photo_stay_together():
    prints = [f"{i // 2:032x}" for i in range(200)]
    ids = locked_ids(table([(i // 2) % 2 for i in range(200)], fingerprint=prints))
    home = {row: split for split in SPLITS for row in ids[split]}
    assert all(home[f"r{i:04}"] == home[f"r{i + 1:04}"] for i in range(0, 200, 2))


def test_groups_that_share_a_photo_become_one_and_the_message_says_so():
    groups = [f"g{i // 10}" for i in range(100)]
    prints = [f"{0 if i % 10 == 0 else i:032x}" for i in range(100)]  # the same photo in every group
    rows = Rows(table([i % 2 for i in range(100)], group=groups, fingerprint=prints), [])
    with pytest.raises(UserError, match=r"is in 1 groups.*9 by bytes"):
        split_rows(rows, RATIOS, 0, near_duplicates=False, largest_share=1.0)


def test_split_rows_follow_ids_and_not_the_order_of_rows():
    labels = [i % 3 for i in range(120)]
    groups = [f"g{i // 3}" for i in range(120)]
    rows = table(labels, group=groups, classes=3)
    shuffled = rows.shuffle(seed=1, keep_in_memory=True)
    assert {s: set(i) for s, i in locked_ids(rows).items()} == {s: set(i) for s, i in locked_ids(shuffled).items()}
    first, second = (
        split_rows(Rows(data, []), RATIOS, 0, near_duplicates=False).description for data in (rows, shuffled)
    )
    assert first.fingerprints == second.fingerprints
    assert first.class_counts == second.class_counts


def test_the_parts_of_val_calib_halve_it_by_whole_groups():
    rng = np.random.default_rng(0)
    groups = [f"g{g}" for g in rng.integers(0, 100, 600)]
    rows = table(list(rng.integers(0, 2, 600)), group=groups)
    locked = split_rows(Rows(rows, []), RATIOS, 0, near_duplicates=False)
    fit = locked.rows("policy", step="fit calibration")
    control = locked.rows("policy", step="guarantee", part="control")
    assert not set(fit["group"][:]) & set(control["group"][:])
    assert set(fit["id"][:]) | set(control["id"][:]) == set(locked.description.ids["val_calib"])
    assert abs(len(fit) - len(control)) <= 6
    assert abs(np.mean(fit["label"][:]) - np.mean(control["label"][:])) < 0.1


def test_a_class_too_small_for_both_parts_stands_in_fit():
    locked = split_rows(Rows(table([0] * 40 + [1] * 4), []), RATIOS, 0, near_duplicates=False)
    assert locked.description.class_counts["val_calib/fit"]["c1"] == 1
    assert locked.description.class_counts["val_calib/control"]["c1"] == 0


def test_the_description_is_a_certificate_and_accounts_for_every_row():
    broken = [Left(id="x.jpg", reason="the file is empty (0 bytes)")]
    locked = split_rows(Rows(table([i % 2 for i in range(100)]), broken), RATIOS, 3, near_duplicates=False)
    document = SplitCertificate.parse(locked.description.text(), "splits.json")
    assert sum(document.sizes.values()) == 100
    assert sorted(chain.from_iterable(document.ids.values())) == sorted(f"r{i:04}" for i in range(100))
    assert document.broken == broken
    assert document.seed == 3
    assert sorted(chain(*(ids for _, ids in document.parts.val_calib))) == sorted(document.ids["val_calib"])
    counted = [sum(document.class_counts[split].values()) for split in SPLITS]
    assert counted == [document.sizes[split] for split in SPLITS]


def given(**changes) -> DatasetDict:
    splits = {}
    for k, split in enumerate(SPLITS):
        ids = [f"{split}-{i}" for i in range(8)]
        columns = {"fingerprint": [f"{k * 100 + i:032x}" for i in range(8)], "id": ids} | changes.get(split, {})
        splits[split] = table([i % 2 for i in range(8)], **columns)
    return DatasetDict(splits)


def test_four_given_splits_are_taken_as_they_are():
    locked = split_rows(Rows(given(), []), RATIOS, 0, near_duplicates=False)
    assert locked.description.ids == {split: [f"{split}-{i}" for i in range(8)] for split in SPLITS}
    assert locked.description.ratios is None
    SplitCertificate.parse(locked.description.text(), "splits.json")
    fit = locked.rows("policy", step="fit calibration")
    assert len(fit) == 4


def eight(first: str, name: str) -> list[str]:
    """`first`, and seven values that no other split has."""
    return [first, *(f"{name} {i}" for i in range(7))]


SHARED = {
    "group": (
        {"train": {"group": eight("street", "own")}, "val_test": {"group": eight("street", "other")}},
        "share 1 group: 'street' in train and val_test",
    ),
    "photo": (
        {"val_calib": {"fingerprint": [f"{number:032x}" for number in (2, *range(900, 907))]}},
        "share 1 photo: 'train-2' = 'val_calib-0' in train and val_calib",
    ),
    "id": (
        {"val_select": {"id": eight("train-0", "s"), "group": eight("t", "s")}},
        "share 1 id: 'train-0' in train and val_select",
    ),
}


@pytest.mark.parametrize(("changes", "said"), SHARED.values(), ids=SHARED)
def test_what_two_given_splits_share_is_named(changes, said):
    with pytest.raises(UserError, match=said):
        split_rows(Rows(given(**changes), []), RATIOS, 0, near_duplicates=False)


def test_an_empty_given_split_is_named():
    data = given()
    data["val_calib"] = data["val_calib"].select([])
    with pytest.raises(UserError, match="split 'val_calib' of the data set is empty"):
        split_rows(Rows(data, []), RATIOS, 0, near_duplicates=False)


def test_a_given_train_split_without_a_class_is_named():
    data = given()
    data["train"] = data["train"].filter(lambda label: label == 0, input_columns="label")
    with pytest.raises(UserError, match="'train' has no photo of class 'c1'"):
        split_rows(Rows(data, []), RATIOS, 0, near_duplicates=False)
