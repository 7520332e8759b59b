"""A folder of splits goes to the Hub in one commit and comes back the same; faults are one line and leave no trace."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import hub_server
import huggingface_hub
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, load_from_disk
from datasets import Image as Photo
from hub_state import WRITE
from huggingface_hub import DatasetCard
from photo_files import encoded
from PIL import Image

import natix_hf.hub.dataset_push as dataset_push
from natix_hf.data.sources.rows import Rows
from natix_hf.data.splits.certificate import describe, read_certificate
from natix_hf.data.splits.contracts import SPLITS
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.errors import UserError
from natix_hf.files import read_json, write_text
from natix_hf.hub.dataset_push import batches, push, write_shard

COUNTS = {"train": 12, "val_select": 4, "val_calib": 4, "val_test": 4}

READ = """
import hashlib, json, sys
from datasets import Image, load_dataset
from natix_hf.data.sources.rows import load_rows
found = {}
for split, rows in load_dataset("me/streets").items():
    rows = rows.cast_column("image", Image(decode=False))
    found[split] = {
        "names": rows.features["label"].names,
        "paths": [photo["path"] for photo in rows["image"]],
        "prints": [hashlib.blake2b(photo["bytes"], digest_size=16).hexdigest() for photo in rows["image"]],
        **{name: rows[name][:] for name in ("id", "label", "group", "fingerprint", "video_info.vid_id")},
    }
rows = load_rows("me/streets")
found["rows"] = {split: part["id"][:] for split, part in rows.data.items()}
print(json.dumps(found))
"""


def photo(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "JPEG")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of splits as `data split` leaves it, its photos' paths with folders of this machine."""
    features = Features(
        {name: Value("string") for name in ("id", "group", "origin", "source", "fingerprint", "video_info.vid_id")}
        | {"label": ClassLabel(names=["None", "Roadwork"]), "image": Photo(decode=False)}
    )
    data, number = DatasetDict(), 0
    for split, count in COUNTS.items():
        rows = []
        for i in range(count):
            content = photo(number)
            rows.append(
                {
                    "id": f"cam/{number}.jpg",
                    "group": f"{split} {i // 2}",
                    "origin": "all",
                    "source": "all",
                    "fingerprint": hashlib.blake2b(content, digest_size=16).hexdigest(),
                    "video_info.vid_id": None if i % 2 else f"v{i}",
                    "label": i // 2 % 2,
                    "image": {"bytes": content, "path": f"{tmp_path}/private/{number}.jpg"},
                }
            )
            number += 1
        data[split] = Dataset.from_list(rows, features=features)
    calib = data["val_calib"]
    places = {**data, "val_calib/fit": calib.select([0, 1]), "val_calib/control": calib.select([2, 3])}
    target = tmp_path / "splits"
    data.save_to_disk(str(target))
    describe(places, Rows(data, []), None, ratios=(0.6, 0.15, 0.15, 0.1), seed=0).write(target)
    write_text(target / "SPLITS.md", "# Splits\n")
    return target


def pushed(hub) -> dict[str, bytes]:
    return hub.dataset("me/streets").files


