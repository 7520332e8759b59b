"""Folders that name splits are no classes, whatever their case and separators; folders of systems hold no photos."""

from __future__ import annotations

import shutil

import pytest
from photo_sources import COLOURS, NAMES, refused
from split_rows import split_rows

from natix_hf.data.sources.rows import load_rows
from natix_hf.data.sources.split_names import names_split, split_word
from natix_hf.data.splits.cut import SPLITS


@pytest.fixture
def parted(tmp_path, make_photos):
    """Writes class folders of 12 photos below each of some folders."""

    def write(*names: str):
        for seed, name in enumerate(names):
            make_photos(tmp_path / "parted" / name, COLOURS, 6, seed=seed)
        return tmp_path / "parted"

    return write


@pytest.mark.parametrize(
    "names",
    [
        ("Training", "Testing"),
        ("Train", "Val", "Test"),
        ("TRAIN", "VALID", "TEST"),
        ("train_images", "test_images"),
        ("trainset", "testset"),
        ("TrainImages", "TestImages"),
        ("images-train", "images-test"),
        ("train2017", "val2017", "test2017"),
        ("training set", "test set"),
        ("trainval", "test"),
        ("train", "dev", "test"),
        ("train", "validation", "test"),
        ("seg_train", "seg_test"),
    ],
)
def test_folders_that_name_splits_are_origins_and_the_test_part_is_kept(names, parted):
    rows = load_rows(parted(*names))
    assert rows.label_names == NAMES
    assert sorted(set(rows.data["origin"][:])) == sorted(filter(None, map(split_word, names)))
    test = split_rows(rows).description.ids["val_test"]
    assert {name.split("/")[0] for name in test} == {names[-1]}
    assert len(test) == 12


@pytest.mark.parametrize("names", [("Train", "Val-Select", "Val Calib", "VAL_TEST"), SPLITS])
def test_the_four_splits_come_back_whatever_the_case_of_their_folders(names, parted):
    rows = load_rows(parted(*names))
    assert sorted(rows.data) == sorted(SPLITS)


def test_splits_below_the_classes_are_origins_too(tmp_path, make_photos):
    for seed, split in enumerate(("train", "test")):
        made = make_photos(tmp_path / split, COLOURS, 6, seed=seed)
        for name in NAMES:
            shutil.move(made / name, tmp_path / "photos" / name / split)
    rows = load_rows(tmp_path / "photos")
    assert rows.label_names == NAMES
    assert sorted(set(rows.data["origin"][:])) == ["test", "train"]


@pytest.mark.parametrize("other", ["unlabeled", "runs", "predict"])
@pytest.mark.parametrize("splits", [("train", "test"), ("Training", "Testing"), ("train",)])
def test_folders_that_name_splits_beside_others_are_refused_with_what_to_do(splits, other, parted, make_photos):
    folder = parted(*splits)
    make_photos(folder, {other: (90, 90, 90)}, 6)
    line = refused(folder)
    assert f"folders named after splits ({', '.join(sorted(splits))}) are beside others ({other}): move" in line


def test_a_flat_folder_called_test_beside_class_folders_is_refused(tmp_path, make_photos):
    folder = make_photos(tmp_path / "photos", COLOURS | {"test": (90, 90, 90)}, 6)
    assert "folders named after splits (test) are beside others (None, Roadwork)" in refused(folder)


def test_a_class_of_trains_beside_other_vehicles_is_a_class(tmp_path, make_photos):
    vehicles = {name: (40 * i, 90, 90) for i, name in enumerate(("bus", "train", "train_station", "truck"))}
    assert load_rows(make_photos(tmp_path / "vehicles", vehicles, 4)).label_names == sorted(vehicles)
    for seed, split in enumerate(("train", "test")):
        make_photos(tmp_path / "parted" / split, vehicles, 4, seed=seed)
    assert load_rows(tmp_path / "parted").label_names == sorted(vehicles)


def test_a_folder_around_everything_is_no_class(parted):
    folder = parted("archive/train", "archive/test")
    assert "all photos are below one folder (archive), which would be the only class" in refused(folder)
    assert load_rows(folder / "archive").label_names == NAMES


def test_a_split_folder_within_itself_is_refused(parted):
    folder = parted("seg_train/seg_train", "seg_test/seg_test")
    assert "seg_test contains only a folder of the same name: move the class folders up" in refused(folder)


@pytest.mark.parametrize(
    "name", ["@eaDir", "$RECYCLE.BIN", "Thumbnails", "__MACOSX", "System Volume Information", "lost+found", "#recycle"]
)
def test_folders_of_systems_are_no_classes(name, photo_folder):
    shutil.copytree(photo_folder / "None", photo_folder / name)
    shutil.copytree(photo_folder / "None", photo_folder / "None" / name)
    rows = load_rows(photo_folder)
    assert rows.label_names == NAMES
    assert len(rows.data) == 48


def test_what_a_name_says_of_a_split():
    for name, word in {
        **{"Train": "train", "TESTING": "testing", "my-train": "train", "val_select": "val_select", "Val2017": "val"},
        **{"train_val": "trainval", "contest": None, "training-test": None, "": None, "latest": None, "2017": None},
    }.items():
        assert split_word(name) == word, name
    assert names_split("test_images") == "test"
    assert names_split("test_site") is None
