"""Hub data sets on a server of this machine, read in a process that had its address before the first import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from hub_server import serve
from hub_state import READ, Hub
from warm import Result, Warm

pytestmark = pytest.mark.slow

PUSH = """
import io, random
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
part(range(3)).push_to_hub("tester/two", "day")
part(range(5, 9)).push_to_hub("tester/two", "night")
texts = [random.Random(i).randbytes(10_000).hex() for i in range(2)]  # the loopback takes small files otherwise
Dataset.from_dict({"text": texts, "label": [0, 1]}).push_to_hub("tester/texts")
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


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serve() as hub:
        yield hub


@pytest.fixture(scope="module")
def run(hub, tmp_path_factory) -> Iterator[Callable[..., Result]]:
    """A function that runs Python in a process that finds the Hub, which holds what `PUSH` pushes."""
    folder = tmp_path_factory.mktemp("reader")
    environment = hub.environment(folder)
    with Warm(**environment) as warm:

        def run(code: str, *arguments: object, **more: str) -> Result:
            script = folder / "script.py"
            script.write_text(code)
            return warm.run(script, arguments, environment | more, folder)

        pushed = run(PUSH)
        assert pushed.status == 0, pushed.err[-2000:]
        yield run


def test_a_hub_data_set_with_flat_dotted_columns_becomes_rows(run):
    done = run(READ_ROWS)
    assert done.status == 0, done.err[-2000:]
    missing = run(REFUSED, "tester/nothing")
    found = json.loads(done.out)
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
    assert missing.status == 2
    assert "tester/nothing is neither a local path nor a Hub data set that you can access" in missing.err


POOLED = """
import json, sys
from natix_hf.data.sources.rows import load_rows

names = ["None", "Roadwork"]
rows = load_rows(
    ["tester/roadwork", f"mine={sys.argv[1]}"], group_column=["video_info.vid_id", "camera"], label_names=names
)
print(json.dumps({name: rows.data[name][:] for name in ("id", "source", "gps")} | rows.group_values))
"""


def test_a_hub_data_set_beside_a_folder_and_one_without_photos(run, photo_folder):
    files = sorted(photo_folder.rglob("*.jpg"))
    lines = [f"{path.relative_to(photo_folder)},{path.parent.name},cam {i % 7}" for i, path in enumerate(files)]
    (photo_folder / "labels.csv").write_text("\n".join(["image_path,label,camera", *lines]))
    done = run(POOLED, photo_folder)
    assert done.status == 0, done.err[-2000:]
    found = json.loads(done.out)
    assert found["id"][:2] == ["tester/roadwork/0", "tester/roadwork/1"]
    assert found["id"][90] == "mine/None/000.jpg"
    assert found["source"] == ["tester/roadwork"] * 90 + ["mine"] * 48
    assert found["gps"][89:91] == ["[39.7, -86.89]", None]
    assert found["video_info.vid_id"][:2] == [None, "video 0"]
    assert found["video_info.vid_id"][90:] == [None] * 48
    assert found["camera"] == [None] * 90 + [f"cam {i % 7}" for i in range(48)]
    refused = run(REFUSED, "tester/texts")
    assert refused.status == 2
    line = refused.err.strip().splitlines()[-1]
    assert line == "error: image_column_name: no column 'image': the columns are text, label"


def test_a_gated_data_set_says_how_to_get_access(run, hub):
    hub.add("owner/closed", {"data/train.parquet": b"x"}, "dataset", gated=True)
    done = run(REFUSED, "owner/closed", HF_TOKEN=READ)
    assert done.status == 2
    line = done.err.strip().splitlines()[-1]
    assert line.startswith("error: Hub data set owner/closed is gated: accept its terms at http")
    assert line.endswith("/datasets/owner/closed, then log in with `hf auth login` or set HF_TOKEN")
    assert "Traceback" not in done.err


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_network_the_line_says_so(tmp_path, offline):
    nowhere = Hub()
    nowhere.address = "http://127.0.0.1:9"  # nothing listens on port 9 (discard) of this machine
    environment = nowhere.environment(tmp_path) | {"HF_HUB_OFFLINE": offline}
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, "owner/photos"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(
        "error: dataset_name: no such file or folder: owner/photos; if it is a Hub data set, it is not"
    )
    assert "in the cache and cannot be reached (no network" in line
    assert "Traceback" not in done.stderr


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


def test_a_configuration_of_a_hub_data_set_is_named_for_photos_without_labels_too(run):
    done = run(ONE_OF_THEM)
    assert done.status == 0, done.err[-2000:]
    assert done.out.splitlines() == ["['5', '6', '7', '8']", "True", "['0', '1', '2']"]
    refused = run(WITHOUT_A_NAME)
    assert refused.status == 2
    line = refused.err.strip().splitlines()[-1]
    assert "--dataset_config" in line
    assert "day" in line
