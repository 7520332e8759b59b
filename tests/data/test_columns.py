"""Columns by name or path, and labels of every kind as class numbers."""

from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset

from natix_hf.data.sources.classes import class_numbers
from natix_hf.data.sources.columns import column_value, group_names, has_column
from natix_hf.errors import UserError

NAMES = ["None", "Roadwork"]


def test_flat_names_with_dots_win_over_paths_into_structs():
    assert column_value({"a.b": 1, "a": {"b": 2}}, "a.b") == 1
    assert column_value({"a": {"b": {"c": 2}}}, "a.b.c") == 2
    assert column_value({"a": None}, "a.b.c") is None
    with pytest.raises(KeyError):
        column_value({"a": {"c": 2}}, "a.b")


def test_a_column_is_there_by_its_name_or_as_a_path_into_structs():
    data = Dataset.from_dict({"a.b": [1], "c": [{"d": {"e": 2}}], "f": ["x"]})
    assert [key for key in ("a.b", "c", "c.d", "c.d.e", "f", "a", "c.e", "f.x", "g") if has_column(data, key)] == [
        "a.b",
        "c",
        "c.d",
        "c.d.e",
        "f",
    ]


def test_groups_are_named_by_their_value_or_by_the_first_column_that_has_one():
    ids = ["p", "q", "r"]
    assert group_names({}, ids) == ["row:p", "row:q", "row:r"]
    assert group_names({"video": ["1", None, "2"]}, ids) == ["1", "row:q", "2"]
    assert group_names({"video": ["1", None, None], "camera": ["1", "2", None]}, ids) == [
        "video=1",
        "camera=2",
        "row:r",
    ]


@pytest.mark.parametrize(
    ("values", "feature", "given", "numbers", "names"),
    [
        ([1, 0, 1], None, NAMES, [1, 0, 1], NAMES),
        (["1", "0", "1"], None, NAMES, [1, 0, 1], NAMES),
        ([1.0, 0.0, 1.0], None, NAMES, [1, 0, 1], NAMES),
        ([True, False], None, NAMES, [1, 0], NAMES),
        (["Roadwork", "None"], None, NAMES, [1, 0], NAMES),
        (["Roadwork", "None"], None, ["Roadwork", "None"], [0, 1], ["Roadwork", "None"]),
        (["None", "Roadwork"], None, None, [0, 1], NAMES),
        ([10, 9, 10], None, None, [1, 0, 1], ["9", "10"]),
        ([1, 0], ClassLabel(names=["cat", "dog"]), None, [1, 0], ["cat", "dog"]),
        ([1, 0], ClassLabel(names=["0", "1"]), NAMES, [1, 0], NAMES),
        ([1, 0], ClassLabel(names=["Roadwork", "None"]), NAMES, [0, 1], NAMES),
        (["7", "8"], None, ["8", "7"], [1, 0], ["8", "7"]),
    ],
)
def test_labels_become_class_numbers(values, feature, given, numbers, names):
    assert class_numbers(values, feature, given) == (numbers, names)


@pytest.mark.parametrize(
    ("values", "feature", "given", "message"),
    [
        ([0, 1, 2], None, NAMES, r"label '2' \(row 2\) is outside label_names: expected one of 0=None, 1=Roadwork"),
        ([0, -1], None, NAMES, "label '-1'"),
        (["None", "Works"], None, NAMES, "label 'Works'"),
        ([1, 0], ClassLabel(names=["cat", "dog"]), NAMES, "label 'cat'"),
        ([1, None, None], None, NAMES, r"2 rows have no label \(the first is row 1\)"),
        ([1, -1], ClassLabel(names=NAMES), None, "1 rows have no label"),
        (["a", ""], None, None, "1 rows have no label"),
        (["a", "b"], None, ["a", "a"], "names a class twice"),
    ],
)
def test_labels_outside_the_mapping_are_named(values, feature, given, message):
    with pytest.raises(UserError, match=message):
        class_numbers(values, feature, given)
