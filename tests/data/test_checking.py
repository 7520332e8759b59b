"""`check` believes nothing: leaks planted in saved splits are found whatever their certificate says."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_from_disk
from photo_files import encoded
from PIL import Image as Pillow
from PIL import ImageOps

from natix_hf.data.sources.rows import Rows
from natix_hf.data.splits.certificate import describe, read_certificate
from natix_hf.data.splits.checking import Report, check
from natix_hf.data.splits.contracts import SPLITS
from natix_hf.data.splits.groups import group_rows
from natix_hf.documents.split_certificate import Rules, SplitCertificate
from natix_hf.errors import UserError
from natix_hf.files import fingerprint_bytes
from natix_hf.scenes.photos import encode, scene

COUNTS = {"train": 12, "val_select": 6, "val_calib": 8, "val_test": 6}
FEATURES = Features(
    {name: Value("string") for name in ("id", "group", "origin", "source", "fingerprint", "city", "gps")}
    | {"label": ClassLabel(names=["None", "Roadwork"]), "image": Image(decode=False)}
    | {name: Value("int32") for name in ("width", "height")}
)
MAX = {"max_auroc": 1.0}  # for tests of other things: 32 photos of two classes may differ by chance


@pytest.fixture(scope="session")
def photos() -> list[bytes]:
    """32 streets, of a series each, so that no two are frames of one camera."""
    return [encode(scene(seed, 0, (160, 96))) for seed in range(sum(COUNTS.values()))]


def row(number: int, content: bytes, **changes) -> dict:
    image = Pillow.open(io.BytesIO(content))
    values = {
        "id": f"{number:02d}.jpg",
        "label": number % 2,
        "group": f"row:{number:02d}.jpg",
        "city": "Boston",
        "gps": None,
    }
    facts = {"width": image.width, "height": image.height, "origin": "all", "source": "all"}
    return {"image": {"bytes": content, "path": None}, "fingerprint": fingerprint_bytes(content), **facts} | (
        values | changes
    )


def write(folder: Path, splits: dict[str, list[dict]], **facts) -> Path:
    """A folder of splits as `data split` leaves it, whose certificate knows nothing of the photos' looks."""
    tables = {split: Dataset.from_list(rows, features=FEATURES) for split, rows in splits.items()}
    calib = len(splits["val_calib"]) // 2
    halves = {
        "val_calib/fit": tables["val_calib"].select(range(calib)),
        "val_calib/control": tables["val_calib"].select(range(calib, len(splits["val_calib"]))),
    }
    data = DatasetDict(tables)
    ids = [line["id"] for split in SPLITS for line in splits[split]]
    prints = [line["fingerprint"] for split in SPLITS for line in splits[split]]
    names = [line["group"] for split in SPLITS for line in splits[split]]
    grouping = group_rows(ids, {"group": names}, prints, None)
    shutil.rmtree(folder, ignore_errors=True)
    data.save_to_disk(str(folder))
    describe(tables | halves, Rows(data, []), grouping, ratios=None, seed=0, **facts).write(folder)
    return folder


def divided(photos: list[bytes]) -> dict[str, list[dict]]:
    rows = iter([row(number, content) for number, content in enumerate(photos)])
    return {split: [next(rows) for _ in range(count)] for split, count in COUNTS.items()}


def altered(content: bytes, *, mirrored: bool = False, quality: int = 60) -> bytes:
    image = ImageOps.exif_transpose(Pillow.open(io.BytesIO(content)))
    return encoded(ImageOps.mirror(image) if mirrored else image, "JPEG", quality=quality)


def test_clean_splits_pass(tmp_path, photos):
    report = check(write(tmp_path / "splits", divided(photos)), **MAX)
    assert report.violations == []
    assert report.warnings == []
    assert "photos: all 32 can be read" in report.lines
    assert "0 groups straddle two splits; ties searched again in columns, files and photos" in report.lines
    assert "copies: 0 of 12 photos of train are copies of another photo in train" in report.lines
    assert "val_calib: 0 groups straddle its parts (fit 4, control 4)" in report.lines
    assert "labels: no photo has copies with different labels" in report.lines
    assert "classes: val_test None 3, Roadwork 3" in report.lines
    assert report.lines[0] == "2 classes: None 16, Roadwork 16"
    assert report.lines[1].startswith(f"labels: the saved data set {tmp_path / 'splits'} (train 12, ")
    assert report.lines[-1] == "0 violations, 0 warnings"


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (lambda content: content, "(bytes)"),
        (lambda content: altered(content), "(near-duplicate)"),
        (lambda content: altered(content, mirrored=True, quality=90), "(near-duplicate, mirrored)"),
    ],
)
def test_a_photo_copied_into_another_split_is_found_though_the_certificate_says_nothing(tmp_path, photos, change, how):
    splits = divided(photos)
    splits["val_test"][1] = row(27, change(photos[3]))
    folder = write(tmp_path / "splits", splits)
    if how != "(bytes)":
        assert read_certificate(folder).straddling == 0
    report = check(folder, **MAX)
    assert "leak: 1 group straddles two splits" in report.violations
    assert f"leak: 03.jpg (train) and 27.jpg (val_test) show the same photo {how}" in report.violations


