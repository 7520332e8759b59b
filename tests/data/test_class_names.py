"""Numbers that stand for names (`ClassLabel`, dictionaries of Arrow) mean what their own file says, in every form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from photo_sources import COLOURS, NAMES, refused

from natix_hf.data.sources.columns import column_values
from natix_hf.data.sources.metadata import category
from natix_hf.data.sources.rows import load_rows
from natix_hf.data.sources.stacking import stacked
from natix_hf.data.splits.cut import cut
from natix_hf.data.splits.split_options import Plan
from natix_hf.errors import UserError

BACK = NAMES[::-1]


@pytest.fixture
def streets(tmp_path, make_photos) -> list[tuple[str, bytes, str]]:
    """(file name, bytes, class) of 24 photos; the name tells the class."""
    folder = make_photos(tmp_path / "made", COLOURS, 12)
    return [(f"{p.parent.name}-{p.name}", p.read_bytes(), p.parent.name) for p in sorted(folder.rglob("*.jpg"))]


def table(photos, names: list[str] | None, **more) -> Dataset:
    """Photos inside; labels numbered by `names`, without names for None as in `NAMES`."""
    values = {"image": [{"bytes": content, "path": name} for name, content, _ in photos]}
    values["label"] = [(names or NAMES).index(label) for *_, label in photos]
    features = {"image": Image(), "label": ClassLabel(names=names) if names else Value("int64")}
    for column, (numbers, kind) in more.items():
        values[column], features[column] = numbers, kind
    return Dataset.from_dict(values, features=Features(features))


def check_right(rows) -> None:
    """Every label is what the name of its photo says."""
    parts = rows.data.values() if isinstance(rows.data, DatasetDict) else [rows.data]
    for part in parts:
        for photo, label in zip(part["image"], part["label"]):
            assert Path(photo["path"]).name.startswith(rows.label_names[label])


@pytest.mark.parametrize(
    "files",
    [
        ("train.parquet", "test.parquet", "val.parquet"),
        ("train-00000-of-00003.parquet", "train-00001-of-00003.parquet", "train-00002-of-00003.parquet"),
        ("data/train.parquet", "data/test.parquet", "more/train.parquet"),
    ],
)
@pytest.mark.parametrize("label_names", [None, NAMES, BACK])
def test_files_that_list_their_classes_in_another_order_keep_every_label(files, label_names, streets, tmp_path):
    for i, (file, names) in enumerate(zip(files, (NAMES, BACK, NAMES))):
        (tmp_path / "set" / file).parent.mkdir(parents=True, exist_ok=True)
        table(streets[i::3], names).to_parquet(tmp_path / "set" / file)
    rows = load_rows(tmp_path / "set", label_names=label_names)
    check_right(rows)
    assert len(rows.data) == 24
    assert rows.label_names == (label_names or NAMES)


def test_one_order_of_all_files_is_kept_also_where_a_file_lists_fewer_classes(streets, tmp_path):
    roads = [photo for photo in streets if photo[2] == "Roadwork"]
    (tmp_path / "set").mkdir()
    table(streets, BACK).to_parquet(tmp_path / "set" / "train.parquet")
    table(roads[:1], ["Roadwork"]).to_parquet(tmp_path / "set" / "test.parquet")
    rows = load_rows(tmp_path / "set")
    check_right(rows)
    assert rows.label_names == BACK


def test_files_with_names_as_numbers_and_as_text_agree(streets, tmp_path):
    (tmp_path / "set").mkdir()
    table(streets[::2], BACK).to_parquet(tmp_path / "set" / "train.parquet")
    text = [{"image": {"bytes": content, "path": name}, "label": label} for name, content, label in streets[1::2]]
    pq.write_table(pa.Table.from_pylist(text), tmp_path / "set" / "test.parquet")
    rows = load_rows(tmp_path / "set")
    check_right(rows)
    assert rows.label_names == NAMES


def test_numbers_without_names_beside_numbers_with_names_are_refused_with_both_files(streets, tmp_path):
    (tmp_path / "set").mkdir()
    table(streets[::2], BACK).to_parquet(tmp_path / "set" / "train-00000-of-00002.parquet")
    table(streets[1::2], None).to_parquet(tmp_path / "set" / "train-00001-of-00002.parquet")
    assert refused(tmp_path / "set") == (
        f"{tmp_path / 'set'}: train-00000-of-00002.parquet says what the numbers of column 'label' stand for "
        "(Roadwork, None), train-00001-of-00002.parquet holds int64 without names: write names in both"
    )
    (tmp_path / "set" / "train-00001-of-00002.parquet").rename(tmp_path / "set" / "test.parquet")
    assert "column 'label' stand for" in refused(tmp_path / "set")


def test_groups_numbered_anew_in_each_file_are_the_same_videos(streets, tmp_path):
    videos = [f"video {i // 3}" for i in range(24)]
    (tmp_path / "set").mkdir()
    for part in (0, 1):
        own = sorted(set(videos[part::2]), reverse=bool(part))
        numbers = [own.index(video) for video in videos[part::2]]
        more = {"video": (numbers, ClassLabel(names=own))}
        table(streets[part::2], NAMES, **more).to_parquet(tmp_path / "set" / f"part-0000{part}-of-00002.parquet")
    rows = load_rows(tmp_path / "set", group_column="video")
    called = {photo["path"]: group for photo, group in zip(rows.data["image"], rows.data["group"])}
    assert called == {name: video for (name, *_), video in zip(streets, videos)}


@pytest.mark.parametrize("column", ["file_name", "image_path", "image"])
def test_names_in_parquet_with_paths(column, streets, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for name, content, _ in streets:
        (folder / name).write_bytes(content)
    values = {column: [name for name, *_ in streets], "label": [BACK.index(label) for *_, label in streets]}
    features = Features({column: Value("string"), "label": ClassLabel(names=BACK)})
    file = folder / ("metadata.parquet" if column == "file_name" else "rows.parquet")
    Dataset.from_dict(values, features=features).to_parquet(file)
    for source in (folder, file):
        rows = load_rows(source)
        check_right(rows)
        assert rows.label_names == BACK
        check_right(load_rows(source, label_names=NAMES))


def test_tables_beside_the_photos_of_each_split_list_their_own_order(streets, tmp_path):
    for i, (part, names) in enumerate({"train/a": NAMES, "train/b": BACK, "test": BACK}.items()):
        folder = tmp_path / "set" / part
        folder.mkdir(parents=True)
        for name, content, _ in streets[i::3]:
            (folder / name).write_bytes(content)
        values = {"file_name": [name for name, *_ in streets[i::3]]}
        values["label"] = [names.index(label) for *_, label in streets[i::3]]
        features = Features({"file_name": Value("string"), "label": ClassLabel(names=names)})
        Dataset.from_dict(values, features=features).to_parquet(folder / "metadata.parquet")
    rows = load_rows(tmp_path / "set")
    check_right(rows)
    assert len(rows.data) == 24


def test_parts_of_a_saved_data_set_and_of_one_in_memory_list_their_own_order(streets, tmp_path):
    parts = DatasetDict({"train": table(streets[::2], NAMES), "test": table(streets[1::2], BACK)})
    parts.save_to_disk(tmp_path / "saved")
    for source in (parts, tmp_path / "saved"):
        rows = load_rows(source)
        check_right(rows)
        assert rows.label_names == NAMES
    shuffled = DatasetDict({"train": parts["train"].shuffle(seed=1), "test": parts["test"].shuffle(seed=2)})
    check_right(load_rows(shuffled))


def test_sources_list_their_own_order(streets):
    first = {"video": ([0] * 12, ClassLabel(names=["a", "b"]))}
    second = {"video": ([1] * 12, ClassLabel(names=["a", "b"][::-1]))}
    rows = load_rows([table(streets[::2], BACK, **first), table(streets[1::2], NAMES, **second)], group_column="video")
    check_right(rows)
    assert rows.label_names == BACK
    assert set(rows.data["group"]) == {"a"}
    assert set(category(rows.data, "video")) == {"a"}


def test_categories_of_pandas_and_dictionaries_of_arrow_are_their_names(streets, tmp_path):
    for i, order in enumerate((NAMES, BACK)):
        photos = streets[i::2]
        labels = pa.DictionaryArray.from_arrays(pa.array([order.index(label) for *_, label in photos]), order)
        images = pa.array([{"bytes": content, "path": name} for name, content, _ in photos])
        (tmp_path / "set").mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "set" / f"{i}.parquet")
    check_right(load_rows(tmp_path / "set"))


def test_strata_and_values_held_out_are_called_by_name(streets):
    weather = {"weather": ([i % 3 - 1 for i in range(24)], ClassLabel(names=["sun", "rain"]))}
    rows = load_rows(table(streets, NAMES, **weather))
    assert category(rows.data, "weather")[:3] == ["unknown", "sun", "rain"]
    plan = Plan(ratios=(0.4, 0.2, 0.2, 0.2), hold_out={"weather": ["rain"]}, near_duplicates=False)
    held = cut(rows, plan).places
    assert "rain" not in category(held["train"], "weather")


def test_names_within_structs_and_lists():
    kind = ClassLabel(names=["day", "night"])
    features = Features({"tags": List(kind), "scene": {"time": kind, "n": Value("int64")}})
    data = Dataset.from_dict(
        {"tags": [[0, 1], None], "scene": [{"time": 1, "n": 5}, {"time": -1, "n": 6}]}, features=features
    )
    assert column_values(data, "tags", "strata") == [["day", "night"], None]
    assert column_values(data, "scene.time", "strata") == ["night", None]
    assert column_values(data, "scene.n", "strata") == [5, 6]
    other = data.cast_column("tags", List(ClassLabel(names=["night", "day"])))
    with pytest.raises(UserError, match=r"column 'tags' holds List.* in one and List.* in another"):
        stacked([data, other], ["one", "another"])


UPLOAD = """
import sys
from huggingface_hub import HfApi

