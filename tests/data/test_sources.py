"""Any usual form of a data set becomes the same rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, DatasetDict, Features, Image, List, Value
from photo_sources import NAMES, as_dataset, listed, write_csv
from split_rows import split_rows

from natix_hf.data.sources.rows import OWN, load_rows
from natix_hf.data.splits.cut import SPLITS


def flat(folder: Path, sub: str = "images") -> list[tuple[str, str]]:
    """The photos of class folders moved into one; (file name, class) of each."""
    found = []
    (folder / sub).mkdir(exist_ok=True)
    for path, name in listed(folder):
        (folder / path).rename(folder / sub / f"{name}-{Path(path).name}")
        found.append((f"{name}-{Path(path).name}", name))
    for name in NAMES:
        (folder / name).rmdir()
    return found


def labels_by_name(rows) -> dict[str, str]:
    names = rows.label_names
    return {i: names[label] for i, label in zip(rows.data["id"][:], rows.data["label"][:])}


def check_form(rows, count: int = 48) -> None:
    """What holds for the rows of every source."""
    data = rows.data
    assert set(OWN) <= set(data.column_names)
    assert len(data) == count == len(set(data["id"][:])) == len(set(data["fingerprint"][:]))
    assert data.features["image"] == Image(decode=False)
    assert data.features["label"] == ClassLabel(names=NAMES)
    assert set(data["width"][:]) == {64}
    assert set(data["height"][:]) == {48}
    assert data["label"][:].count(0) == data["label"][:].count(1) == count // 2
    assert rows.broken == []


def test_class_folders(photo_folder):
    rows = load_rows(photo_folder)
    check_form(rows)
    assert labels_by_name(rows) == dict(listed(photo_folder))
    assert rows.data["group"][0] == "row:None/000.jpg"
    assert set(rows.data["origin"][:]) == {"all"}


def test_class_folders_take_photos_from_below_and_leave_other_files_alone(photo_folder):
    (photo_folder / "None" / "day 2").mkdir()
    shutil.move(photo_folder / "None" / "000.jpg", photo_folder / "None" / "day 2" / "000.jpg")
    (photo_folder / "None" / ".hidden.jpg").write_bytes(b"")
    (photo_folder / "notes.txt").write_text("none")
    rows = load_rows(photo_folder)
    check_form(rows)
    assert labels_by_name(rows)["None/day 2/000.jpg"] == "None"


def test_class_folders_below_folders_of_splits_keep_the_origin(photo_folder, make_photos):
    for k, split in enumerate(("train", "test")):
        make_photos(photo_folder.parent / "parted" / split, {"None": (90, 90, 90), "Roadwork": (9, 9, 9)}, 12, seed=k)
    rows = load_rows(photo_folder.parent / "parted")
    check_form(rows)
    assert sorted(set(rows.data["origin"][:])) == ["test", "train"]
    assert rows.data["id"][0].startswith("test/None/")


def test_four_splits_in_folders_come_back_as_they_are(tmp_path, make_photos):
    for k, split in enumerate(SPLITS):
        make_photos(tmp_path / "four" / split, {"None": (90, 90, 90), "Roadwork": (9, 9, 9)}, 4, seed=k)
    rows = load_rows(tmp_path / "four")
    assert isinstance(rows.data, DatasetDict)
    assert {split: set(part["origin"][:]) for split, part in rows.data.items()} == {s: {s} for s in SPLITS}
    locked = split_rows(rows)
    assert locked.sizes == dict.fromkeys(SPLITS, 8)
    assert all(i.startswith("val_test/") for i in locked.description.ids["val_test"])


def test_a_csv_beside_images_keeps_the_class_called_none(photo_folder):
    found = flat(photo_folder)
    write_csv(photo_folder / "anything.csv", "image_path,label", found)
    rows = load_rows(photo_folder)
    check_form(rows)
    assert labels_by_name(rows) == {f"images/{name}": label for name, label in found}
    assert load_rows(photo_folder / "anything.csv").data["id"][:] == rows.data["id"][:]


def test_a_csv_may_hold_numbers_and_paths_from_its_own_folder(photo_folder):
    found = [(path, NAMES.index(name)) for path, name in listed(photo_folder)]
    write_csv(photo_folder / "labels.csv", "image_path,label", found)
    rows = load_rows(photo_folder, label_names=NAMES)
    check_form(rows)
    assert labels_by_name(rows) == dict(listed(photo_folder))
    assert load_rows(photo_folder).label_names == ["0", "1"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_metadata_beside_the_photos_keeps_the_class_called_none(photo_folder, form):
    found = flat(photo_folder, sub=".")
    columns = {"file_name": [name for name, _ in found], "label": [label for _, label in found], "n": list(range(48))}
    columns["camera"] = [None if i % 5 == 0 else f"cam {i % 5}" for i in range(48)]
    path = photo_folder / f"metadata.{form}"
    lines = [dict(zip(columns, values)) for values in zip(*columns.values())]
    if form == "csv":
        write_csv(path, ",".join(columns), [["" if v is None else v for v in line.values()] for line in lines])
    elif form == "jsonl":
        path.write_text("\n".join(map(json.dumps, lines)))
    else:
        pq.write_table(pa.table(columns), path)
    rows = load_rows(photo_folder, group_column="camera")
    check_form(rows)
    assert labels_by_name(rows) == dict(found)
    assert rows.data["n"][:] == list(range(48))
    assert rows.data["group"][:6] == [f"row:{found[0][0]}", "cam 1", "cam 2", "cam 3", "cam 4", f"row:{found[5][0]}"]
    assert rows.data["camera"][:2] == [None, "cam 1"]


def test_parquet_with_paths(photo_folder):
    found = listed(photo_folder)
    table = pa.table({"image_path": [path for path, _ in found], "label": [name for _, name in found]})
    pq.write_table(table, photo_folder / "rows.parquet")
    rows = load_rows(photo_folder)
    check_form(rows)
    assert labels_by_name(rows) == dict(found)


@pytest.mark.parametrize("kind", ["struct", "bytes"])
def test_parquet_with_the_photos_inside(photo_folder, tmp_path, kind):
    found = listed(photo_folder)
    contents = [(photo_folder / path).read_bytes() for path, _ in found]
    inside = (
        contents if kind == "bytes" else [{"bytes": c, "path": Path(p).name} for c, (p, _) in zip(contents, found)]
    )
    for shard in range(2):
        table = pa.table({"image": inside[shard::2], "label": [name for _, name in found][shard::2]})
        (tmp_path / "shards").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "shards" / f"train-{shard:05d}-of-00002.parquet")
    rows = load_rows(tmp_path / "shards")
    check_form(rows)
    assert set(rows.data["origin"][:]) == {"train"}
    assert rows.data["id"][:] == rows.data["fingerprint"][:]  # the names inside repeat: 000.jpg of each class
    locked = split_rows(rows)
    train = locked.rows("training", step="train")
    assert train["id"][:] == locked.description.ids["train"]
    assert train[0]["image"]["bytes"] in contents


def test_saved_to_disk_one_or_several_splits(photo_folder, tmp_path):
    data = as_dataset(photo_folder).cast_column("label", ClassLabel(names=NAMES))
    data.save_to_disk(tmp_path / "one")
    check_form(load_rows(tmp_path / "one"))
    DatasetDict({"train": data.select(range(0, 48, 2)), "test": data.select(range(1, 48, 2))}).save_to_disk(
        tmp_path / "two"
    )
    rows = load_rows(tmp_path / "two")
    check_form(rows)
    assert sorted(set(rows.data["origin"][:])) == ["test", "train"]
    four = {split: data.select(range(k, 48, 4)) for k, split in enumerate(SPLITS)}
    DatasetDict(four).save_to_disk(tmp_path / "four")
    assert sorted(load_rows(tmp_path / "four").data) == sorted(SPLITS)
    assert not list((tmp_path / "one").glob("cache*"))  # reading leaves nothing in the user's folder


def test_a_dataset_object_shuffled_and_formatted(photo_folder):
    data = as_dataset(photo_folder).shuffle(seed=0).with_format("numpy")
    rows = load_rows(data, label_names=NAMES)
    check_form(rows)
    assert labels_by_name(rows) == {
        fingerprint: NAMES[label] for fingerprint, label in zip(rows.data["fingerprint"][:], data["label"][:].tolist())
    }


def test_the_sources_own_unique_ids_are_kept_as_text(photo_folder):
    rows = load_rows(as_dataset(photo_folder, id=list(range(100, 148))), label_names=NAMES)
    assert rows.data["id"][:3] == ["100", "101", "102"]
    assert "source_id" not in rows.data.column_names


def test_ids_that_start_anew_in_each_part_get_its_name(photo_folder):
    data = as_dataset(photo_folder, id=[*range(24), *range(24)])
    parts = DatasetDict({"train": data.select(range(24)), "test": data.select(range(24, 48))})
    rows = load_rows(parts, label_names=NAMES)
    assert rows.data["id"][:] == [f"{part}/{i}" for part in ("train", "test") for i in range(24)]


def test_ids_with_gaps_and_columns_named_as_ours_are_kept_beside_ours(photo_folder):
    data = as_dataset(photo_folder, id=[None, *range(47)], origin=["web"] * 48, source=["x"] * 48, width=[1] * 48)
    rows = load_rows(data, label_names=NAMES)
    assert rows.data["id"][:] == rows.data["fingerprint"][:]
    assert rows.data["source_id"][:3] == [None, 0, 1]
    assert set(rows.data["source_origin"][:]) == {"web"}
    assert set(rows.data["source_source"][:]) == {"x"}
    assert set(rows.data["source"][:]) == {"all"}
    assert set(rows.data["width"][:]) == {64}


def test_rows_of_the_same_photo_get_ids_that_do_not_depend_on_order(photo_folder):
    data = as_dataset(photo_folder)
    double = DatasetDict({"a": data, "b": data})
    first = load_rows(double, label_names=NAMES).data
    second = load_rows(DatasetDict({"b": double["b"], "a": double["a"].shuffle(seed=0)}), label_names=NAMES).data
    assert len(set(first["id"][:])) == 96
    assert set(zip(first["id"][:], first["origin"][:])) == set(zip(second["id"][:], second["origin"][:]))


def test_groups_from_flat_names_with_dots_and_from_structs(photo_folder):
    videos = [None if i % 4 == 0 else f"v{i // 6}" for i in range(48)]
    flat_names = load_rows(
        as_dataset(photo_folder, **{"video_info.vid_id": videos}), group_column="video_info.vid_id", label_names=NAMES
    )
    structs = load_rows(
        as_dataset(photo_folder, video_info=[{"vid_id": v} for v in videos]),
        group_column="video_info.vid_id",
        label_names=NAMES,
    )
    expected = [v or f"row:{i}" for v, i in zip(videos, flat_names.data["id"][:])]
    assert flat_names.data["group"][:] == structs.data["group"][:] == expected
    assert flat_names.data["video_info.vid_id"][:] == videos


def test_rows_read_twice_are_the_same(photo_folder, tmp_path):
    rows = load_rows(
        as_dataset(photo_folder, camera=[i // 4 for i in range(48)]), group_column="camera", label_names=NAMES
    )
    rows.data.save_to_disk(tmp_path / "again")
    again = load_rows(tmp_path / "again", group_column="group")
    for column in ("id", "label", "group", "fingerprint"):
        assert again.data[column][:] == rows.data[column][:]


def test_worker_processes_change_nothing(photo_folder):
    one = load_rows(photo_folder, num_proc=1)
    two = load_rows(photo_folder, num_proc=2)
    assert one.data.to_dict() == two.data.to_dict()


def test_other_photo_columns_stay_undecoded(photo_folder):
    rows = load_rows(
        as_dataset(photo_folder, mask=["absent.png"] * 48, tags=[["a"]] * 48).cast_column("mask", Image()),
        label_names=NAMES,
    )
    assert rows.data[0]["mask"] == {"bytes": None, "path": "absent.png"}
    assert rows.data.features["tags"] == List(Value("string"))
    assert Features(rows.data.features)["image"] == Image(decode=False)


def test_parquet_written_by_datasets_names_photos_by_path_and_four_files_are_four_splits(photo_folder, tmp_path):
    data = as_dataset(photo_folder)
    folder = tmp_path / "four [files]"
    for k, split in enumerate(SPLITS):
        data.select(range(k, 48, 4)).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    rows = load_rows(folder, label_names=NAMES)
    assert {split: len(part) for split, part in rows.data.items()} == dict.fromkeys(SPLITS, 12)
    names = [path for path, _ in listed(photo_folder)]
    inside = [{"bytes": None, "path": path} for path in names]
    pq.write_table(pa.table({"image": inside, "label": [0, 1] * 24}), photo_folder / "rows.parquet")
    assert load_rows(photo_folder, label_names=NAMES).data["id"][:] == names


def test_linked_class_folders_are_followed_and_loops_end(photo_folder, tmp_path):
    (tmp_path / "linked").mkdir()
    for name in NAMES:
        (tmp_path / "linked" / name).symlink_to(photo_folder / name)
    (photo_folder / "None" / "loop").symlink_to(tmp_path / "linked")
    rows = load_rows(tmp_path / "linked")
    assert len(rows.data) == 48
    assert rows.label_names == NAMES