def test_a_leak_put_into_a_finished_folder_breaks_the_certificate_too(tmp_path, photos):
    folder = write(tmp_path / "splits", divided(photos))
    data = load_from_disk(str(folder))
    lines = data["val_test"].to_list()
    lines[1]["image"] = {"bytes": photos[3], "path": None}
    data["val_test"] = Dataset.from_list(lines, features=FEATURES)
    data.save_to_disk(str(tmp_path / "leaky"))
    shutil.copy(folder / "splits.json", tmp_path / "leaky")
    report = check(tmp_path / "leaky", **MAX)
    assert report.violations[:2] == [
        "certificate: val_test: the photos are not the ones that splits.json was made for (fingerprints differ)",
        "photos: 1 changed since the split: 27.jpg",
    ]
    assert "leak: 03.jpg (train) and 27.jpg (val_test) show the same photo (bytes)" in report.violations


def test_a_group_in_two_splits_is_found_by_its_column(tmp_path, photos):
    splits = divided(photos)
    for line in (splits["train"][0], splits["train"][1], splits["val_select"][0]):
        line["city"] = "Erie"
    for number, line in enumerate(line for lines in splits.values() for line in lines):
        line["city"] = line["city"] if line["city"] == "Erie" else f"city {number}"
    rules = Rules(group_columns=["city"], metres=None, seconds=None, near_duplicates=True)
    report = check(write(tmp_path / "splits", splits, rules=rules), **MAX)
    assert report.violations[0] == "leak: 1 group straddles two splits"
    assert report.violations[1].startswith("leak: 00.jpg (train) and 12.jpg (val_select) belong to one group, ")


def test_photos_of_one_place_in_two_splits_are_found_where_places_tie(tmp_path, photos):
    splits = divided(photos)
    for split, place in (
        ("train", "42.36000,-71.05"),
        ("val_test", "42.36009,-71.05"),
        ("val_select", "42.37,-71.05"),
    ):
        splits[split][0]["gps"] = place
    rules = Rules(group_columns=[], metres=15.0, seconds=None, near_duplicates=True, place_column="gps")
    report = check(write(tmp_path / "splits", splits, rules=rules), **MAX)
    assert report.violations == [
        "leak: 1 group straddles two splits",
        "leak: 00.jpg (train) and 26.jpg (val_test) belong to one group, row:00.jpg",
    ]


def test_a_class_missing_from_a_part_of_val_calib_is_a_warning(tmp_path, photos):
    splits = divided(photos)
    for line in splits["val_calib"][:4]:
        line["label"] = 1
    report = check(write(tmp_path / "splits", splits), **MAX)
    assert (report.violations, report.warnings) == ([], ["val_calib: its part fit has no photo of None"])


def test_copies_within_a_split_are_told_and_conflicts_of_their_labels_are_a_warning(tmp_path, photos):
    splits = divided(photos)
    splits["train"][4] = row(4, altered(photos[3]))
    report = check(write(tmp_path / "splits", splits), contact_sheet=tmp_path / "conflicts.png", **MAX)
    assert report.violations == []
    assert "copies: 1 of 12 photos of train are copies of another photo in train" in report.lines
    assert report.warnings == ["labels: 1 photo with differently labelled copies, 0 across two splits"]
    assert "labels: 03.jpg Roadwork, 04.jpg None (near-duplicate)" in report.lines
    assert Pillow.open(tmp_path / "conflicts.png").width > 600


def test_a_conflict_across_splits_is_a_violation(tmp_path, photos):
    splits = divided(photos)
    splits["val_select"][0] = row(12, photos[3])
    report = check(write(tmp_path / "splits", splits), **MAX)
    assert "labels: 1 photo with differently labelled copies, 1 across two splits" in report.violations


def test_a_broken_photo_is_named(tmp_path, photos):
    splits = divided(photos)
    splits["train"][2]["image"] = {"bytes": photos[2][:200], "path": None}
    report = check(write(tmp_path / "splits", splits), **MAX)
    assert any(line.startswith("photos: 1 of 32 cannot be read: 02.jpg (") for line in report.violations)
    assert "certificate: train: 1 rows are in splits.json but not in the data set: 02.jpg" in report.violations


