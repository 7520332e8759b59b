"""`python -m natix_hf.data` as a user types it: split, check, push, and a run on what was split."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageOps
from warm import Warm

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.scenes.photos import generate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """72 scenes in class folders, six of them again, mirrored; one copy carries the other label."""
    folder = tmp_path_factory.mktemp("streets")
    made = generate(folder / "scenes", 72, 51, workers=1, size=(320, 180), progress=False)
    lines = [line.split(",") for line in (made / "metadata.csv").read_text().splitlines()[1:]]
    for number, (name, label, *_) in enumerate(lines):
        photo = ImageOps.exif_transpose(Image.open(made / name)).convert("RGB")
        (folder / "photos" / label).mkdir(parents=True, exist_ok=True)
        photo.save(folder / "photos" / label / f"{number:03d}.jpg", quality=90)
        if number % 12 == 0:
            other = {"None": "Roadwork", "Roadwork": "None"}[label] if number == 24 else label
            (folder / "photos" / other).mkdir(parents=True, exist_ok=True)
            ImageOps.mirror(photo).save(folder / "photos" / other / f"{number:03d}-mirrored.jpg", quality=80)
    return folder / "photos"


@pytest.fixture(scope="module")
def streets(photos, tmp_path_factory, warm) -> Path:
    """The folder that `split` writes."""
    folder = tmp_path_factory.mktemp("split") / "streets"
    words = ("split", str(photos), "--output", str(folder))
    status, out, err = warm.run("natix_hf.data", words, environment(folder), folder.parent)
    assert status == 0, err
    counts = ", ".join(f"{name} {len(list((photos / name).iterdir()))}" for name in ("None", "Roadwork"))
    assert out.startswith(f"2 classes: {counts}\nlabels: class folders of {photos}\n")
    assert "0 groups straddle" in out
    return folder


def environment(folder: Path) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    home = str(folder.parent / "home")
    return {**plain, "HF_HUB_OFFLINE": "1", "NATIX_HF_HOME": home, "HF_HOME": home}


def test_what_split_wrote_passes_check_and_a_tampered_one_fails(streets, desk, tmp_path):
    status, out, err = desk.type("data", "check", streets, "--contact_sheet", tmp_path / "conflicts.png")
    assert status == 0, out + err
    assert "0 groups straddle" in out
    assert "1 photo with differently labelled copies" in out
    assert Image.open(tmp_path / "conflicts.png").format == "PNG"
    assert Image.open(streets / "conflicts.png").format == "PNG"

    broken = shutil.copytree(streets, tmp_path / "tampered")
    document = json.loads((broken / "splits.json").read_text())
    (broken / "splits.json").write_text(json.dumps({**document, "straddling": 0, "seed": 5}))
    status, out, err = desk.type("data", "check", broken)
    assert (status, err) == (1, "")
    assert "VIOLATION" in out


def test_a_run_takes_the_splits_as_they_are_with_their_certificate(streets, desk):
    result = desk.type("train", desk.recipe, "--dataset_name", streets, "--method", "probe")
    assert result.status == 0, result.err
    assert read_certificate(desk.output) == read_certificate(streets)


def test_split_grows_through_the_command_line(streets, photos, desk, make_photos):
    more = make_photos(desk.folder / "more", {"None": (90, 90, 90), "Roadwork": (160, 80, 80)}, 6, seed=3)
    grown = desk.folder / "grown"
    status, out, err = desk.type("data", "split", more, "--extend", streets, "--output", grown)
    assert status == 0, out + err
    before, after = read_certificate(streets), read_certificate(grown)
    for split, ids in before.ids.items():
        assert set(ids) <= set(after.ids[split])
    assert sum(after.sizes.values()) == sum(before.sizes.values()) + 12


def test_several_named_sources_become_one_split(photos, desk, make_photos):
    made = make_photos(desk.folder / "made", {"None": (90, 90, 90), "Roadwork": (160, 80, 80)}, 30, seed=4)
    output = desk.folder / "both"
    words = ["split", f"real={photos}", f"t2i={made}", "--output", output, "--strata", "source"]
    status, out, err = desk.type("data", *words, "--source_caps", "t2i=40")
    assert status == 0, out + err
    document = read_certificate(output)
    assert document.sources == {"real": 78, "t2i": 40}
    assert len(document.dropped) == 20
    assert document.strata == ["source"]


def test_killed_while_writing_nothing_is_left_and_the_same_command_works(photos, tmp_path, warm):
    words = ("split", str(photos), "--output", str(tmp_path / "out"))
    command = [sys.executable, "-m", "natix_hf.data", *words]
    run = subprocess.Popen(command, env=environment(tmp_path / "x"), stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 240
    while not (tmp_path / ".out.partial").exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "out").exists()
    (tmp_path / "said").mkdir()
    done = warm.run("natix_hf.data", words, environment(tmp_path / "x"), tmp_path / "said")
    assert done.status == 0, done.err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "out"))] == ["out"]
    assert sum(read_certificate(tmp_path / "out").sizes.values()) == 78


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--hold_out", "city"], "city: expected name=value"),
        (["--source_caps", "real=many"], "real=many: expected name=number"),
        (["--extend", "nowhere"], "no certificate|no such file"),
        (["--description_column", "text"], "no column 'text'"),
        (["--max_photo_mb", "0.0001"], "none of 78 photos can be used; .*jpg: "),
    ],
)
def test_bad_options_of_split_are_one_line_and_leave_nothing(photos, desk, words, line):
    before = {path.name for path in desk.folder.iterdir()}
    told = desk.refusal("data", "split", photos, "--output", desk.folder / "out", *words)
    assert re.search(line, told), told
    left = {path.name for path in desk.folder.iterdir()} - before
    assert left <= {".stdout", ".stderr", "hf", "home"}


def test_split_refuses_a_full_folder_and_check_what_is_no_split(photos, streets, desk):
    assert "exists and is not empty" in desk.refusal("data", "split", photos, "--output", streets)
    assert "expected a folder, found a file" in desk.refusal("data", "split", photos, "--output", desk.recipe)
    assert "four splits" in desk.refusal("data", "check", photos)
    assert "no such file or folder" in desk.refusal("data", "check", desk.folder / "nothing" / "here")
    assert "not a folder of splits" in desk.refusal("data", "push", photos, "me/streets")


@pytest.fixture
def hub(desk, loopback_hub) -> Iterator[dict[str, str]]:
    """What commands of the desk have to be given to find the Hub on this machine."""
    own = loopback_hub.environment(desk.folder / "hf")
    with Warm(**own) as desk.warm:
        yield own


def test_pushed_splits_pass_check_on_the_hub_and_are_what_a_run_takes(streets, desk, hub):
    status, out, err = desk.type("data", "push", streets, "me/streets", **hub)
    assert status == 0, err
    assert out.strip() == f"{hub['HF_ENDPOINT']}/datasets/me/streets"
    status, out, err = desk.type("data", "check", "me/streets", **hub)
    assert status == 0, out + err
    assert "0 groups straddle" in out
    assert "VIOLATION" not in out
    words = ["--dataset_name", "me/streets", "--method", "probe"]
    result = desk.type("train", desk.recipe, *words, **hub)
    assert result.status == 0, result.err
    assert read_certificate(desk.output) == read_certificate(streets)
