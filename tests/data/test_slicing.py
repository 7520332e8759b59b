"""Which columns become slices, and that no coordinate, id or sentence ever does."""

from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from natix_hf.data.splits.slicing import check_slices, orientation, resolution, slice_values
from natix_hf.errors import UserError

N = 60


def rows(**columns) -> Dataset:
    """Rows of two classes with sizes, and the columns given."""
    table = {
        "id": [f"r{i}" for i in range(N)],
        "label": [i % 2 for i in range(N)],
        "group": [f"g{i // 3}" for i in range(N)],
        "origin": ["all"] * N,
        "source": ["real" if i % 3 else "made" for i in range(N)],
        "fingerprint": [f"{i:032x}" for i in range(N)],
        "width": [1920 if i % 4 else 640 for i in range(N)],
        "height": [1080 if i % 4 else 480 for i in range(N)],
    }
    return Dataset.from_dict({**table, **columns})


def test_kinds_are_found_and_tags_of_a_row_are_one_value():
    found = slice_values(
        [
            rows(
                **{
                    "scene_level_tags.weather": ["['clear']" if i % 3 else "['rain', 'fog']" for i in range(N)],
                    "city_name": ["Boston" if i % 5 else None for i in range(N)],
                    "lanes": [i % 4 for i in range(N)],
                    "tags": [["dusk", "dawn"] if i % 7 else [] for i in range(N)],
                    "meta": [{"daytime": "day" if i % 5 else "night", "sensor_id": i % 3} for i in range(N)],
                }
            )
        ]
    )
    assert set(found) == {
        "source", "scene_level_tags.weather", "city_name", "lanes", "tags", "meta.daytime", "resolution"
    }  # fmt: skip
    assert found["scene_level_tags.weather"][:2] == ["fog+rain", "clear"]
    assert found["city_name"][:2] == ["unknown", "Boston"]
    assert found["tags"][:2] == ["unknown", "dawn+dusk"]
    assert found["meta.daytime"][:2] == ["night", "day"]
    assert found["resolution"][:2] == ["0.3 to 1 MP", "1 to 3 MP"]
    assert all(len(values) == N for values in found.values())


PLACE = [39.7, -86.1]


@pytest.mark.parametrize(
    ("name", "two"),
    [
        ("gps", ("[39.7, -86.1]", "[40.1, -86.2]")),
        ("somewhere", ("[39.7, -86.1]", "[40.1, -86.2]")),
        ("somewhere", ("39.7 -86.1", "40.1 -86.2")),
        ("somewhere", ("39,-86", "40,-87")),
        ("somewhere", ("39°46'N", "40°1'N")),
        ("somewhere", (PLACE, [40.1, -86.2])),
        ("somewhere", ([39, -86], [40, -87])),
        ("somewhere", (["39.7", "-86.1"], ["40.1", "-86.2"])),
        ("somewhere", ({"lat": 39, "lon": 86}, {"lat": 40, "lon": 87})),
        ("y", (39.7, 40.1)),
        ("y", ("39.7", "40.1")),
        ("GPSLat", (39, 40)),
        ("video_info.vid_id", ("a", "b")),
        ("flickr_url", ("a", "b")),
        ("page", ("https://a.example/1", "https://a.example/2")),
        ("date_captured", (0, 1)),
        ("when", ("2024-05-01", "2024-05-02")),
        ("when", (1714557600, 1714557601)),
        ("scene_description", ("cones", "none")),
        ("remark", ("x" * 61, "short")),
        ("one", ("same", "same")),
    ],
)
def test_places_ids_links_dates_and_sentences_are_left_out(name, two):
    data = rows(**{name: [two[i % 3 == 0] for i in range(N)]})
    assert set(slice_values([data])) == {"source", "resolution"}


def test_too_many_values_and_a_renamed_class_are_left_out():
    data = rows(
        many=[f"v{i}" for i in range(N)],
        half=[f"v{i // 2}" for i in range(N)],
        class_name=["no" if i % 2 == 0 else "yes" for i in range(N)],
    )
    assert set(slice_values([data])) == {"half", "source", "resolution"}


def test_parts_are_one_behind_the_other_and_class_labels_have_names():
    plain = rows(light=[i % 2 if i < 50 else 1 - i % 2 for i in range(N)])
    data = plain.cast(Features({**plain.features, "light": ClassLabel(names=["day", "night"])}))
    found = slice_values([data.select(range(10)), data.select(range(10, N))])
    assert found["light"] == slice_values([data])["light"]
    assert found["light"][:2] == ["day", "night"]
    assert slice_values([data.select([])]) == {}