HfApi().create_repo("tester/apart", repo_type="dataset", exist_ok=True)
HfApi().upload_folder(repo_id="tester/apart", repo_type="dataset", folder_path=sys.argv[1])
"""

READ = """
import json, sys
from natix_hf.data.sources.rows import load_rows
from natix_hf.errors import command

def main(arguments):
    rows = load_rows("tester/apart")
    names = rows.label_names
    photos = [photo["path"] for photo in rows.data["image"][:]]
    print(json.dumps({
        "names": names, "wrong": [p for p, l in zip(photos, rows.data["label"][:]) if not p.startswith(names[l])],
        "origins": rows.data["origin"][:], "n": len(photos),
    }))

command(main)
"""


def run(code: str, environment: dict, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )


CARD = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': {}
          '1': {}
---
"""


@pytest.mark.slow
@pytest.mark.parametrize("shards", [False, True])
def test_a_hub_data_set_whose_files_list_another_order(shards, loopback_hub, tmp_path, streets):
    names = [f"train-0000{i}-of-00002.parquet" for i in (0, 1)] if shards else ["train.parquet", "test.parquet"]
    folder = tmp_path / "upload"
    (folder / "data").mkdir(parents=True)
    table(streets[::2] * 4, NAMES).to_parquet(folder / "data" / names[0])
    table(streets[1::2] * 4, BACK).to_parquet(folder / "data" / names[1])
    (folder / "README.md").write_text("# streets\n" if shards else CARD.format(*NAMES))
    pushed = run(UPLOAD, loopback_hub.environment(tmp_path / "pusher"), str(folder))
    assert pushed.returncode == 0, pushed.stderr[-2000:]
    done = run(READ, loopback_hub.environment(tmp_path / "reader"))
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert found["names"] == NAMES
    assert found["n"] == 96
    assert set(found["origins"]) == ({"train"} if shards else {"train", "test"})


@pytest.mark.slow
def test_a_hub_page_with_another_order_than_its_files_is_refused_and_other_names_are_taken(
    loopback_hub, tmp_path, streets
):
    folder = tmp_path / "upload"
    (folder / "data").mkdir(parents=True)
    table(streets * 4, BACK).to_parquet(folder / "data" / "train.parquet")
    (folder / "README.md").write_text(CARD.format(*NAMES))
    assert run(UPLOAD, loopback_hub.environment(tmp_path / "pusher"), str(folder)).returncode == 0
    done = run(READ, loopback_hub.environment(tmp_path / "reader"))
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "error: Hub data set tester/apart: column 'label' has the names None, Roadwork in README.md and "
        "Roadwork, None in train.parquet: use the same order in both"
    )
    table(
        [(f"{name}.jpg", photo, str(NAMES.index(label))) for name, photo, label in streets * 4], ["0", "1"]
    ).to_parquet(folder / "data" / "train.parquet")
    assert run(UPLOAD, loopback_hub.environment(tmp_path / "pusher"), str(folder)).returncode == 0
    found = json.loads(run(READ, loopback_hub.environment(tmp_path / "reader")).stdout)
    assert (found["names"], found["wrong"]) == (NAMES, [])
