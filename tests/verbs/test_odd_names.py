"""Photos and folders whose names are not UTF-8, through the commands, on a screen that refuses what is not."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.verbs.conftest import COLOURS

ODD = os.fsdecode(b"M\xfcnchen")
STRICT = "import sys\nsys.stdout.reconfigure(encoding='utf-8', errors='strict')"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="names are UTF-16 there")]


@pytest.fixture(scope="module")
def odd(tmp_path_factory, make_photos) -> Path:
    """Photos that the finished run does not know, in a folder and a file with names in Latin-1; one is broken."""
    folder = make_photos(tmp_path_factory.mktemp("odd") / ODD, COLOURS, 6, seed=5)
    (folder / "None" / "000.jpg").rename(folder / "None" / f"{ODD}.jpg")
    (folder / "None" / f"broken {ODD}.jpg").write_bytes(b"no photo")
    return folder


def names(table: Path) -> dict[str, str]:
    """File -> error, of what `predict` wrote."""
    text = table.read_bytes().decode("utf-8")
    if table.suffix == ".csv":
        return {row["file"]: row["error"] for row in csv.DictReader(text.splitlines())}
    if table.suffix == ".jsonl":
        return {row["file"]: row.get("error", "") for row in map(json.loads, text.splitlines())}
    rows = [feature["properties"] for feature in json.loads(text)["features"]]
    return {row["file"]: row.get("error", "") for row in rows}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "geojson"])
def test_predict_writes_their_names_with_escapes(finished, trained_desk, odd, kind):
    output = odd.parent / f"{ODD}.{kind}"
    done = trained_desk.type("predict", finished, odd, "--output", output, "--num_workers", 0, prelude=STRICT)
    assert done.status == 0, done.err
    shown = str(odd).replace(ODD, "M\\xfcnchen")
    found = names(output)
    assert len(found) == 13
    assert found[f"{shown}/None/M\\xfcnchen.jpg"] == ""
    assert found[f"{shown}/None/broken M\\xfcnchen.jpg"].endswith("not a photo that Pillow can read")
    assert f"not read: {shown}/None/broken M\\xfcnchen.jpg: not a photo" in done.err
    assert "12 photos, calibrated probabilities" in done.out


def test_recalibrate_reads_them(finished, trained_desk, odd, tmp_path):
    done = trained_desk.type(
        "recalibrate", finished, odd, "--unlabelled", "--output", tmp_path / "mine", "--num_workers", 0, prelude=STRICT
    )
    assert done.status == 0, done.err
    report = json.loads((tmp_path / "mine" / "recalibration.json").read_text(encoding="utf-8"))
    assert report["photos"]["n"] == 12
    assert [photo["id"] for photo in report["photos"]["broken"]] == ["None/broken M\\xfcnchen.jpg"]


def test_training_on_them_writes_a_run_that_evaluates_itself(desk, photo_folder):
    (photo_folder / "None" / "000.jpg").rename(photo_folder / "None" / f"{ODD}.jpg")
    (photo_folder / "Roadwork").rename(photo_folder / os.fsdecode(b"Stra\xdfe"))
    folder = photo_folder.rename(photo_folder.parent / ODD)
    done = desk.type("train", desk.recipe, "--method", "probe", "--dataset_name", folder, prelude=STRICT)
    assert done.status == 0, done.err
    run = desk.output
    splits = json.loads((run / "splits.json").read_text(encoding="utf-8"))
    assert splits["label_names"] == ["None", "Stra\\xdfe"]
    assert any("None/M\\xfcnchen.jpg" in ids for ids in splits["ids"].values())
    for path in run.rglob("*"):
        if path.suffix in (".json", ".md", ".html", ".yaml", ".csv"):
            path.read_bytes().decode("utf-8")
    assert desk.type("evaluate", run, prelude=STRICT).status == 0


@pytest.mark.parametrize("verb", ["train", "data", "recalibrate"])
def test_an_output_that_libraries_cannot_write_is_refused_before_work(finished, desk, photo_folder, verb):
    place = desk.folder / f"out {ODD}"
    words = {
        "train": (desk.recipe, "--output_dir", place),
        "data": ("split", photo_folder, "--output", place),
        "recalibrate": (finished, photo_folder, "--output", place),
    }[verb]
    line = desk.refusal(verb, *words)
    assert line.endswith("out M\\xfcnchen: expected a name in UTF-8, found byte \\xfc: rename it, or choose another")
    assert not place.exists()


def test_a_model_in_such_a_folder_is_refused_before_photos_are_scored(finished, trained_desk, odd, tmp_path):
    shutil.copytree(finished, tmp_path / ODD)
    line = trained_desk.refusal("predict", tmp_path / ODD, odd, "--output", tmp_path / "p.csv")
    assert "is not valid UTF-8" in line or "expected a name in UTF-8" in line
    assert not (tmp_path / "p.csv").exists()
