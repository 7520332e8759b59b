"""Places, times, tags and descriptions in every usual writing, and the row that is named where one makes no sense."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pytest
from datasets import Dataset

from natix_hf.data.sources.metadata import category, contradictions, places, times
from natix_hf.errors import UserError

NAMES = ["None", "Roadwork"]


def test_places_in_every_writing_are_degrees():
    text = Dataset.from_dict({"gps": ["[39.7, -86.1]", "(39.7,-86.1)", "39.7, -86.1", " 39.7,-86.1 "]})
    np.testing.assert_array_equal(places(text, "gps"), [[39.7, -86.1]] * 4)
    lists = Dataset.from_dict({"gps": [[39.7, -86.1], None, []]})
    np.testing.assert_array_equal(places(lists, "gps"), [[39.7, -86.1], [np.nan] * 2, [np.nan] * 2])
    for names in (("lat", "lon"), ("latitude", "longitude"), ("lat", "lng")):
        structs = Dataset.from_dict({"meta": [{"gps": dict(zip(names, (39.7, -86.1)))}, {"gps": None}, None]})
        np.testing.assert_array_equal(places(structs, "meta.gps"), [[39.7, -86.1], [np.nan] * 2, [np.nan] * 2])


@pytest.mark.parametrize("nowhere", [None, "", "[]", " ", "[None, None]", "[nan, nan]", "[0.0, 0.0]"])
def test_a_missing_place_is_nan(nowhere):
    found = places(Dataset.from_dict({"gps": [nowhere, "[0.0, 9.5]"]}), "gps")
    assert found.shape == (2, 2)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [[np.nan, np.nan], [0, 9.5]])


@pytest.mark.parametrize(
    "wrong", ["[139.7, -86.1]", "[39.7, -186.1]", "[39.7]", "[39.7, -86.1, 12]", "downtown", "[39.7, ]", "[nan, 3]"]
)
def test_a_place_that_is_none_on_earth_is_named_with_its_row(wrong):
    with pytest.raises(UserError) as caught:
        places(Dataset.from_dict({"gps": ["[39.7, -86.1]", wrong]}), "gps")
    assert str(caught.value) == (
        "gps: row 1: expected latitude (-90 to 90) and longitude (-180 to 180) in degrees, such as [39.7, -86.1]; "
        f"found {wrong!r}: correct or empty it"
    )


def test_a_struct_of_other_names_is_no_place():
    with pytest.raises(UserError, match=r"row 0: expected .*; found"):
        places(Dataset.from_dict({"gps": [{"x": 39.7, "y": -86.1}]}), "gps")


MAY = datetime(2024, 5, 1, 10, 0, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ([1714557600, 0, None], [MAY, np.nan, np.nan]),
        ([1714557600.5, 0.0, float("nan")], [MAY + 0.5, np.nan, np.nan]),
        (["1714557600", "0", ""], [MAY, np.nan, np.nan]),
        (["2024-05-01T10:00:00Z", "2024-05-01 12:00:00+02:00", "2024-05-01T10:00:00"], [MAY] * 3),
        (["2024:05:01 10:00:00", "0000:00:00 00:00:00", "2024:05:01 10:00:00\0"], [MAY, np.nan, MAY]),
        (["2024-05-01", "20240501", "2024:05:01"], [MAY - 36000] * 3),
        ([datetime(2024, 5, 1, 10), None], [MAY, np.nan]),
        ([date(2024, 5, 1), None], [MAY - 36000, np.nan]),
    ],
)
def test_times_in_every_writing_are_seconds(values, seconds):
    found = times(Dataset.from_dict({"date_captured": values}), "date_captured")
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, seconds)


@pytest.mark.parametrize("wrong", ["yesterday", "2024-13-01", "1714557600000", "inf"])
def test_a_time_that_is_none_is_named_with_its_row(wrong):
    with pytest.raises(UserError) as caught:
        times(Dataset.from_dict({"day": ["2024-05-01", wrong]}), "day")
    assert str(caught.value) == (
        "day: row 1: expected seconds since 1970, an ISO date or EXIF's 2024:05:01 10:00:00; "
        f"found {wrong!r}: correct or empty it"
    )


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["['day']", "['Sunny', 'Cloudy']", "[]", "", None], ["day", "Cloudy+Sunny", "unknown", "unknown", "unknown"]),
        (["day", "[not a list", "[nor this]", "['']"], ["day", "[not a list", "[nor this]", "unknown"]),
        ([["day"], ["b", "a", "b"], [], None], ["day", "a+b", "unknown", "unknown"]),
        ([3.0, None, 4.5], ["3", "unknown", "4.5"]),
        ([True, False], ["1", "0"]),
    ],
)
def test_tags_become_one_word_each(values, names):
    assert category(Dataset.from_dict({"tag.weather": values}), "tag.weather") == names


def test_a_text_of_code_is_not_run():
    text = "[__import__('os').getcwd()]"
    assert category(Dataset.from_dict({"tag": [text]}), "tag") == [text]


def test_columns_that_are_not_there_are_named():
    data = Dataset.from_dict({"a": [1]})
    for read in (places, times, category):
        with pytest.raises(UserError, match="no column 'gone': the columns are a"):
            read(data, "gone")


def test_a_class_that_contradicts_its_description_is_found():
    texts = [None, "Cones on the  right lane", "", "Work zone", "   ", "x" * 100]
    found = contradictions([0, 0, 1, 1, 1, 0], NAMES, texts, "scene_description", None)
    assert found == {
        1: "label None, but scene_description says Cones on the right lane",
        2: "label Roadwork, but scene_description is empty",
        4: "label Roadwork, but scene_description is empty",
        5: f"label None, but scene_description says {'x' * 77}...",
    }
    assert list(contradictions([0, 0, 1, 1, 1, 0], NAMES, texts, "scene_description", "None")) == [0, 3]


def test_descriptions_are_for_two_classes():
    with pytest.raises(UserError, match=r"works with two classes only; there are 3 \(a, b, c\)"):
        contradictions([0], ["a", "b", "c"], [None], "text", None)
    with pytest.raises(UserError, match="positive_label Works: the classes are None, Roadwork"):
        contradictions([0], NAMES, [None], "text", "Works")
