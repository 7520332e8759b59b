"""Thumbnails hold pixels and nothing else, in the order of the page's picks, with a heat map each."""

import json

import numpy as np
import pytest
from PIL import Image

from natix_hf import UserError, load_model
from natix_hf.documents.gallery import Gallery
from natix_hf.runs.gallery import write_gallery
from natix_hf.runs.report_page import read_pictures


@pytest.fixture
def rows(tmp_path):
    """Three photos, one of them upright only by its EXIF, with a place, a comment and a profile inside."""
    found = []
    for i, size in enumerate([(64, 48), (1600, 900), (30, 40)]):
        image = Image.effect_noise(size, 60).convert("RGB")
        exif = Image.Exif()
        exif[0x010F] = "secret camera"
        exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
        exif[0x0112] = 6 if i == 2 else 1
        path = tmp_path / f"<b>{i}.jpg"
        image.save(path, exif=exif, comment=b"secret comment", icc_profile=b"secret profile")
        found.append({"id": f"photos/{i}.jpg", "image": {"bytes": None, "path": str(path)}, "label": 0})
    return found


@pytest.fixture
def network(tiny_backbone):
    return load_model(str(tiny_backbone), ["None", "Roadwork"], method="probe", image_size=32)


def test_photos_are_small_upright_and_hold_nothing_but_pixels(rows, network, tmp_path):
    run = tmp_path / "run"
    document = write_gallery(run, {"val_test": (rows, np.array([2, 1]))}, *network)
    assert Gallery.read(run) == document
    assert [(entry.id, entry.width, entry.height) for entry in document.photos] == [
        ("photos/2.jpg", 40, 30),
        ("photos/1.jpg", 640, 360),
    ]
    for entry in document.photos:
        content = (run / entry.photo).read_bytes()
        assert b"secret" not in content
        photo = Image.open(run / entry.photo)
        assert photo.size == (entry.width, entry.height)
        assert not photo.getexif()
        assert {"comment", "icc_profile", "exif"}.isdisjoint(photo.info)
        assert Image.open(run / entry.attention).size == (2, 2)  # 32 px in patches of 16


def test_the_page_gets_what_is_there(rows, network, tmp_path):
    _, processor = network
    run = tmp_path / "run"
    assert read_pictures(run) == {}
    write_gallery(run, {"val_select": (rows, np.array([0])), "val_test": (rows, np.array([0, 1]))}, None, processor)
    pictures = read_pictures(run)
    assert set(pictures) == {
        ("val_select", "photos/0.jpg"),
        ("val_test", "photos/0.jpg"),
        ("val_test", "photos/1.jpg"),
    }
    assert all(picture.heat is None for picture in pictures.values())
    (run / "gallery" / "val_test-000001.jpg").unlink()
    assert ("val_test", "photos/1.jpg") not in read_pictures(run)


def test_a_map_of_a_wide_view_has_its_patches_and_lies_over_the_whole_photo(rows, tiny_backbone, tmp_path):
    network = load_model(str(tiny_backbone), ["None", "Roadwork"], method="probe", image_size=[32, 64])
    document = write_gallery(tmp_path, {"val_test": (rows, np.array([1, 2]))}, *network)
    for entry in document.photos:  # a landscape and a portrait
        assert Image.open(tmp_path / entry.attention).size == (4, 2)  # 64 x 32 px in patches of 16
        assert entry.box == [0, 0, 1, 1]


def test_a_gallery_that_points_elsewhere_is_refused(rows, network, tmp_path):
    run = tmp_path / "run"
    write_gallery(run, {"val_test": (rows, np.array([0]))}, *network)
    document = json.loads((run / "gallery.json").read_text())
    document["photos"][0]["photo"] = "../../etc/passwd"
    (run / "gallery.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"gallery.json: at \$.photos\[0\].photo"):
        read_pictures(run)


def test_a_second_gallery_replaces_the_first(rows, network, tmp_path):
    run = tmp_path / "run"
    for chosen in ([0, 1], [2]):
        write_gallery(run, {"val_test": (rows, np.array(chosen))}, *network)
    assert sorted(path.name for path in (run / "gallery").iterdir()) == ["val_test-000002.jpg", "val_test-000002.png"]
    assert sorted(path.name for path in run.iterdir()) == ["gallery", "gallery.json"]
