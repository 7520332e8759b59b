"""Hub data sets, against servers on this machine; readers are fresh processes: the Hub's address is read at import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_state import READ, Hub

pytestmark = pytest.mark.slow

PUSH = """
import io, sys
import numpy as np
from PIL import Image
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as Photo

def photo(seed):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return {"bytes": buffer.getvalue(), "path": f"{seed}.jpg"}

def part(rows):
    return Dataset.from_dict({
        "image": [photo(i) for i in rows],
        "id": list(rows),
        "width": [64] * len(rows),
        "gps": [f"[39.7, -86.{i}]" for i in rows],
        "date_captured": [0] * len(rows),
        "video_info.frame_id": list(rows),
        "video_info.vid_id": [None if i % 5 == 0 else f"video {i // 6}" for i in rows],
        "scene_level_tags.weather": ["['Sunny']"] * len(rows),
        "label": [int(i % 60 >= 12) for i in rows],
    }, features=Features({
        "image": Photo(), "id": Value("int64"), "width": Value("int64"), "gps": Value("string"),
        "date_captured": Value("int64"), "video_info.frame_id": Value("int64"), "video_info.vid_id": Value("string"),
        "scene_level_tags.weather": Value("string"), "label": Value("int64"),
    }))

DatasetDict({"train": part(range(60)), "test": part(range(60, 90))}).push_to_hub("tester/roadwork")
"""

READ_ROWS = """
import json
from natix_hf.data.own_photos import have_labels
from natix_hf.data.sources.rows import load_rows
from natix_hf.data.splits.cut import cut
from natix_hf.data.splits.split_options import Plan
from natix_hf.inference.named_photos import find_photos

names, photos = find_photos("hub=tester/roadwork")
rows = load_rows("tester/roadwork", group_column="video_info.vid_id", label_names=["None", "Roadwork"])
data = rows.data
locked = cut(rows, Plan()).lock()
print(json.dumps({
    "columns": data.column_names, "names": rows.label_names, "sizes": locked.sizes, "ids": data["id"][:],
    "labels": data["label"][:], "groups": data["group"][:], "origins": data["origin"][:], "gps": data[3]["gps"],
    "image": [data[3]["image"]["path"], len(data[3]["image"]["bytes"])],
    "predicted": names, "first": len(photos[3]["bytes"]), "labelled": have_labels("tester/roadwork"),
}))
"""

REFUSED = """
import sys, time
from natix_hf.data.sources.rows import load_rows
from natix_hf.errors import command
time.sleep = lambda seconds: None  # which the Hub's client does for 20 s between its tries
command(lambda arguments: load_rows(*arguments))
"""


def run(code: str, home: Path, hub: Hub, *arguments: str, **more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=hub.environment(home) | more, capture_output=True, text=True, timeout=120)


def test_a_hub_data_set_with_flat_dotted_columns_becomes_rows(loopback_hub, tmp_path):
    pushed = run(PUSH, tmp_path / "pusher", loopback_hub)
    assert pushed.returncode == 0, pushed.stderr[-2000:]
    done = run(READ_ROWS, tmp_path / "reader", loopback_hub)
    assert done.returncode == 0, done.stderr[-2000:]
    missing = run(REFUSED, tmp_path / "reader", loopback_hub, "tester/nothing")
    found = json.loads(done.stdout)
    assert found["names"] == ["None", "Roadwork"]
    assert found["ids"] == [str(i) for i in range(90)]
    assert found["labels"] == [int(i % 60 >= 12) for i in range(90)]
    assert found["groups"] == [f"row:{i}" if i % 5 == 0 else f"video {i // 6}" for i in range(90)]
    assert found["origins"] == ["train"] * 60 + ["test"] * 30
    assert {"video_info.vid_id", "scene_level_tags.weather", "gps"} <= set(found["columns"])
    assert found["gps"] == "[39.7, -86.3]"
    assert found["image"][0] == "3.jpg"
    assert found["image"][1] == found["first"] > 500
    assert found["predicted"] == found["ids"]
    assert found["labelled"]
    assert sum(found["sizes"].values()) == 90
    assert missing.returncode == 2
    assert "tester/nothing is neither a local path nor a Hub data set that you can access" in missing.stderr


TEXTS = """
import random
from datasets import Dataset

