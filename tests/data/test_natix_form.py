"""A data set in the form of natix-network-org/roadwork: flat dotted names, text for places, its own test part."""

from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value

from natix_hf.data.load_photos import split_photos
from natix_hf.data.sources.known_sources import KNOWN
from natix_hf.data.splits.contracts import SPLITS
from natix_hf.scenes.photos import encode, scene

TAG, VIDEO = "scene_level_tags.weather", "video_info.vid_id"


@pytest.fixture(scope="module")
def natix() -> DatasetDict:
    """96 + 24 rows ordered by label; rows 0 and 95 of train contradict their text; a video runs through both parts."""

    def part(name: str, indices: range) -> Dataset:
        photos = sorted((scene(61, i, (160, 96)) for i in indices), key=lambda photo: photo.label)
        described = [photo.label for photo in photos]
        if name == "train":
            described[0], described[-1] = 1, 0
        videos = [None if photo.group.endswith("0") else photo.group for photo in photos]
        if name == "test":
            videos[0] = "through both"
        else:
            videos[5] = "through both"
        rows = {
            "image": [{"bytes": encode(photo), "path": f"{i}.jpg"} for i, photo in enumerate(photos)],
            "id": list(range(len(photos))),
            "gps": [f"[{39.7 + i / 1000}, -86.1]" for i in range(len(photos))],
            "city_name": ["Boston" if i % 6 == 0 else "Pittsburgh" for i in range(len(photos))],
            "date_captured": [0] * len(photos),
            "scene_description": ["workers beside the road" if text else "" for text in described],
            VIDEO: videos,
            TAG: ["['clear']" if i % 3 else "['rain', 'fog']" for i in range(len(photos))],
            "label": [photo.label for photo in photos],
        }
        kinds = {column: Value("string") for column in rows}
        kinds |= {"image": Image(), "id": Value("int64"), "date_captured": Value("int64"), "label": Value("int64")}
        return Dataset.from_dict(rows, features=Features(kinds))

    return DatasetDict({"train": part("train", range(96)), "test": part("test", range(96, 120))})


@pytest.fixture(scope="module")
def known() -> dict:
    """What the package knows of the real one."""
    return dict(KNOWN["natix-network-org/roadwork"])


def test_its_test_part_is_kept_rows_tied_to_it_are_set_aside_and_contradictions_dropped(natix, known):
    done = split_photos([natix], strata=[TAG], **known).description
    assert done.label_names == ["None", "Roadwork"]
    assert done.sizes["val_test"] == 24
    assert all(row.startswith("test/") for row in done.ids["val_test"])
    assert {row.id for row in done.dropped} == {"train/0", "train/95"}
    assert "scene_description" in done.dropped[0].reason
    assert "train/5" in {row.id for row in done.set_aside}
    assert done.ties[VIDEO] > 0
    assert done.straddling == 0
    assert sum(done.sizes.values()) == 120 - 2 - len(done.set_aside)


def test_its_columns_are_carried_along_and_serve_as_strata_and_hold_out(natix, known):
    plan = {"strata": [TAG], "hold_out": {"city_name": ["Boston"]}, "test_split": "merge"}
    done = split_photos([natix], **plan, **known)
    for split in SPLITS:
        assert {TAG, VIDEO, "gps", "city_name", "scene_description"} <= set(done.places[split].column_names)
    assert "Boston" not in {city for split in SPLITS[:3] for city in done.places[split]["city_name"][:]}
    assert "Boston" in done.places["val_test"]["city_name"][:]


def test_places_tie_without_times_where_the_date_is_zero(natix, known):
    plan = {"place_column": "gps", "time_column": "date_captured", "metres": 50.0, "seconds": 60.0}
    options = {**known, "group_column": None, "test_split": "merge"}
    done = split_photos([natix], **plan, **options).description
    # Rows i of train and of test stand on one spot, rows of one part are 111 m apart.
    assert done.ties["place and time"] == 23  # of 24, since train/0 is dropped
    assert done.straddling == 0
