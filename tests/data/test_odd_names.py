"""Names that are not UTF-8: shown with escapes, found again, and refused before work where libraries cannot."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from natix_hf import UserError
from natix_hf.data.load_photos import split_photos
from natix_hf.data.own_photos import read_labelled, read_unlabelled
from natix_hf.data.sources.rows import load_rows
from natix_hf.data.splits.checking import check
from natix_hf.data.splits.saved_folder import save
from natix_hf.files import check_writable, path_text, shown, text_path
from natix_hf.inference.named_photos import find_photos

ODD = os.fsdecode(b"M\xfcnchen")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="names are UTF-16 there")


@pytest.fixture
def odd_folder(photo_folder) -> Path:
    """The class folders of `photo_folder`, in which a photo, a class and the folder itself are in Latin-1."""
    (photo_folder / "None" / "000.jpg").rename(photo_folder / "None" / f"{ODD}.jpg")
    (photo_folder / "Roadwork").rename(photo_folder / os.fsdecode(b"Stra\xdfe"))
    return photo_folder.rename(photo_folder.parent / ODD)


NAMES = [
    b"M\xfcnchen.jpg",
    b"M\\xfcnchen.jpg",  # what the first is shown as, as a name of its own
    b"M\\x5cxfcnchen.jpg",
    "M\u00fcnchen \u8857.jpg".encode() + b"\xc3\x28",
    "\u8857\u9053\u8868.jpg".encode("shift-jis"),
    b"\\x8\xfc",
    b"\\\\\xfc",
    b"plain \\x41 name.jpg",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_as_text_leads_back_to_the_file_beside_all_others(tmp_path, name):
    for other in NAMES:
        Path(os.fsdecode(os.fsencode(tmp_path / "x")[:-1] + other)).write_bytes(other)
    text = path_text(tmp_path / os.fsdecode(name))
    assert text.encode().decode() == text
    assert Path(text_path(text)).read_bytes() == name


def test_names_that_are_text_stay_as_they_are(tmp_path):
    for name in ("M\u00fcnchen.jpg", "\u8857.jpg", "a b", "C:\\photos\\a.jpg"):
        assert path_text(name) == text_path(name) == shown(name) == name
    assert shown("caption \ud83d") == "caption \\ud83d"  # half of a pair, as JSON may hold it


def test_photos_and_classes_are_read_and_shown_with_escapes(odd_folder):
    rows = load_rows(str(odd_folder))
    assert rows.label_names == ["None", "Stra\\xdfe"]
    assert "None/M\\xfcnchen.jpg" in rows.data["id"][:]
    assert len(rows.data) == 48
    names, photos = find_photos(str(odd_folder))
    assert len(names) == len(photos) == 48
    assert any(name.endswith("/M\\xfcnchen/None/M\\xfcnchen.jpg") for name in names)
    assert find_photos(f"{odd_folder}/*/{ODD}*")[0] == find_photos(f"{odd_folder}/None/{ODD}.jpg")[0]
    for own in (read_unlabelled(str(odd_folder), {}), read_labelled(str(odd_folder), rows.label_names, {})):
        assert sorted(own.rows["id"][:]) == sorted(rows.data["id"][:])


def test_splits_hold_the_photos_themselves_and_pass_their_check(odd_folder, tmp_path):
    save(split_photos([str(odd_folder)]), tmp_path / "splits")
    assert {path.name for path in (tmp_path / "splits").iterdir()} >= {"splits.json", "train", "val_test"}
    assert not (tmp_path / "splits" / "photos").exists()
    report = check(tmp_path / "splits")
    assert not report.violations
    again = load_rows(str(tmp_path / "splits"))
    found = {row["id"]: row["image"] for part in again.data.values() for row in part}
    assert found["None/M\\xfcnchen.jpg"]["bytes"] == (odd_folder / "None" / f"{ODD}.jpg").read_bytes()
    assert found["None/M\\xfcnchen.jpg"]["path"] == "M\\xfcnchen.jpg"


def test_a_broken_photo_is_named_with_escapes(odd_folder):
    (odd_folder / "None" / f"{ODD}.jpg").write_bytes(b"no photo")
    assert load_rows(str(odd_folder), broken_photos="skip").broken[0].id == "None/M\\xfcnchen.jpg"
    with pytest.raises(UserError, match=r"1 of 48 photos cannot be read: None/M\\xfcnchen.jpg \(not a photo"):
        load_rows(str(odd_folder))


@pytest.mark.parametrize(("kind", "written"), [("csv", "escaped"), ("jsonl", "escaped"), ("jsonl", "surrogates")])
def test_a_table_names_them_as_predict_shows_them_and_as_python_writes_json(photo_folder, kind, written):
    (photo_folder / "None" / "000.jpg").rename(photo_folder / "None" / f"{ODD}.jpg")
    files = sorted(path.relative_to(photo_folder) for path in photo_folder.rglob("*.jpg"))
    names = [path_text(file) if written == "escaped" else str(file) for file in files]
    with open(photo_folder / f"labels.{kind}", "w", newline="") as file:
        if kind == "csv":
            csv.writer(file).writerows([("image_path", "label"), *((n, n.split("/")[0]) for n in names)])
        else:
            file.writelines(json.dumps({"image_path": n, "label": n.split("/")[0]}) + "\n" for n in names)
    rows = load_rows(str(photo_folder))
    assert len(rows.data) == 48
    assert "None/M\\xfcnchen.jpg" in rows.data["id"][:]


def test_half_a_letter_in_a_caption_is_no_traceback(photo_folder):
    lines = [{"image_path": f"{n}/{i:03d}.jpg", "label": n} for n in ("None", "Roadwork") for i in range(24)]
    lines[0]["caption"] = "cut \ud83d"
    (photo_folder / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert load_rows(str(photo_folder)).data["caption"][0] == "cut \\ud83d"


def test_places_that_libraries_read_or_write_are_refused_in_one_line(photo_folder, tmp_path):
    rows = load_rows(str(photo_folder)).data
    for name in ("a.parquet", "saved"):
        target = tmp_path / name
        rows.to_parquet(target) if name.endswith("parquet") else rows.save_to_disk(target)
        (tmp_path / ODD).mkdir(exist_ok=True)
        target.rename(tmp_path / ODD / name)
        with pytest.raises(UserError, match=rf"M\\xfcnchen/{name}: expected a name in UTF-8, found byte \\xfc"):
            load_rows(str(tmp_path / ODD / name))
    with pytest.raises(UserError, match=r"run M\\xfcnchen: expected a name in UTF-8, found byte \\xfc"):
        check_writable(tmp_path / f"run {ODD}", "output_dir")
    check_writable(tmp_path / ODD, "--output", any_name=True)
