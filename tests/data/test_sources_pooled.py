"""Several sources as one: names, classes that agree, columns, caps and weights; rows left out on purpose."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, DatasetDict, Value
from photo_sources import COLOURS, NAMES, as_dataset, refused

from natix_hf.data.sources.rows import load_rows
from natix_hf.data.splits.cut import SPLITS
from natix_hf.documents.figures import Left
from natix_hf.photos.perceptual_hashes import LOOK_BYTES, look


@pytest.fixture
def real(tmp_path, make_photos) -> Path:
    return make_photos(tmp_path / "real", COLOURS, 6, seed=1)


@pytest.fixture
def made(tmp_path, make_photos) -> Path:
    return make_photos(tmp_path / "made", COLOURS, 4, seed=2)


def test_sources_are_named_by_their_paths_or_as_the_user_says(real, made):
    rows = load_rows([real, f"t2i={made}"])
    assert Counter(rows.data["source"][:]) == {"real": 12, "t2i": 8}
    assert rows.data["id"][:2] == ["real/None/000.jpg", "real/None/001.jpg"]
    assert rows.data["id"][12] == "t2i/None/000.jpg"
    assert len(set(rows.data["id"][:])) == 20
    assert rows.data["group"][12] == "row:t2i/None/000.jpg"
    assert rows.label_names == NAMES
    assert rows.dropped == rows.broken == []


def test_one_source_has_no_prefix_and_may_have_a_name(real):
    for source, name in ((real, "all"), ([str(real)], "all"), (f"road={real}", "road"), ([f"road={real}"], "road")):
        rows = load_rows(source)
        assert rows.data["id"][0] == "None/000.jpg"
        assert set(rows.data["source"][:]) == {name}


def test_a_folder_whose_name_holds_an_equals_sign_is_that_folder(real):
    folder = real.rename(real.with_name("year=2024"))
    assert set(load_rows(folder).data["source"][:]) == {"all"}
    assert set(load_rows(f"old={folder}").data["source"][:]) == {"old"}


def test_data_sets_in_memory_are_named_by_their_place(real, made):
    rows = load_rows([as_dataset(real), as_dataset(made)], label_names=NAMES)
    assert Counter(rows.data["source"][:]) == {"source-1": 12, "source-2": 8}


def test_a_source_named_twice(real, made, tmp_path, make_photos):
    other = make_photos(tmp_path / "elsewhere" / "real", COLOURS, 2)
    line = (
        f"dataset_name: two sources are called 'real' ({real}, {other}): give them different names, such as "
        f"real-2={other}"
    )
    assert refused([real, other]) == line
    assert "two sources are called 'a'" in refused([f"a={real}", f"a={made}"])
    assert refused([f"a={real}", f"b={real}"]) == f"dataset_name: {real} is given twice, as a and b"
    assert "found an empty list" in refused([])


def test_a_source_that_is_not_there_or_empty_is_named(real, tmp_path):
    assert refused([real, f"x={tmp_path}/gone"]) == f"dataset_name: no such file or folder: {tmp_path}/gone"
    assert refused([real, as_dataset(real).select([])]) == "source source-2: the data set has no rows"


def test_sources_whose_labels_disagree(real, made, tmp_path):
    (made / "Roadwork").rename(made / "Works")
    line = (
        "sources real and made differ in their classes: None, Roadwork and None, Works: set label_names to "
        "all classes in order (integer labels are positions in it)"
    )
    assert refused([real, made]) == line
    assert "label 'Works' (row 4) is outside label_names" in refused([real, made], label_names=NAMES)
    assert refused([real, made], label_names=NAMES).startswith(f"{made}: ")
    assert load_rows([real, made], label_names=["None", "Works", "Roadwork"]).label_names[1] == "Works"


def test_numbers_and_class_labels_agree_once_label_names_says_what_they_mean(real, made):
    backwards = as_dataset(made).cast_column("label", Value("string"))
    backwards = backwards.map(lambda row: {"label": NAMES[int(row["label"])]}).cast_column(
        "label", ClassLabel(names=NAMES[::-1])
    )
    assert "0, 1 and Roadwork, None" in refused([as_dataset(real), backwards])
    rows = load_rows([as_dataset(real), backwards, f"folder={made}"], label_names=NAMES)
    assert rows.data["label"][:] == [0] * 6 + [1] * 6 + ([0] * 4 + [1] * 4) * 2


def test_one_source_may_hold_one_class(real, made):
    for path in (made / "None").iterdir():
        path.unlink()
    assert "differ in their classes" in refused([real, made])
    rows = load_rows([real, made], label_names=NAMES)
    assert rows.data["label"][:] == [0] * 6 + [1] * 10


def test_columns_that_only_some_sources_have_are_null_elsewhere(real, made):
    first = as_dataset(real, camera=list("aabbccddeeff"), n=list(range(12)), empty=[None] * 12)
    second = as_dataset(made, prompt=["cones"] * 8, n=[0.5] * 8, empty=["x"] * 8)
    rows = load_rows([first, second], label_names=NAMES, group_column="camera")
    assert rows.data["camera"][:] == [*"aabbccddeeff"] + [None] * 8
    assert rows.data["prompt"][:] == [None] * 12 + ["cones"] * 8
    assert rows.data["n"][:] == [*map(float, range(12))] + [0.5] * 8
    assert rows.data["empty"][:] == [None] * 12 + ["x"] * 8
    assert rows.group_values == {"camera": [*"aabbccddeeff"] + [None] * 8}
    assert rows.data["group"][11:13] == ["f", f"row:{rows.data['id'][12]}"]
    line = (
        "column 'n' holds int64 in source source-1 and string in source source-2: rename or remove it in one of them"
    )
    assert refused([first, second.cast_column("n", Value("string"))], label_names=NAMES) == line
    assert "no column 'video': the columns are image, label, camera" in refused([first, second], group_column="video")


def test_ids_of_two_sources_may_be_the_same(real, made):
    rows = load_rows([as_dataset(real, id=list(range(12))), as_dataset(made, id=list(range(8)))], label_names=NAMES)
    assert rows.data["id"][:] == [*(f"source-1/{i}" for i in range(12)), *(f"source-2/{i}" for i in range(8))]


def test_broken_photos_are_named_with_their_source(real, made):
    (made / "None" / "002.jpg").write_bytes(b"")
    line = f"{real} + {made}: 1 of 20 photos cannot be read: made/None/002.jpg (the file is empty"
    assert refused([real, made]).startswith(line)
    rows = load_rows([real, made], broken_photos="skip", group_column=None)
    assert rows.broken == [Left(id="made/None/002.jpg", reason="the file is empty (0 bytes)")]
    assert len(rows.data) == 19


def kept(rows) -> set[str]:
    return set(rows.data["id"][:])


def test_a_cap_keeps_the_same_rows_in_any_order(real, made):
    rows = load_rows([real, made], source_caps={"real": 5})
    assert Counter(rows.data["source"][:]) == {"real": 5, "made": 8}
    assert len(rows.dropped) == 7
    assert {photo.reason for photo in rows.dropped} == {"source_caps: real keeps 5 of its 12 rows"}
    assert kept(rows) | {photo.id for photo in rows.dropped} == kept(load_rows([real, made]))
    again = load_rows([made, real], source_caps={"real": 5})
    assert kept(again) == kept(rows)
    assert kept(load_rows([real, made], source_caps={"real": 5}, cap_seed=1)) != kept(rows)
    assert load_rows([real, made], source_caps={"real": 12, "made": 99}).dropped == []


def test_a_cap_keeps_whole_groups(real, made):
    groups = ["big"] * 6 + list("aabbcc")
    for seed in range(5):
        rows = load_rows(
            [as_dataset(real, video=groups), as_dataset(made)],
            label_names=NAMES,
            group_column="video",
            source_caps={"source-1": 7},
            cap_seed=seed,
        )
        left = Counter(name for name in rows.group_values["video"] if name)
        assert all(left[name] == groups.count(name) for name in left)
        assert sum(left.values()) <= 7
        assert rows.group_values["video"] == rows.data["video"][:]


def test_weights_are_shares_of_the_result(real, made):
    rows = load_rows([real, made], source_weights={"real": 1, "made": 2})
    assert Counter(rows.data["source"][:]) == {"real": 4, "made": 8}
    assert {photo.reason for photo in rows.dropped} == {"source_weights: real keeps 4 of its 12 rows"}
    rows = load_rows([real, made], source_weights={"real": 0.5, "made": 0.5}, source_caps={"made": 6})
    assert Counter(rows.data["source"][:]) == {"real": 6, "made": 6}


def test_caps_and_weights_that_make_no_sense(real, made):
    assert refused([real, made], source_caps={"t2i": 5}) == "source_caps: no source 't2i': the sources are real, made"
    assert "source_caps: expected numbers above 0" in refused([real, made], source_caps={"real": 0})
    assert "source_weights: no weight for source 'made'" in refused([real, made], source_weights={"real": 1})
    assert "source_weights: expected numbers above 0" in refused([real, made], source_weights={"real": -1, "made": 1})


def test_several_group_columns_keep_their_values_apart(real):
    video = [None, None, "1", "1", None, *["2"] * 7]
    sequence = [7, None, 7, 8, None, *[9] * 7]
    rows = load_rows(as_dataset(real, video=video, seq=sequence), label_names=NAMES, group_column=["video", "seq"])
    assert rows.group_values == {"video": video, "seq": [None if s is None else str(s) for s in sequence]}
    ids = rows.data["id"][:]
    first = ["seq=7", f"row:{ids[1]}", "video=1", "video=1", f"row:{ids[4]}", "video=2"]
    assert rows.data["group"][:6] == first
    assert load_rows(as_dataset(real), label_names=NAMES).group_values == {}


def test_each_photo_has_its_look_unless_none_is_asked_for(real):
    rows = load_rows(real)
    from PIL import Image as Pillow

    path = real / rows.data["id"][0]
    assert rows.data["look"][0] == look(Pillow.open(path).convert("RGB"))
    assert {len(value) for value in rows.data["look"][:]} == {LOOK_BYTES}
    assert rows.data.features["look"] == Value("binary")
    without = load_rows(real, looks=False)
    assert "look" not in without.data.column_names
    assert without.data.to_dict() == rows.data.remove_columns("look").to_dict()


def test_rows_whose_class_contradicts_their_description_are_dropped_and_listed(real, made):
    texts = [None, "Cones", None, None, None, None, "a", "b", "", "d", "e", "f"]
    rows = load_rows(
        [as_dataset(real, text=texts), as_dataset(made)],
        label_names=NAMES,
        description_column="text",
        group_column=None,
    )
    ids = load_rows([as_dataset(real), as_dataset(made)], label_names=NAMES).data["id"][:]
    assert rows.dropped == [
        Left(id=ids[1], reason="label None, but text says Cones"),
        Left(id=ids[8], reason="label Roadwork, but text is empty"),
    ]
    assert rows.data["id"][:] == [i for i in ids if i not in (ids[1], ids[8])]  # the other source has no such column
    other = load_rows(
        as_dataset(real, text=texts[::-1]), label_names=NAMES, description_column="text", positive_label="None"
    )
    assert len(other.dropped) == 2
    assert "no column 'story'" in refused(as_dataset(real), label_names=NAMES, description_column="story")
    assert "there are 3" in refused(real, label_names=["None", "Roadwork", "Snow"], description_column="label")


def save_split(folder: Path, target: Path) -> DatasetDict:
    """What `data split` writes: four splits with our columns, and other files beside them."""
    rows = load_rows(folder).data.remove_columns("look")
    count = len(rows)
    rows = rows.remove_columns(["id", "group", "origin", "source"])
    facts = {
        "id": [f"mine/{i}" for i in range(count)],
        "group": [f"component {i // 2}" for i in range(count)],
        "origin": ["train", "test"] * (count // 2),
        "source": ["real", "t2i"] * (count // 2),
    }
    for name, values in facts.items():
        rows = rows.add_column(name, values)
    rows = rows.add_column("gps", ["[1.0, 2.0]"] * count)
    four = DatasetDict({split: rows.select(range(k, count, 4)) for k, split in enumerate(SPLITS)})
    four.save_to_disk(target)
    for name in ("splits.json", "SPLITS.md", "README.md", "conflicts.png"):
        (target / name).write_text("{}")
    return four


def test_four_splits_that_we_saved_keep_what_they_say(real, tmp_path):
    four = save_split(real, tmp_path / "saved")
    shards = tmp_path / "pushed" / "data"
    for split, part in four.items():
        part.to_parquet(shards / f"{split}-00000-of-00001.parquet")
    for name in ("splits.json", "README.md"):
        (tmp_path / "pushed" / name).write_text("{}")
    for source in (tmp_path / "saved", tmp_path / "pushed", four):
        rows = load_rows(source)
        assert not any(name.startswith("source_") for name in rows.data["train"].column_names)
        for split in SPLITS:
            for column in ("id", "group", "origin", "source", "label", "fingerprint", "gps"):
                assert rows.data[split][column][:] == four[split][column][:]
            assert rows.group_values[split] == {"group": four[split]["group"][:]}
            assert len(rows.data[split]["look"][0]) == LOOK_BYTES


def test_a_group_column_that_the_user_names_wins_over_the_saved_groups(real, tmp_path):
    save_split(real, tmp_path / "saved")
    rows = load_rows(tmp_path / "saved", group_column="gps")
    assert set(rows.data["val_test"]["group"][:]) == {"[1.0, 2.0]"}
    assert rows.data["val_test"]["source_group"][0].startswith("component")


def test_four_splits_are_not_pooled_with_other_rows(real, made, tmp_path):
    save_split(real, tmp_path / "saved")
    line = refused([tmp_path / "saved", made])
    assert f"{tmp_path / 'saved'} has its own four splits, but {made} does not" in line
    save_split(made, tmp_path / "second")
    rows = load_rows([tmp_path / "saved", f"new={tmp_path / 'second'}"])
    assert {split: len(part) for split, part in rows.data.items()} == dict.fromkeys(SPLITS, 5)
    assert rows.data["train"]["id"][:] == ["saved/mine/0", "saved/mine/4", "saved/mine/8", "new/mine/0", "new/mine/4"]
    assert rows.data["train"]["source"][:] == ["saved"] * 3 + ["new"] * 2
    assert rows.data["train"]["source_source"][:] == ["real"] * 5


def test_worker_processes_change_nothing_of_several_sources(real, made):
    one = load_rows([real, made], num_proc=1)
    two = load_rows([real, made], num_proc=2)
    assert one.data.to_dict() == two.data.to_dict()
    assert np.unique(one.data["look"][:]).size == 20
