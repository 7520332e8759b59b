"""Which table of a folder gives the labels: it is used and named, or refused with its name; none is overlooked."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from photo_sources import COLOURS, NAMES, refused

from natix_hf.data.own_photos import have_labels
from natix_hf.data.sources.rows import load_rows


@pytest.fixture
def cameras(photo_folder) -> tuple[Path, list[tuple[str, str]]]:
    """48 photos in the folders of two cameras, and (path, class) of each."""
    found = []
    for i, photo in enumerate(sorted(photo_folder.rglob("*.jpg"))):
        (photo_folder / f"cam{i % 2}").mkdir(exist_ok=True)
        name = f"cam{i % 2}/{photo.parent.name.lower()}_{photo.name}"
        photo.rename(photo_folder / name)
        found.append((name, photo.parent.name))
    for name in NAMES:
        (photo_folder / name).rmdir()
    return photo_folder, found


def lines(found, mark: str = ",", header=("image_path", "label")) -> str:
    return "\n".join(mark.join(row) for row in ([header] if header else []) + list(found)) + "\n"


def heard(source, **options) -> tuple[dict[str, str], list[str]]:
    """id -> class, and the lines that a user sees first."""
    said: list[str] = []
    rows = load_rows(source, say=said.append, **options)
    return {i: rows.label_names[label] for i, label in zip(rows.data["id"][:], rows.data["label"][:])}, said


def test_the_first_line_names_the_classes_with_their_counts(photo_folder, make_photos, tmp_path):
    (photo_folder / "None" / "000.jpg").unlink()
    first = ["2 classes: None 23, Roadwork 24", f"labels: class folders of {photo_folder}"]
    assert heard(photo_folder)[1] == first
    named = ["3 classes: None 23, Roadwork 24, Closed 0", f"labels: class folders of {photo_folder}"]
    assert heard(photo_folder, label_names=[*NAMES, "Closed"])[1] == named
    many = make_photos(tmp_path / "many", {f"c{i:02d}": (5 * i, 90, 90) for i in range(23)}, 1)
    assert heard(many)[1][0].endswith("c18 1, c19 1 and 3 more")
    for seed, split in enumerate(("train", "test")):
        make_photos(tmp_path / "parted" / split, COLOURS, 6, seed=seed)
    both = heard([photo_folder, tmp_path / "parted"])[1]
    parted = f"labels: class folders of {tmp_path / 'parted'} (test 12, train 12)"
    assert both == ["2 classes: None 35, Roadwork 36", first[1], parted]


@pytest.mark.parametrize(
    "name", ["labels.CSV", "labels.tsv", "Labels.Txt", "labels.json", "labels.JSONL", "labels.ndjson"]
)
def test_a_table_over_folders_gives_the_labels_whatever_its_type(name, cameras):
    folder, found = cameras
    records = [{"image_path": path, "label": label} for path, label in found]
    if name.lower().endswith(".json"):
        (folder / name).write_text(json.dumps(records, indent=1))
    elif "json" in name.lower():
        (folder / name).write_text("\n".join(map(json.dumps, records)))
    else:
        (folder / name).write_text(lines(found, "," if name.endswith("CSV") else "\t"))
    labels, said = heard(folder)
    assert labels == dict(found)
    assert said[1] == f"labels: {name} in {folder}"
    assert heard(folder / name)[0] == dict(found)


def test_a_table_with_an_upper_case_ending_may_be_parquet_or_metadata(cameras):
    folder, found = cameras
    table = pa.table({"image_path": [path for path, _ in found], "label": [label for _, label in found]})
    pq.write_table(table, folder / "Rows.PARQUET")
    assert heard(folder)[0] == dict(found)
    (folder / "Rows.PARQUET").unlink()
    (folder / "Metadata.CSV").write_text(lines(found))
    assert heard(folder)[0] == dict(found)


def test_tables_that_cannot_be_read_but_name_the_photos_are_refused(cameras):
    folder, found = cameras
    names = "".join(f"<si><t>{path}</t></si>" for path, _ in found)
    for name, content, words in (
        ("labels.json", json.dumps(dict(found)), "neither a list of records"),
        ("labels.json", json.dumps({"labels": found}, indent=1), "neither a list of records"),
        ("labels.txt", lines(found, " ", None), "not a header: write image_path,label above it"),
        ("labels.csv", lines(found, ",", None), "not a header: write image_path,label above it"),
        (
            "labels.csv",
            lines(found, ",", ("photo", "class")),
            "it has photo, class: rename one, or set image_column_name",
        ),
        (
            "labels.csv",
            lines(found, ",", ("photo", "label")),
            "it has photo, label: rename one, or set image_column_name",
        ),
        ("labels.csv", lines([(p[5:-4], c) for p, c in found], ",", ("id", "class")), "it has id, class: rename one"),
        ("labels.csv", lines([(p, c, c) for p, c in found], ",", ("image_path", "label", "label ")), "called 'label'"),
        (
            "labels.csv",
            lines([("/gone/" + p, c) for p, c in found]),
            "none of its 48 photos exists, the first would be",
        ),
        ("labels.xls", lines(found), "a spreadsheet that names these photos: save it as CSV"),
    ):
        (folder / name).write_text(content)
        line = refused(folder)
        assert line.startswith(f"{folder / name}: ")
        assert words in line
        (folder / name).unlink()
    with zipfile.ZipFile(folder / "labels.xlsx", "w") as sheet:
        sheet.writestr("xl/sharedStrings.xml", f"<sst>{names}</sst>")
    assert "labels.xlsx: a spreadsheet that names these photos: save it as CSV" in refused(folder)
    assert "a spreadsheet: save it as CSV" in refused(folder / "labels.xlsx")


def test_other_tables_beside_class_folders_are_passed_over_and_named(photo_folder):
    (photo_folder / "weather.csv").write_text("day,rain\nmonday,3\n")
    (photo_folder / "predicted.csv").write_text("file,label,p_None,p_Roadwork,error\n000.jpg,None,0.9,0.1,\n")
    scored = {"file": "000.jpg", "label": "None", "probabilities": {"None": 0.9, "Roadwork": 0.1}}
    (photo_folder / "predicted.jsonl").write_text(json.dumps(scored))
    (photo_folder / "README.txt").write_text("Photos of 2025, see 000.jpg\n")
    (photo_folder / "classes.txt").write_text("None\nRoadwork\n")
    (photo_folder / "info.json").write_text('{"year": 2025}')
    (photo_folder / "notes.xlsx").write_bytes(b"PK")
    (photo_folder / "None" / "gps.csv").write_text("file,lat\n000.jpg,3\n")
    (photo_folder / "None" / "000.json").write_text('{"image_path": "000.jpg", "label": "x"}')
    (photo_folder / "None" / "000.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    run = photo_folder / "runs" / "probe" / "predictions"
    run.mkdir(parents=True)
    pq.write_table(pa.table({"id": ["None/000.jpg"], "label": [0]}), run / "val_test.parquet")
    (run / "broken.parquet").write_bytes(b"half")
    labels, said = heard(photo_folder)
    assert len(labels) == 48
    assert said == [
        "2 classes: None 24, Roadwork 24",
        f"labels: class folders of {photo_folder}; ignored: None/gps.csv, notes.xlsx, "
        "runs/probe/predictions/broken.parquet and 2 more (no column of photos); ignored: predicted.csv, "
        "predicted.jsonl (written by natix_hf.predict)",
    ]


def test_a_stray_parquet_is_named_where_it_cannot_be_passed_over(photo_folder):
    pq.write_table(pa.table({"id": ["None/000.jpg"], "label": [0]}), photo_folder / "rows.parquet")
    assert refused(photo_folder).startswith(f"{photo_folder / 'rows.parquet'}: no column 'image', 'image_path' or")
    inside = [{"bytes": (photo_folder / "None" / "000.jpg").read_bytes(), "path": "a.jpg"}] * 2
    pq.write_table(pa.table({"image": inside, "label": NAMES}), photo_folder / "rows.parquet")
    line = refused(photo_folder)
    assert "two sources of labels: rows.parquet with photos inside, and folders of photos (None, Roadwork)" in line


def test_a_table_of_some_photos_says_how_many_it_leaves_unused(cameras):
    folder, found = cameras
    (folder / "labels.csv").write_text(lines(found[12:36]))
    first = min(path for path, _ in [*found[:12], *found[36:]])
    for source, name in ((folder, f"labels.csv in {folder}"), (folder / "labels.csv", str(folder / "labels.csv"))):
        labels, said = heard(source)
        assert labels == dict(found[12:36])
        assert said == [
            "2 classes: None 12, Roadwork 12",
            f"labels: {name}; 24 of 48 photos there are not listed in it and are not used ({Path(first).name}, ...)",
        ]


def test_a_table_in_one_class_folder_does_not_replace_the_folders(photo_folder):
    rows = [(f"{i:03d}.jpg", ("cone", "barrier")[i % 2]) for i in range(24)]
    (photo_folder / "Roadwork" / "metadata.csv").write_text(lines(rows, ",", ("file_name", "label")))
    line = refused(photo_folder)
    assert "two sources of labels: Roadwork/metadata.csv for the photos beside it, and folders for 24 others" in line
    assert f"name it as dataset_name, such as {photo_folder / 'Roadwork' / 'metadata.csv'}" in line
    assert set(heard(photo_folder / "Roadwork")[0].values()) == {"cone", "barrier"}


@pytest.mark.parametrize("second", ["metadata.jsonl", "labels.csv", "labels.TSV", "rows.parquet", "cam0/metadata.csv"])
def test_two_tables_are_refused_with_both_names(second, cameras):
    folder, found = cameras
    (folder / "metadata.csv").write_text(lines(found, ",", ("file_name", "label")))
    if second.endswith("jsonl"):
        (folder / second).write_text("\n".join(json.dumps({"file_name": p, "label": n}) for p, n in found))
    elif second.endswith("parquet"):
        pq.write_table(
            pa.table({"image_path": [p for p, _ in found], "label": [n for _, n in found]}), folder / second
        )
    else:
        (folder / second).write_text(lines(found, "\t" if second.endswith("TSV") else ","))
    both = ", ".join(sorted(("metadata.csv", second)))
    assert f"several tables ({both}) could give the labels: name one as dataset_name" in refused(folder)


def test_one_table_in_each_folder_and_one_table_a_split(tmp_path, make_photos):
    for seed, split in enumerate(("Train", "Test")):
        made = make_photos(tmp_path / "made" / split, COLOURS, 6, seed=seed)
        rows = [(photo.relative_to(made).as_posix(), photo.parent.name) for photo in sorted(made.rglob("*.jpg"))]
        (made / "metadata.csv").write_text(lines(rows, ",", ("file_name", "label")))
        listed = [(f"{split}/{path}", label) for path, label in rows]
        (tmp_path / "made" / f"{split.lower()}.csv").write_text(lines(listed))
    beside = shutil.copytree(tmp_path / "made", tmp_path / "beside")
    for split in ("Train", "Test"):
        (tmp_path / "made" / f"{split.lower()}.csv").unlink()
        (beside / split / "metadata.csv").unlink()
    for folder in (tmp_path / "made", beside):
        rows = load_rows(folder)
        assert len(rows.data) == 24
        assert rows.label_names == NAMES
        assert {(origin, i.split("/")[0]) for origin, i in zip(rows.data["origin"][:], rows.data["id"][:])} == {
            ("train", "Train"),
            ("test", "Test"),
        }


def test_a_table_that_tells_excel_what_divides_it(cameras):
    folder, found = cameras
    (folder / "labels.csv").write_text("sep=;\r\n" + lines(found, ";"))
    assert heard(folder)[0] == dict(found)


@pytest.mark.parametrize("mark", [", ", ";", " ; ", "\t", " | "])
@pytest.mark.parametrize("header", [("image_path", "label"), ("image_path ", " label ")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_spaces_dividers_and_encodings_of_tables(mark, header, encoding, cameras):
    folder, found = cameras
    quoted = [(path, label, f'"a{mark}b ü"') for path, label in found]
    text = lines(quoted, mark, (*header, "note")).replace("\n", "\r\n" if encoding == "utf-16" else "\n")
    (folder / "labels.csv").write_bytes(text.encode(encoding))
    assert heard(folder)[0] == dict(found)
    assert load_rows(folder).data["note"][0] == f"a{mark}b ü"


def test_paths_of_windows_are_read_where_they_can_be_and_else_refused(cameras):
    folder, found = cameras
    (folder / "labels.csv").write_text(lines([(path.replace("/", "\\"), label) for path, label in found]))
    assert heard(folder)[0] == dict(found)
    for front, words in (
        ("C:\\Users\\me\\", "a Windows path: write paths relative to the table's folder"),
        ("D:/photos/", "a Windows path"),
        ("\\\\server\\photos\\", "a Windows path"),
        ("https://example.org/", "a URL: download the photos and write their paths"),
        ("s3://bucket/", "a URL"),
        ("file:///photos/", "a URL"),
    ):
        (folder / "labels.csv").write_text(lines([(front + path, label) for path, label in found]))
        line = refused(folder)
        assert words in line
        assert line.startswith(f"{folder / 'labels.csv'}: column 'image_path' has ")
        (folder / "labels.csv").unlink()
        pq.write_table(
            pa.table({"image": [front + p for p, _ in found], "label": [n for _, n in found]}), folder / "r.parquet"
        )
        assert words in refused(folder)
        (folder / "r.parquet").unlink()


def test_a_table_in_latin_1_is_refused_with_the_cause(cameras):
    folder, found = cameras
    text = lines([*found, ("cam0/straße.jpg", "None")])
    for name in ("labels.csv", "labels.txt"):
        (folder / name).write_bytes(text.encode("latin-1"))
        line = refused(folder)
        assert "cannot be read as" in line
        assert "(line 50 has the byte 0xdf, perhaps a letter in Latin-1 or Windows-1252): save it in UTF-8" in line
        (folder / name).unlink()
    (folder / "labels.csv").write_bytes(lines(found).encode("utf-16-le"))  # without a mark
    assert heard(folder)[0] == dict(found)


def test_a_column_that_the_first_json_record_lacks_is_kept(cameras):
    folder, found = cameras
    records = [
        {"image_path": path, "label": label} | ({"street": "a"} if i else {}) for i, (path, label) in enumerate(found)
    ]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert load_rows(folder).data["street"][:3] == [None, "a", "a"]
    (folder / "labels.jsonl").write_text("\n".join(json.dumps(row | {"image_path": 3}) for row in records))
    assert "column 'image_path': expected the path of a photo, found 3 (row 0)" in refused(folder)


def test_photos_without_labels_are_told_by_the_same_tables(cameras):
    folder, found = cameras
    assert have_labels(str(folder))
    for column in ("image_path", "photo"):
        (folder / "labels.TSV").write_text(lines(found, "\t", (column, "street")))
        assert not have_labels(str(folder), image_column_name=column)