texts = [random.Random(i).randbytes(10_000).hex() for i in range(2)]  # the loopback takes small files otherwise
Dataset.from_dict({"text": texts, "label": [0, 1]}).push_to_hub("tester/texts")
"""

POOLED = """
import json, sys
from natix_hf.data.sources.rows import load_rows

names = ["None", "Roadwork"]
rows = load_rows(
    ["tester/roadwork", f"mine={sys.argv[1]}"], group_column=["video_info.vid_id", "camera"], label_names=names
)
print(json.dumps({name: rows.data[name][:] for name in ("id", "source", "gps")} | rows.group_values))
"""


def test_a_hub_data_set_beside_a_folder_and_one_without_photos(loopback_hub, tmp_path, photo_folder):
    files = sorted(photo_folder.rglob("*.jpg"))
    lines = [f"{path.relative_to(photo_folder)},{path.parent.name},cam {i % 7}" for i, path in enumerate(files)]
    (photo_folder / "labels.csv").write_text("\n".join(["image_path,label,camera", *lines]))
    pushed = run(PUSH + TEXTS, tmp_path / "pusher", loopback_hub)
    assert pushed.returncode == 0, pushed.stderr[-2000:]
    done = run(POOLED, tmp_path / "reader", loopback_hub, str(photo_folder))
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["id"][:2] == ["tester/roadwork/0", "tester/roadwork/1"]
    assert found["id"][90] == "mine/None/000.jpg"
    assert found["source"] == ["tester/roadwork"] * 90 + ["mine"] * 48
    assert found["gps"][89:91] == ["[39.7, -86.89]", None]
    assert found["video_info.vid_id"][:2] == [None, "video 0"]
    assert found["video_info.vid_id"][90:] == [None] * 48
    assert found["camera"] == [None] * 90 + [f"cam {i % 7}" for i in range(48)]
    refused = run(REFUSED, tmp_path / "reader", loopback_hub, "tester/texts")
    assert refused.returncode == 2
    line = refused.stderr.strip().splitlines()[-1]
    assert line == "error: image_column_name: no column 'image': the columns are text, label"


def test_a_gated_data_set_says_how_to_get_access(loopback_hub, tmp_path):
    loopback_hub.add("owner/closed", {"data/train.parquet": b"x"}, "dataset", gated=True)
    done = run(REFUSED, tmp_path, loopback_hub, "owner/closed", HF_TOKEN=READ)
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: Hub data set owner/closed is gated: accept its terms at http")
    assert line.endswith("/datasets/owner/closed, then log in with `hf auth login` or set HF_TOKEN")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_network_the_line_says_so(tmp_path, offline):
    nowhere = Hub()
    nowhere.address = "http://127.0.0.1:9"  # nothing listens on port 9 (discard) of this machine
    done = run(REFUSED, tmp_path, nowhere, "owner/photos", HF_HUB_OFFLINE=offline)
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(
        "error: dataset_name: no such file or folder: owner/photos; if it is a Hub data set, it is not"
    )
    assert "in the cache and cannot be reached (no network" in line
    assert "Traceback" not in done.stderr


TWO_CONFIGURATIONS = """
part(range(3)).push_to_hub("tester/two", "day")
part(range(5, 9)).push_to_hub("tester/two", "night")
"""

ONE_OF_THEM = """
from natix_hf.data.own_photos import have_labels, read_unlabelled
from natix_hf.inference.named_photos import find_photos

print(find_photos("tester/two", dataset_config="night")[0])
print(have_labels("tester/two", dataset_config="day"))
print(sorted(read_unlabelled("tester/two", {}, dataset_config="day").rows["id"][:]))
"""

WITHOUT_A_NAME = """
from natix_hf.errors import command
from natix_hf.inference.named_photos import find_photos
command(lambda arguments: find_photos("tester/two"))
"""


def test_a_configuration_of_a_hub_data_set_is_named_for_photos_without_labels_too(loopback_hub, tmp_path):
    pushed = run(PUSH + TWO_CONFIGURATIONS, tmp_path / "pusher", loopback_hub)
    assert pushed.returncode == 0, pushed.stderr[-2000:]
    done = run(ONE_OF_THEM, tmp_path / "reader", loopback_hub)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["['5', '6', '7', '8']", "True", "['0', '1', '2']"]
    refused = run(WITHOUT_A_NAME, tmp_path / "reader", loopback_hub)
    assert refused.returncode == 2
    assert "--dataset_config" in refused.stderr.strip().splitlines()[-1]
    assert "day" in refused.stderr.strip().splitlines()[-1]