@pytest.mark.slow
def test_what_was_pushed_is_loaded_back_the_same(hub, folder, tmp_path):
    assert push(folder, "me/streets") == f"{hub.address}/datasets/me/streets"
    environment = hub.environment(tmp_path / "home")
    done = subprocess.run([sys.executable, "-c", READ], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    for split, rows in load_from_disk(str(folder)).items():
        assert found[split]["names"] == ["None", "Roadwork"]
        for name in ("id", "label", "group", "fingerprint", "video_info.vid_id"):
            assert found[split][name] == rows[name][:], name
        assert found[split]["prints"] == rows["fingerprint"][:]
        assert found[split]["paths"] == [f"{i.removeprefix('cam/')}" for i in rows["id"][:]]
        assert found["rows"][split] == rows["id"][:]
    assert set(found) == {*SPLITS, "rows"}


def test_one_commit_brings_shards_card_and_certificate_and_nothing_of_this_machine(hub, folder, tmp_path):
    push(folder, "me/streets")
    files = pushed(hub)
    assert set(files) == {
        *(f"data/{split}-00000-of-00001.parquet" for split in SPLITS),
        *("README.md", "splits.json", "SPLITS.md"),
    }
    assert len(hub.asked("/commit/")) == 1
    assert files["splits.json"] == (folder / "splits.json").read_bytes()
    assert DatasetCard(files["README.md"].decode()).data.pretty_name == "Street photos: None / Roadwork"
    assert not hub.dataset("me/streets").private
    for name, file in files.items():
        assert str(tmp_path).encode() not in file, name
        assert WRITE.encode() not in file, name


def test_a_new_repository_is_private_where_asked_and_an_existing_public_one_is_refused(hub, folder):
    push(folder, "me/streets", private=True)
    assert hub.dataset("me/streets").private
    push(folder, "me/streets")
    push(folder, "me/open")
    with pytest.raises(UserError, match="me/open: the data set already exists and is public"):
        push(folder, "me/open", private=True)


def test_shards_are_bounded_and_a_push_with_fewer_of_them_leaves_no_stale_ones(hub, folder, monkeypatch):
    monkeypatch.setattr(dataset_push, "SHARD_BYTES", 3 * len(photo(0)) + 500)
    push(folder, "me/streets")
    shards = Counter(name.split("-0")[0] for name in pushed(hub) if name.startswith("data/"))
    assert shards == {"data/train": 4, "data/val_select": 2, "data/val_calib": 2, "data/val_test": 2}
    hub.dataset("me/streets").commit({**pushed(hub), "notes.md": b"mine"}, "notes")
    monkeypatch.setattr(dataset_push, "SHARD_BYTES", 10**6)
    (folder / "SPLITS.md").unlink()
    push(folder, "me/streets")
    assert sum(name.startswith("data/") for name in pushed(hub)) == 4
    assert "SPLITS.md" not in pushed(hub)
    assert "notes.md" in pushed(hub)


def test_shards_so_small_that_they_travel_in_the_commit_have_their_own_rows(hub, folder, monkeypatch):
    monkeypatch.setattr(dataset_push, "SHARD_BYTES", 1)
    monkeypatch.setattr(hub_server, "LARGE", ())
    monkeypatch.setattr(hub_server, "SMALL", 10**6)
    push(folder, "me/streets")
    shards = {name: file for name, file in pushed(hub).items() if name.startswith("data/")}
    assert len(shards) == 24
    assert not hub.asked("/_lfs/")
    ids = [row for name in sorted(shards) for row in pq.read_table(io.BytesIO(shards[name]))["id"].to_pylist()]
    assert sorted(ids) == sorted(row for rows in read_json(folder / "splits.json")["ids"].values() for row in rows)


def test_an_interrupted_push_resumes_without_uploading_again(hub, folder):
    hub.answer("/commit/", 500, times=1)
    with pytest.raises(
        UserError, match=r"me/streets: .*run the same command again; files that were uploaded are kept"
    ):
        push(folder, "me/streets")
    assert not pushed(hub)
    before = len(hub.asked("/_lfs/"))
    assert before >= 4
    push(folder, "me/streets")
    assert len(hub.asked("/_lfs/")) == before
    assert len([name for name in pushed(hub) if name.startswith("data/")]) == 4


def test_a_repository_with_another_data_set_is_refused_and_stays_as_it_is(hub, folder):
    for name in ("photos.zip", "splits.json"):
        hub.add("me/streets", {name: b"{}"}, "dataset")
        with pytest.raises(UserError, match=r"me/streets: the repository holds another data set.*another name"):
            push(folder, "me/streets")
        assert set(pushed(hub)) == {name}
    assert not hub.asked("/_lfs/")
    hub.add("me/streets", {".gitattributes": b"{}"}, "dataset")
    push(folder, "me/streets")
    assert "splits.json" in pushed(hub)


@pytest.mark.parametrize(
    ("word", "status", "said"),
    [
        ("/api/datasets/", 401, "the Hub does not accept the token: log in with `hf auth login`"),
        ("/api/repos/create", 403, "the token cannot write there: make one with write access"),
        ("/preupload/", 403, "the token cannot write there"),
        ("/commit/", 412, "somebody else changed the repository in the meantime: run the same command again"),
        ("/api/repos/create", 400, "check the name"),
    ],
)
def test_refusals_of_the_hub_are_one_line_that_says_what_to_do(hub, folder, word, status, said):
    hub.answer(word, status)
    with pytest.raises(UserError) as error:
        push(folder, "me/streets")
    assert said in str(error.value)
    assert str(error.value).startswith("push me/streets: ")
    assert len(str(error.value).splitlines()) == 1
    assert WRITE not in str(error.value)
    assert ("dataset", "me/streets") not in hub.repositories or not pushed(hub)


def test_without_a_token_nothing_is_asked_of_the_hub(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    asked = len(hub.requests)
    with pytest.raises(UserError, match=r"requires a token: log in with `hf auth login` or set HF_TOKEN"):
        push(folder, "me/streets")
    assert len(hub.requests) == asked


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_the_line_says_so(folder, monkeypatch, offline):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("HF_TOKEN", WRITE)
    with pytest.raises(UserError, match="me/streets: the Hub cannot be reached: no network, or HF_HUB_OFFLINE is set"):
        push(folder, "me/streets")


@pytest.mark.parametrize("name", ["streets", "me/a/b", "me/my streets", "me/-x", "me/x--y", "/streets", ""])
def test_names_that_the_hub_does_not_take_are_refused_first(folder, name):
    with pytest.raises(UserError, match="owner/name, such as me/roadwork-4way"):
        push(folder, name)


def test_a_folder_without_splits_is_refused(folder, tmp_path):
    for wrong in (tmp_path / "nothing", tmp_path):
        with pytest.raises(UserError, match=r"not a folder of splits: .*natix_hf.data split"):
            push(wrong, "me/streets")
    next((folder / "val_test").glob("*.arrow")).write_bytes(b"")
    with pytest.raises(UserError, match="not a complete save_to_disk folder"):
        push(folder, "me/streets")


def test_a_certificate_edited_by_hand_and_one_of_other_photos_are_refused_before_anything_is_sent(hub, folder):
    told = read_certificate(folder)
    moved = told.ids | {"train": told.ids["train"][1:], "val_test": [*told.ids["val_test"], "cam/0.jpg"]}
    told.model_copy(update={"ids": moved}).write(folder)
    with pytest.raises(UserError, match=r"splits.json: edited by hand"):
        push(folder, "me/streets")
    SplitCertificate.sealed(**dict(told) | {"ids": moved}).write(folder)
    with pytest.raises(UserError, match=r"train: 1 rows are not in splits.json.*nothing was pushed"):
        push(folder, "me/streets")
    SplitCertificate.sealed(**dict(told) | {"straddling": 2}).write(folder)
    with pytest.raises(UserError, match=r"2 groups are in more than one split; nothing was pushed"):
        push(folder, "me/streets")
    assert not hub.repositories
    assert not hub.requests


def test_photos_changed_below_their_fingerprints_are_found(folder):
    file = next((folder / "val_test").glob("*.arrow"))
    content = file.read_bytes()
    assert content.count(photo(21)) == 1
    file.write_bytes(content.replace(photo(21), photo(21)[:-3] + b"abc"))
    with pytest.raises(UserError, match=r"val_test: the photos are not the ones that splits.json was made for"):
        push(folder, "me/streets")


def test_batches_keep_both_limits_and_every_row():
    sizes = np.array([5, 5, 5, 30, 1, 1, 1, 1])
    assert list(batches(sizes, 10)) == [(0, 2), (2, 3), (3, 4), (4, 8)]
    assert list(batches(sizes, 10, 2)) == [(0, 2), (2, 3), (3, 4), (4, 6), (6, 8)]
    assert list(batches(np.array([]), 10)) == []


def test_the_same_rows_give_the_same_shard_in_small_row_groups(folder, tmp_path, monkeypatch):
    rows = load_from_disk(str(folder))["train"]
    monkeypatch.setattr(dataset_push, "BATCH_ROWS", 5)
    write_shard(rows, tmp_path / "a.parquet")
    write_shard(rows, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 3
    read = Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    assert read.features["image"] == Photo()
    assert read[7]["image"].size == (64, 48)