@pytest.mark.parametrize("resealed", [False, True])
def test_a_certificate_edited_by_hand_is_found_even_with_a_new_seal(tmp_path, photos, resealed):
    folder = write(tmp_path / "splits", divided(photos))
    told = read_certificate(folder)
    edited = told.model_copy(update={"groups": told.groups | {"train": 11}})
    (SplitCertificate.sealed(**dict(edited)) if resealed else edited).write(folder)
    (violation,) = check(folder, **MAX).violations
    expected = "groups in splits.json differs from" if resealed else "edited by hand or damaged"
    assert expected in violation


def test_splits_without_a_certificate_are_checked_all_the_same(tmp_path, photos):
    folder = write(tmp_path / "splits", divided(photos))
    (folder / "splits.json").unlink()
    (violation,) = check(folder, **MAX).violations
    assert violation.startswith("certificate: there is no splits.json")
    in_memory = check(load_from_disk(str(folder)), **MAX)
    assert in_memory.violations == []
    assert in_memory.warnings == ["certificate: none, because these rows are in memory only"]


def test_a_class_missing_from_a_split_and_a_shifted_prior(tmp_path, photos):
    splits = divided(photos)
    for line in splits["val_test"]:
        line["label"] = 1
    for line in splits["train"][2:]:
        line["label"] = 0
    report = check(write(tmp_path / "splits", splits), **MAX)
    assert report.violations == ["classes: val_test has no photo of None (None 0, Roadwork 6)"]
    (warning,) = report.warnings
    assert warning.startswith("classes: Class shares differ between the splits, enough to matter: ")


def test_a_group_in_both_parts_of_val_calib_is_a_violation(tmp_path, photos):
    splits = divided(photos)
    splits["val_calib"][0] = row(18, altered(photos[24]))
    assert check(write(tmp_path / "splits", splits), **MAX).violations == [
        "val_calib: 1 group straddles its parts (fit 4, control 4)"
    ]


def shortcut_line(report: Report) -> str:
    return next(line for line in report.lines if "shortcut: " in line)


def test_a_class_saved_in_another_quality_is_a_shortcut(tmp_path, photos):
    splits = divided(photos)
    assert "within the limit of 1" in shortcut_line(check(write(tmp_path / "clean", splits), **MAX))
    planted = {
        split: [
            line | row(int(line["id"][:2]), altered(line["image"]["bytes"], quality=75 if line["label"] else 90))
            for line in lines
        ]
        for split, lines in splits.items()
    }
    folder = write(tmp_path / "planted", planted)
    (violation,) = check(folder).violations
    assert violation.startswith("shortcut: file facts alone predict the class with AUROC 1.000")
    assert "over the limit of 0.75; AUROC of the strongest single facts: " in violation
    assert "quantisation 1.00" in violation


def test_a_column_may_be_the_shortcut(tmp_path, photos):
    splits = divided(photos)
    for line in (line for lines in splits.values() for line in lines):
        line["city"] = "Boston" if line["label"] else "Pittsburgh"
    folder = write(tmp_path / "splits", splits)
    (violation,) = check(folder, columns=["city"]).violations
    assert "city = Boston 1.00" in violation


def test_too_few_photos_are_not_judged_by_their_files(tmp_path, photos):
    splits = {split: lines[:4] for split, lines in divided(photos).items()}
    report = check(write(tmp_path / "splits", splits))
    assert report.violations == []
    assert shortcut_line(report) == "shortcut: not measured (expected at least 30 rows, found 16)"


def test_data_without_four_splits_is_a_mistake_of_the_user(tmp_path, photos):
    folder = write(tmp_path / "splits", divided(photos))
    data = load_from_disk(str(folder))
    with pytest.raises(UserError, match=r"check needs the four splits.*data split"):
        check(DatasetDict({"train": data["train"], "test": data["val_test"]}))
    with pytest.raises(UserError, match=r"max_auroc: expected 0\.5"):
        check(folder, max_auroc=75)


def test_the_order_of_the_rows_changes_nothing(tmp_path, photos):
    splits = divided(photos)
    splits["val_test"][1] = row(27, altered(photos[3]))
    first = check(write(tmp_path / "one", splits), **MAX)
    rng = np.random.default_rng(0)
    shuffled = {
        split: [lines[i] for i in rng.permutation(len(lines))] if split != "val_calib" else lines
        for split, lines in splits.items()
    }
    second = check(write(tmp_path / "two", shuffled), **MAX)
    assert [line for line in second.violations if line.startswith("leak")] == [
        line for line in first.violations if line.startswith("leak")
    ]
