"""Labels, groups and tags that a reader sees as one are one, in every form; labels that are no single value are
refused."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from photo_sources import COLOURS, NAMES, refused

from natix_hf.data.load_photos import load_photos
from natix_hf.data.own_photos import read_labelled, read_unlabelled
from natix_hf.data.sources.columns import as_name, differing_by_case, with_text
from natix_hf.data.sources.rows import Rows, load_rows
from natix_hf.data.splits.checking import check
from natix_hf.data.splits.cut import cut
from natix_hf.data.splits.saved_folder import save
from natix_hf.data.splits.split_options import Plan
from natix_hf.errors import UserError

FORMS = ["csv", "jsonl", "parquet", "memory"]


@pytest.fixture
def streets(tmp_path, make_photos) -> list[str]:
    """24 photos of two colours below `tmp_path`; the first half is None, the second Roadwork."""
    made = make_photos(tmp_path / "streets", COLOURS, 12)
    return [str(path) for path in sorted(made.rglob("*.jpg"))]


def written(folder: Path, form: str, columns: dict):
    """A table in one of `FORMS`; a CSV as Python and pandas write it."""
    path = folder / f"rows.{form}"
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    if form == "memory":
        columns = {"image" if name == "image_path" else name: values for name, values in columns.items()}
        return Dataset.from_dict(columns)
    if form == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(columns))
            writer.writeheader()
            writer.writerows(rows)
    elif form == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (" Roadwork ", "Roadwork"),
        ("Road  work", "Road work"),
        ("Road\u00a0work\t", "Road work"),
        ("Stra\u00dfe\u200b", "Stra\u00dfe"),
        ("\ufeffNone", "None"),
        ("Cafe\u0301", "Caf\u00e9"),
        ("Roadwork\r\n", "Roadwork"),
        (b"Roadwork", "Roadwork"),
        (1, "1"),
        (1.0, "1"),
        ("1.0", "1"),
        ("-3.00", "-3"),
        ("-0.0", "0"),
        ("1.5", "1.5"),
        ("007", "007"),
        ("007.0", "007.0"),
        ("v1.0", "v1.0"),
        ("1e5", "1e5"),
        (" ", None),
        ("", None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_a_name_has_one_writing(value, name):
    assert as_name(value) == name


def test_names_that_differ_by_case_alone_are_found():
    assert differing_by_case(["road", "None", None, "Road", "ROAD", "none"]) == [
        ["None", "none"],
        ["ROAD", "Road", "road"],
    ]
    assert differing_by_case(NAMES) == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("none", "road", "names"),
    [
        (["None", "None ", " None"], ["Roadwork", "Roadwork\t", "Roadwork"], ["None", "Roadwork"]),
        (["\u00e9tat"] * 3, ["stra\u00dfe", "stra\u00dfe\u200b", "stra\u00dfe"], ["stra\u00dfe", "\u00e9tat"]),
        (["Caf\u00e9", "Cafe\u0301", "Caf\u00e9 "], ["Roadwork"] * 3, ["Caf\u00e9", "Roadwork"]),
        (["0", "0.0", "0"], ["1", "1.0", " 1"], ["0", "1"]),
        ([0.0] * 3, [1.0] * 3, ["0", "1"]),
        ([False] * 3, [True] * 3, ["false", "true"]),
        (["False", "false", "FALSE"], ["True", "true", "TRUE"], ["false", "true"]),
    ],
)
def test_labels_that_differ_only_where_nobody_sees_it_are_one_class(form, none, road, names, streets, tmp_path):
    labels = none * 4 + road * 4
    rows = load_rows(written(tmp_path, form, {"image_path": streets, "label": labels}))
    assert sorted(rows.label_names) == sorted(names)
    found = [rows.label_names[label] for label in rows.data["label"]]
    assert len(set(found[:12])) == len(set(found[12:])) == 1
    assert found[0] != found[12]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "labels", [(0.0, 1.0), ("0.0", "1.0"), (False, True), ("False", "True"), ("None ", "Roadwork")]
)
def test_label_names_mean_the_same_in_every_form(form, labels, streets, tmp_path):
    source = written(tmp_path, form, {"image_path": streets, "label": [labels[0]] * 12 + [labels[1]] * 12})
    rows = load_rows(source, label_names=["None", " Roadwork "])
    assert rows.label_names == NAMES
    assert rows.data["label"][:] == [0] * 12 + [1] * 12
    own = read_labelled(str(source), NAMES, {}) if form != "memory" else None
    assert own is None or own.rows["label"][:] == [0] * 12 + [1] * 12


@pytest.mark.parametrize("labels", [(False, True), ("FALSE", "TRUE")])
def test_booleans_go_by_the_words_of_label_names_where_it_has_them(labels, streets):
    data = Dataset.from_dict({"image": streets, "label": [labels[0]] * 12 + [labels[1]] * 12})
    rows = load_rows(data, label_names=["True", "False"])
    assert rows.label_names == ["True", "False"]
    assert rows.data["label"][:] == [1] * 12 + [0] * 12


def test_class_folders_and_class_lists_have_one_writing_too(streets, tmp_path, make_photos):
    made = make_photos(tmp_path / "folders", {"Cafe\u0301": (9, 9, 9), "Roadwork ": (200, 90, 90)}, 3)
    assert load_rows(made).label_names == ["Caf\u00e9", "Roadwork"]
    kind = ClassLabel(names=["None", "Roadwork", "None "])
    features = Features({"image": Value("string"), "label": kind})
    numbers = [0, 2] * 6 + [1] * 12
    rows = load_rows(Dataset.from_dict({"image": streets, "label": numbers}, features=features))
    assert rows.label_names == NAMES
    assert rows.data["label"][:] == [0] * 12 + [1] * 12


def test_label_names_that_are_one_or_empty(streets):
    data = Dataset.from_dict({"image": streets, "label": [0] * 12 + [1] * 12})
    assert "names a class twice" in refused(data, label_names=["Road", "Road "])
    assert refused(data, label_names=["Road", " "]) == "label_names: 'Road', ' ' has an empty name"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "writings",
    [("vid{}", "vid{} ", " vid{}"), ("{}", "{}.0", "{} "), ("caf\u00e9 {}", "cafe\u0301 {}", "caf\u00e9  {}")],
)
def test_groups_that_differ_only_where_nobody_sees_it_are_one(form, writings, streets, tmp_path):
    groups = [writings[i % 3].format(i // 3) for i in range(24)]
    source = written(tmp_path, form, {"image_path": streets, "label": ["a"] * 12 + ["b"] * 12, "video": groups})
    found = load_rows(source, group_column="video").data["group"][:]
    assert len(set(found)) == 8
    assert [len(set(found[i : i + 3])) for i in range(0, 24, 3)] == [1] * 8
    if form != "memory":
        assert (
            len(set(read_unlabelled(str(source), {}, near_duplicates=False, group_column="video").rows["group"])) == 8
        )


def test_groups_are_one_across_sources_whatever_type_each_has(streets):
    text = Dataset.from_dict({"image": streets[::2], "label": ["a", "b"] * 6, "video": ["7.0", "8 "] * 6})
    numbers = Dataset.from_dict({"image": streets[1::2], "label": ["a", "b"] * 6, "video": [7.0, 8.0] * 6})
    rows = load_rows([text, numbers.rename_column("video", "clip")], group_column=["video", "clip"])
    assert set(rows.group_values["video"]) - {None} == set(rows.group_values["clip"]) - {None} == {"7", "8"}


def test_parts_with_whole_numbers_and_fractions_of_zero_agree(streets):
    one = Dataset.from_dict({"image": streets[::2], "label": [0] * 6 + [1] * 6, "video": [1, 2, 3] * 4})
    other = Dataset.from_dict({"image": streets[1::2], "label": [0.0] * 6 + [1.0] * 6, "video": [1.0, 2.0, None] * 4})
    rows = load_rows(DatasetDict({"train": one, "test": other}), label_names=NAMES, group_column="video")
    assert rows.data["label"][:] == ([0] * 6 + [1] * 6) * 2
    assert {group for group in rows.data["group"] if not group.startswith("row:")} == {"1", "2", "3"}


def test_values_to_hold_out_have_one_writing(streets):
    data = Dataset.from_dict(
        {"image": streets, "label": ["a", "b"] * 12, "city": ["Z\u00fcrich", "Zu\u0308rich ", "Bern"] * 8}
    )
    plan = Plan((0.4, 0.2, 0.2, 0.2), hold_out={"city": ["Zu\u0308rich"]}, test_alone=True, near_duplicates=False)
    done = cut(load_rows(data), plan)
    assert done.description.sizes["val_test"] == 16


def test_names_that_differ_by_case_alone_get_a_line(streets):
    labels = ["None", "Roadwork", "roadwork"] * 8
    data = Dataset.from_dict({"image": streets, "label": labels, "video": ["Cam 1", "cam 1", "cam 2"] * 8})
    lines: list[str] = []
    rows = load_rows(data, group_column="video", say=lines.append)
    assert rows.label_names == ["None", "Roadwork", "roadwork"]
    assert "classes that differ only in case: Roadwork, roadwork; give them one name if they are the same" in lines
    assert "groups of video that differ only in case: Cam 1, cam 1; give them one name if they are the same" in lines


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("labels", "what"),
    [
        ([["None"], ["Roadwork"]], "a list (['None'], row 0)"),
        ([[1, 0], [0, 1]], "a list ([1, 0], row 0)"),
        ([[0.9, 0.1], [0.2, 0.8]], "a list ([0.9, 0.1], row 0)"),
        ([{"name": "None"}, {"name": "Roadwork"}], "a dictionary ({'name': 'None'}, row 0)"),
        (["[1. 0.]", "[0. 1.]"], "a list ([1. 0.], row 0)"),
        (["[]", "['Roadwork']"], "a list ([], row 0)"),
        (['["None"]', '["Roadwork"]'], 'a list (["None"], row 0)'),
        (['{"a": true}', '{"a": false}'], 'a dictionary ({"a": true}, row 0)'),
        (["None", "['Roadwork', 'cone']"], "a list (['Roadwork', 'cone'], row 12)"),
        ([0.07, 0.93], "a fraction (0.07, row 0)"),
        (["0", "0.93"], "a fraction (0.93, row 12)"),
        ([0.0, 1e-6], "a fraction (1e-06, row 12)"),
    ],
)
def test_labels_that_are_no_single_value_are_refused(form, labels, what, streets, tmp_path):
    source = written(tmp_path, form, {"image_path": streets, "label": [labels[0]] * 12 + [labels[1]] * 12})
    for names in (None, NAMES):
        line = refused(source, label_names=names)
        column = f"column 'label' of {'the data set' if form == 'memory' else source}"
        assert f"{column}: expected one label per photo, a class name or an integer; found {what}: " in line


def test_names_in_brackets_and_fractions_that_are_classes_stay(streets):
    for labels in (("[other]", "(none)"), ("{x}", "none [of these]"), ("0.5", "high")):
        data = Dataset.from_dict({"image": streets, "label": [labels[0]] * 12 + [labels[1]] * 12})
        assert sorted(load_rows(data).label_names) == sorted(labels)
    halves = Dataset.from_dict({"image": streets, "label": [0.5] * 12 + [1.5] * 12})
    assert load_rows(halves, label_names=["0.5", "1.5"]).data["label"][:] == [0] * 12 + [1] * 12


def test_a_class_id_of_minus_one_is_told_as_such(streets):
    features = Features({"image": Value("string"), "label": ClassLabel(names=NAMES)})
    data = Dataset.from_dict({"image": streets, "label": [0] * 12 + [-1] * 3 + [1] * 9}, features=features)
    assert refused(data) == (
        "3 rows have no label: their class id is -1 (the first is row 12), as in the test split of many Hub data "
        "sets: label "
        "them or remove them"
    )
    assert "-1 often marks photos without a label" in refused(
        data.cast_column("label", Value("int64")), label_names=NAMES
    )


def test_a_class_without_photos_is_told_with_what_to_type(streets):
    features = Features({"image": Value("string"), "label": ClassLabel(names=["None", "Barrier", "Road work"])})
    data = Dataset.from_dict({"image": streets, "label": [0] * 12 + [2] * 12}, features=features)
    with pytest.raises(
        UserError, match=r"class 'Barrier' has 0 photos .* leave it out with --label_names None 'Road work'"
    ):
        cut(load_rows(data), Plan(near_duplicates=False))
    four = DatasetDict(
        {
            split: data.select(range(i, 24, 4))
            for i, split in enumerate(("train", "val_select", "val_calib", "val_test"))
        }
    )
    with pytest.raises(UserError, match="class 'Barrier' has 0 photos"):
        cut(load_rows(four), Plan(near_duplicates=False))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("front", ["", "data:image/jpeg;base64,"])
def test_photos_in_base64_are_told_in_few_letters(form, front, streets, tmp_path):
    texts = [front + base64.b64encode(Path(path).read_bytes()).decode() for path in streets]
    line = refused(written(tmp_path, form, {"image": texts, "label": ["a"] * 12 + ["b"] * 12}))
    assert "base64" in line
    assert (front + "/9j/")[:20] in line
    assert len(line) < 400


def test_splits_saved_with_names_in_another_writing_keep_them(streets, tmp_path):
    data = Dataset.from_dict({"image": streets, "label": ["a"] * 12 + ["b"] * 12, "video": list(range(24))})
    rows = load_rows(data, group_column="video")
    old = rows.data.cast_column("label", ClassLabel(names=["Cafe\u0301 ", "b"]))
    old = with_text(old, "group", [f"video  {i // 2}" for i in range(24)])
    done = cut(Rows(old, []), Plan((0.4, 0.2, 0.2, 0.2), near_duplicates=False))
    save(done, tmp_path / "saved")
    again = load_photos(tmp_path / "saved", near_duplicates=False)
    assert again.description.label_names == ["Cafe\u0301 ", "b"]
    assert check(tmp_path / "saved").violations == []


def test_a_row_without_a_photo_is_told_as_such(streets):
    data = Dataset.from_dict({"image": [None, *streets[1:]], "label": ["a"] * 12 + ["b"] * 12})
    assert "1 of 24 photos cannot be read: row 0 (the row has no photo" in refused(data)
