"""What is wrong with a data set is said in one line, whatever form it has."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Image, Value
from photo_sources import COLOURS, NAMES, as_dataset, listed, refused, write_csv
from split_rows import split_rows

from natix_hf.data.sources.rows import load_rows
from natix_hf.documents.figures import Left

FORMS = ("class folders", "csv", "metadata.csv", "parquet", "save_to_disk")


@pytest.fixture
def contents(tmp_path, make_photos) -> list[bytes]:
    """The bytes of 12 photos, six of each class."""
    folder = make_photos(tmp_path / "originals", COLOURS, 6)
    return [(folder / path).read_bytes() for path, _ in listed(folder)]


def write(form: str, folder: Path, contents: list[bytes], labels: list[str]) -> Path:
    """A data set of these photos in one of the forms; photo 3 is called `3.jpg` in each."""
    names = [f"{label}/{i}.jpg" if form == "class folders" else f"{i}.jpg" for i, label in enumerate(labels)]
    folder.mkdir()
    if form in ("class folders", "csv", "metadata.csv"):
        for name, content in zip(names, contents):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    inside = [{"bytes": content, "path": name} for content, name in zip(contents, names)]
    if form == "csv":
        write_csv(folder / "labels.csv", "image_path,label", zip(names, labels))
    elif form == "metadata.csv":
        write_csv(folder / "metadata.csv", "file_name,label", zip(names, labels))
    elif form == "parquet":
        pq.write_table(pa.table({"image": inside, "label": labels}), folder / "rows.parquet")
    elif form == "save_to_disk":
        data = Dataset.from_dict({"image": inside, "label": labels}).cast_column("image", Image(decode=False))
        data.save_to_disk(folder)
    return folder


LABELS = ["None"] * 6 + ["Roadwork"] * 6


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_of_these_tests_are_whole(form, contents, tmp_path):
    rows = load_rows(write(form, tmp_path / "data", contents, LABELS))
    assert len(rows.data) == 12
    assert rows.label_names == NAMES


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("part", "reason"), [(0.6, "truncated or damaged ("), (0, "the file is empty (0 bytes)")])
def test_a_photo_cut_short_in_any_form(form, part, reason, contents, tmp_path):
    contents[3] = contents[3][: int(len(contents[3]) * part)]
    source = write(form, tmp_path / "data", contents, LABELS)
    name = "None/3.jpg" if form == "class folders" else "3.jpg"
    line = refused(source)
    assert line.startswith(f"{source}: 1 of 12 photos cannot be read: {name} ({reason}")
    assert line.endswith("remove them or set broken_photos: skip")
    rows = load_rows(source, broken_photos="skip")
    assert [photo.id for photo in rows.broken] == [name]
    assert len(rows.data) == 11


@pytest.mark.parametrize("form", FORMS)
def test_one_class_in_any_form(form, contents, tmp_path):
    source = write(form, tmp_path / "data", contents, ["None"] * 12)
    one = f"{source}: all 12 photos are of one class ('None'); a classifier needs at least two"
    assert refused(source) == refused(source, label_names=NAMES) == one


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_column_in_any_form(form, contents, tmp_path):
    source = write(form, tmp_path / "data", contents, LABELS)
    assert (
        refused(source, label_column_name="class")
        == "label_column_name: no column 'class': the columns are image, label"
    )
    assert refused(source, group_column="camera") == "group_column: no column 'camera': the columns are image, label"


@pytest.mark.parametrize("form", FORMS)
def test_a_label_outside_the_mapping_in_any_form(form, contents, tmp_path):
    source = write(form, tmp_path / "data", contents, ["None"] * 6 + ["Works"] * 6)
    line = "label 'Works' (row 6) is outside label_names: expected one of 0=None, 1=Roadwork"
    assert refused(source, label_names=NAMES) == line


@pytest.mark.parametrize(("mark", "bom"), [(";", ""), ("\t", ""), (",", "\ufeff"), (";", "\ufeff")])
def test_a_csv_with_semicolons_tabs_or_a_byte_order_mark(mark, bom, photo_folder):
    found = [
        (f'"{path}"', name, "a, b") if mark != "," else (path, name, "a b") for path, name in listed(photo_folder)
    ]
    write_csv(photo_folder / "labels.csv", mark.join((f"{bom}image_path", "label", "note")), found, mark)
    rows = load_rows(photo_folder)
    assert rows.data["id"][:] == [path for path, _ in listed(photo_folder)]
    assert rows.label_names == NAMES
    assert rows.data["note"][0] == ("a, b" if mark != "," else "a b")


def test_no_rows(photo_folder, tmp_path):
    data = as_dataset(photo_folder).select([])
    assert refused(data) == "the data set: the data set has no rows"
    data.save_to_disk(tmp_path / "none")
    assert refused(tmp_path / "none") == f"{tmp_path / 'none'}: the data set has no rows"


def test_one_of_four_splits_without_rows(photo_folder):
    data = as_dataset(photo_folder)
    four = {split: data.select(range(k, 48, 4)) for k, split in enumerate(("train", "val_select", "val_calib"))}
    line = refused(DatasetDict(four | {"val_test": data.select([])}))
    assert line.startswith("the data set: its split 'val_test' is empty: add rows to it")


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("max_photo_mb", 0.0001, "MB, over max_photo_mb 0.0001: not read"),
        ("max_photo_pixels", 3071, "(64 x 48 pixels, over max_photo_pixels 3,071: not decoded)"),
    ],
)
def test_photos_over_a_limit(option, value, reason, photo_folder):
    assert reason in refused(photo_folder, **{option: value})
    large = photo_folder / "None" / "000.jpg"
    large.write_bytes(large.read_bytes() + bytes(200_000))
    rows = load_rows(photo_folder, max_photo_mb=0.1, broken_photos="skip")
    reason = f"the file has {large.stat().st_size / 1e6:.1f} MB, over max_photo_mb 0.1: not read"
    assert rows.broken == [Left(id="None/000.jpg", reason=reason)]


def test_ids_that_repeat_are_refused_with_the_first_two_rows(photo_folder):
    data = as_dataset(photo_folder, id=[*range(46), 3, 3])
    assert "the data set: rows 3 and 46 share the id '3'; ids must be unique" in refused(data, label_names=NAMES)
    parts = DatasetDict({"train": data.select(range(10)), "test": data.select([10, 11, *range(40, 48)])})
    assert "rows 8 and 9 of test share the id '3'" in refused(parts, label_names=NAMES)


def test_broken_photos_are_refused_with_their_names_or_left_out(photo_folder):
    whole = (photo_folder / "None" / "000.jpg").read_bytes()
    (photo_folder / "None" / "000.jpg").write_bytes(whole[: len(whole) // 2])
    (photo_folder / "None" / "001.jpg").write_bytes(b"")
    (photo_folder / "Roadwork" / "002.jpg").write_text("not a photo")
    (photo_folder / "Roadwork" / "phone.heic").write_bytes(whole[:100])
    message = refused(photo_folder)
    assert "4 of 49 photos cannot be read: None/000.jpg (truncated" in message
    assert "None/001.jpg (the file is empty (0 bytes))" in message
    assert message.endswith("remove them or set broken_photos: skip")
    rows = load_rows(photo_folder, broken_photos="skip")
    names = ["None/000.jpg", "None/001.jpg", "Roadwork/002.jpg", "Roadwork/phone.heic"]
    assert [photo.id for photo in rows.broken] == names
    assert len(rows.data) == 45
    assert split_rows(rows).description.broken == rows.broken


def test_a_photo_that_a_table_names_and_that_is_not_there_is_broken(photo_folder):
    found = [*listed(photo_folder), ("None/gone.jpg", "None")]
    write_csv(photo_folder / "labels.csv", "image_path,label", found)
    assert "1 of 49 photos cannot be read: None/gone.jpg (no such file)" in refused(photo_folder)


def test_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "found no photos, tables or saved data set" in refused(tmp_path / "empty")


def test_one_class_only(photo_folder):
    shutil.rmtree(photo_folder / "Roadwork")
    assert "all 24 photos are of one class ('None'); a classifier needs at least two" in refused(photo_folder)
    assert "one class ('None')" in refused(photo_folder, label_names=NAMES)


def test_photos_outside_class_folders(photo_folder):
    shutil.copy(photo_folder / "None" / "000.jpg", photo_folder / "loose.jpg")
    assert "1 photos are not in a class folder (loose.jpg" in refused(photo_folder)


@pytest.mark.parametrize(
    "name",
    [
        *("no/such/folder", "./photos", "/no/photos", "~/no photos here", "photos/", "rows.csv", "photos/rows.TSV"),
        *("photos.zip", "../photos", "labels.xlsx", "photos\\day"),
    ],
)
def test_a_path_that_is_not_there(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(name) == f"dataset_name: no such file or folder: {name}"


@pytest.mark.parametrize("name", ["photos/trian", "photoss"])
def test_a_name_that_may_be_a_path_or_of_the_hub_is_first_of_all_not_there(name, photo_folder, monkeypatch):
    monkeypatch.chdir(photo_folder.parent)
    assert refused(name).startswith(
        f"dataset_name: no such file or folder: {name}; if it is a Hub data set, it is not"
    )


def test_missing_columns_are_named_with_those_there_are(photo_folder):
    data = as_dataset(photo_folder)
    assert (
        refused(data, image_column_name="photo")
        == "image_column_name: no column 'photo': the columns are image, label"
    )
    assert (
        refused(data, label_column_name="class")
        == "label_column_name: no column 'class': the columns are image, label"
    )
    assert refused(data, group_column="video.id") == "group_column: no column 'video.id': the columns are image, label"
    assert "expected photos or paths, found Value('int64')" in refused(data, image_column_name="label")
    write_csv(photo_folder / "labels.csv", "photo,label", listed(photo_folder))
    assert "no column 'image', 'image_path' or 'file_name'" in refused(photo_folder)
    assert len(load_rows(photo_folder, image_column_name="photo").data) == 48


def test_a_label_outside_the_mapping(photo_folder):
    (photo_folder / "Roadwork").rename(photo_folder / "Works")
    assert "label 'Works' (row 24) is outside label_names" in refused(photo_folder, label_names=NAMES)


def test_tables_that_cannot_be_read(photo_folder):
    for content, words in (
        (b"", "cannot be read as csv"),
        (b"image_path,label\n", "no rows"),
        (b"image_path,label\na.jpg,None,3\n", "cannot be read as csv"),
        (b"image_path,label\na.jpg,Stra\xdfe\n", "cannot be read as csv"),
    ):
        (photo_folder / "labels.csv").write_bytes(content)
        assert words in refused(photo_folder)
    (photo_folder / "other.csv").write_text("image_path,label\n")
    assert "several tables (labels.csv, other.csv)" in refused(photo_folder)
    (photo_folder / "rows.parquet").write_bytes(b"no parquet")
    assert "as parquet" in refused(photo_folder)
    (photo_folder / "state.json").write_text("{}")
    assert "not a complete save_to_disk folder" in refused(photo_folder)
    (photo_folder / "photos.zip").write_bytes(b"")
    assert "expected a folder, or a .csv, .tsv, .txt, .jsonl, .ndjson, .json or .parquet file" in refused(
        photo_folder / "photos.zip"
    )


def test_splits_whose_columns_differ_are_named(photo_folder):
    data = as_dataset(photo_folder)
    other = data.cast_column("label", Value("string"))
    assert "its parts train, test differ in their columns" in refused(DatasetDict({"train": data, "test": other}))


def test_an_unknown_answer_to_broken_photos(photo_folder):
    assert refused(photo_folder, broken_photos="ignore") == "broken_photos: expected refuse or skip, found 'ignore'"


def test_broken_photos_inside_a_table_are_named_as_well_as_can_be(photo_folder, tmp_path):
    contents = [(photo_folder / path).read_bytes() for path, _ in listed(photo_folder)]
    inside = [{"bytes": content, "path": "same.jpg"} for content in contents]
    inside[3] = {"bytes": b"", "path": "same.jpg"}
    inside[4] = None
    data = Dataset.from_dict({"image": inside, "label": ["None", "Roadwork"] * 24})
    data.cast_column("image", Image(decode=False)).save_to_disk(tmp_path / "saved")
    message = refused(tmp_path / "saved")
    assert "2 of 48 photos cannot be read: same.jpg (the file is empty (0 bytes)), row 4 (the row has" in message
