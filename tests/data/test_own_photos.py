"""Photos of one's own for a finished model: what is left out, what is tied, how they are halved."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from photo_sources import COLOURS, NAMES
from PIL import Image

from natix_hf import UserError
from natix_hf.data.load_photos import load_photos
from natix_hf.data.own_photos import have_labels, read_labelled, read_unlabelled
from natix_hf.data.splits.certificate import known_photos


@pytest.fixture
def own(tmp_path, make_photos):
    return make_photos(tmp_path / "own", COLOURS, 12, seed=7)


def test_photos_that_the_model_s_own_data_holds_are_left_out_by_their_bytes(tmp_path, photo_folder, own):
    splits = load_photos(str(photo_folder))
    known = known_photos(splits.description)
    assert len(known) == 48
    trained, tested = splits.description.ids["train"][0], splits.description.ids["val_test"][0]
    for name in (trained, tested):
        shutil.copy(photo_folder / name, own / name.split("/")[0] / "copy-of.jpg")
        shutil.move(own / name.split("/")[0] / "copy-of.jpg", own / name.split("/")[0] / f"c{name.split('/')[1]}")
    found = read_labelled(str(own), NAMES, known)
    assert found.known == {"train": 1, "val_test": 1}
    assert len(found.rows) == 24
    assert found.labelled
    unlabelled = read_unlabelled(str(own), known)
    assert unlabelled.known == found.known
    assert sorted(unlabelled.rows["id"][:]) == sorted(found.rows["id"][:])
    with pytest.raises(UserError, match="no usable photo: 48 are in the model's own data"):
        read_labelled(str(photo_folder), NAMES, known)


def test_halves_hold_whole_groups_and_both_classes(own):
    for i in range(6):  # altered copies
        photo = Image.open(own / "None" / f"{i:03d}.jpg")
        photo.resize((60, 45)).save(own / "None" / f"copy-{i}.jpg", quality=80)
    found = read_labelled(str(own), NAMES, {})
    halves = found.halves(0)
    ids = {half: set(rows["id"][:]) for half, rows in halves.items()}
    assert len(ids["fit"]) + len(ids["control"]) == 30
    assert not set(halves["fit"]["group"][:]) & set(halves["control"]["group"][:])
    assert all(set(rows["label"][:]) == {0, 1} for rows in halves.values())
    assert all(9 <= len(rows) <= 21 for rows in halves.values())
    again = read_labelled(str(own), NAMES, {}).halves(0)
    assert ids == {half: set(rows["id"][:]) for half, rows in again.items()}


def test_labels_are_the_model_s_numbers_whatever_their_order(own):
    found = read_labelled(str(own), ["Roadwork", "None"], {})
    assert {name.split("/")[0]: label for name, label in zip(found.rows["id"][:], found.rows["label"][:])} == {
        "Roadwork": 0,
        "None": 1,
    }


def test_whether_there_are_labels(tmp_path, own):
    assert have_labels(str(own))
    loose = tmp_path / "loose"
    loose.mkdir()
    for i in range(3):
        Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(loose / f"{i}.png")
    assert not have_labels(str(loose))
    (loose / "photos.csv").write_text("image_path\n0.png\n1.png\n2.png\n")
    assert not have_labels(str(loose))
    assert read_unlabelled(str(loose), {}).rows["id"][:] == ["0.png", "1.png", "2.png"]
    (loose / "photos.csv").write_text("image_path,label,street\n0.png,None,a\n1.png,Roadwork,a\n2.png,None,b\n")
    assert have_labels(str(loose))
    assert read_unlabelled(str(loose), {}, group_column="street").rows["group"][:] == ["a", "a", "b"]


def test_broken_photos_are_listed_and_skipped(own):
    (own / "None" / "000.jpg").write_bytes(b"no photo")
    for found in (read_labelled(str(own), NAMES, {}), read_unlabelled(str(own), {})):
        assert [photo.id for photo in found.broken] == ["None/000.jpg"]
        assert len(found.rows) == 23


def test_what_cannot_be_used_is_one_line(tmp_path, own):
    with pytest.raises(UserError, match=r"label 'None' .* outside label_names: expected one of 0=Cat, 1=Dog"):
        read_labelled(str(own), ["Cat", "Dog"], {})
    shutil.rmtree(own / "Roadwork")
    with pytest.raises(UserError, match="all 12 photos are of one class"):
        read_labelled(str(own), NAMES, {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no photos in this folder"):
        read_unlabelled(str(tmp_path / "empty"), {})


def test_a_class_of_one_photo_cannot_be_halved(own):
    for i in range(1, 12):
        (own / "None" / f"{i:03d}.jpg").unlink()
    with pytest.raises(UserError, match=r"class 'None' has 1 photos, fewer than the 2 .*one half is for fitting"):
        read_labelled(str(own), NAMES, {}).halves(0)