def test_only_the_chosen_columns_where_some_are_chosen():
    data = rows(city=["a" if i % 5 else "b" for i in range(N)])
    assert set(slice_values([data], ["city"])) == {"city"}
    check_slices(data, ["city", "resolution"])
    for column, said in (("town", "no column 'town': the columns are"), ("id", "over 50")):
        with pytest.raises(UserError, match=said):
            check_slices(data, [column])
    places = rows(spot=["[39.7, -86.1]"] * N)
    with pytest.raises(UserError, match="spot contains places") as caught:
        check_slices(places, ["spot"])
    assert "39.7" not in str(caught.value)
    assert slice_values([places], ["spot"]) == {}


@pytest.mark.parametrize(
    ("size", "name"),
    [((640, 460), "under 0.3 MP"), ((1280, 720), "0.3 to 1 MP"), ((4000, 3000), "9 MP up"), ((None, 3), "unknown")],
)
def test_resolutions(size, name):
    assert resolution(*size) == name


@pytest.mark.parametrize(
    ("size", "name"),
    [((640, 480), "landscape"), ((480, 640), "portrait"), ((9, 9), "square"), ((None, 3), "unknown")],
)
def test_orientations(size, name):
    assert orientation(*size) == name


def test_orientation_is_looked_at_where_it_is_asked_for_and_photos_have_both():
    turned = rows(
        width=[1080 if i % 4 else 1920 for i in range(N)], height=[1920 if i % 4 else 1080 for i in range(N)]
    )
    assert "orientation" not in slice_values([turned])
    found = slice_values([turned], also=["orientation"])
    assert found["orientation"][:2] == ["landscape", "portrait"]
    assert {*found} == {*slice_values([turned]), "orientation"}
    assert slice_values([turned], ["orientation"]) == {"orientation": found["orientation"]}
    check_slices(turned, ["orientation"])
    wide = rows()  # all of them
    assert "orientation" not in slice_values([wide], also=["orientation"])
    bare = turned.remove_columns(["width", "height"])
    assert "orientation" not in slice_values([bare], also=["orientation"])
    own = rows(orientation=["up" if i % 5 else "down" for i in range(N)])
    assert slice_values([own], also=["orientation"])["orientation"][:2] == ["down", "up"]


NONE, SMALL, LARGE = "none", "small (under 7 % of the height)", "large (21 % of the height up)"
MEDIUM = "medium (7 to 21 % of the height)"
BOXES = ([], [[5, 5, 400, 20]], [[5, 5, 9, 70], [1, 2, 3, 10]], [[0, 0, 9, 1000]])


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("boxes", str),  # as CSV has them
        ("bbox", list),
        ("objects", lambda boxes: {"bbox": boxes, "category": [1] * len(boxes)}),
        ("objects", lambda boxes: [{"bbox": box, "category": 1} for box in boxes]),
    ],
)
def test_the_size_of_what_is_boxed_is_a_kind(name, write):
    table = rows(width=[1920] * N, height=[1000] * N).add_column(name, [write(BOXES[i % 4]) for i in range(N)])
    found = slice_values([table])
    assert {"source", "object_size"} <= set(found)
    assert found["object_size"][:4] == [NONE, SMALL, MEDIUM, LARGE]
    check_slices(table, ["object_size"])
    assert set(slice_values([table], ["object_size"])) == {"object_size"}


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("[[0, 0, 5, 69]]", SMALL),
        ("[[0, 0, 5, 70]]", MEDIUM),
        ("[[0, 0, 5, 209.9]]", MEDIUM),
        ("[[0, 0, 5, 210]]", LARGE),
        ("", NONE),
        (None, NONE),
        ("[[0.1, 0.1, 0.2, 0.2]]", "unknown"),  # shares
        ("[[0, 0, 5, 1200]]", "unknown"),  # of another photo
        ("[[0, 0, 5]]", "unknown"),
        ("[3, 4, 5, 6]", "unknown"),
        ("a cone", "unknown"),
    ],
)
def test_sizes_have_stated_limits_and_odd_boxes_none(value, size):
    table = rows(height=[1000] * N, boxes=[value if i % 3 == 1 else "[[0, 0, 5, 500]]" for i in range(N)])
    found = slice_values([table], ["object_size"]).get("object_size", [LARGE] * N)
    assert found[1] == size


def test_without_boxes_or_sizes_there_is_no_object_size():
    assert "object_size" not in slice_values([rows()])
    boxed = rows(boxes=["[[0, 0, 5, 5]]" if i % 3 else "[]" for i in range(N)])
    assert "object_size" not in slice_values([boxed.remove_columns("height")])
    with pytest.raises(
        UserError, match=r"no column .object_size.: the columns are origin, source, resolution, orientation$"
    ):
        check_slices(rows(), ["object_size"])


def test_values_of_other_types_are_text():
    data = rows(night=[i % 5 == 0 for i in range(N)]).cast_column("width", Value("int64"))
    assert slice_values([data])["night"][:2] == ["1", "0"]
