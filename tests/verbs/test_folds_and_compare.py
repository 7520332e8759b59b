"""Folds and comparisons as they are typed: one run for each city, tested on it alone, and two runs side by side."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from natix_hf.documents.comparison import Comparison
from natix_hf.documents.several_runs import Folds

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cities(module_desk, make_photos):
    """A desk whose photos have a city (of 44, 21 and, of one class, 21 photos), a place and a weather."""
    folder = module_desk.folder / "street"
    made = make_photos(module_desk.folder / "made", {"None": (100, 120, 110), "Roadwork": (150, 100, 90)}, 46)
    folder.mkdir()
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "label", "city_name", "gps", "weather"])
        for name, count in (("None", 40), ("Roadwork", 46)):
            for i in range(count):
                shutil.copy(made / name / f"{i:03d}.jpg", folder / f"{name}-{i}.jpg")
                city = ("Boston", "Boston", "Austin")[i % 3] if name == "None" or i < 25 else "Reno"
                weather = ("fog", "clear")[i // 2 % 2]
                writer.writerow([f"{name}-{i}.jpg", name, city, f"[{39 + i / 50}, -86.1]", weather])
    return module_desk


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


WORDS = ("--method", "probe", "--dataset_name")


@pytest.fixture(scope="module")
def folds(cities):
    """What `folds` was typed with, what it printed, and its folder."""
    words = (*WORDS, cities.folder / "street", "--hold_out_each", "city_name", "--slices", "weather")
    status, out, err = cities.type("folds", cities.recipe, *words)
    assert status == 0, out + err
    return words, out, cities.folder / "run-folds"


def test_a_city_is_the_test_of_its_own_run_and_a_second_start_keeps_what_is_there(cities, folds):
    words, out, output = folds
    said = ["2 classes: None 40, Roadwork 46", f"labels: metadata.csv in {cities.folder / 'street'}"]
    assert out.splitlines()[:2] == said
    assert "city_name = Reno: no fold: 21 photos, fewer than 30" in out
    assert "city_name = Austin: no fold: 21 photos, fewer than 30" in out
    document = read(output / "folds.json")
    Folds.check(document)
    found = {one["value"]: one for one in document["folds"]}
    assert {value: one["status"] for value, one in found.items()} == {
        "Boston": "finished", "Austin": "skipped", "Reno": "skipped"
    }  # fmt: skip
    counted = cities.folder / "home" / "test_reads"
    with (cities.folder / "street" / "metadata.csv").open() as file:
        city = {row["file_name"]: row["city_name"] for row in csv.DictReader(file)}
    run = output / "Boston"
    record, certificate = read(run / "run.json"), read(run / "splits.json")
    assert record["hold_out"] == {"city_name": ["Boston"]}
    assert {city[name] for name in certificate["ids"]["val_test"]} == {"Boston"}
    others = [name for split in ("train", "val_select", "val_calib") for name in certificate["ids"][split]]
    assert {city[name] for name in others} == {"Austin", "Reno"}
    assert len((counted / f"{found['Boston']['fingerprint']}.jsonl").read_text().splitlines()) == 1
    columns = pq.read_schema(run / "predictions" / "val_test.parquet").names
    assert "slice:weather" in columns
    assert not [name for name in columns if "gps" in name or "city" in name]  # one city: nothing to tell apart
    assert list(read(run / "slices.json")["columns"]) == ["weather"]
    assert found["Boston"]["metrics"] == read(run / "metrics.json")["metrics"]
    assert (output / "FOLDS.md").read_text() in out
    before = {path: path.read_bytes() for path in output.rglob("run.json")}
    again = cities.type("folds", cities.recipe, *words)
    assert again.out.count("already finished") == 1
    assert {path: path.read_bytes() for path in output.rglob("run.json")} == before
    line = cities.refusal("folds", cities.recipe, *words, "--weight_decay", "0.5")
    assert "whose recipe is not the one of this command" in line


def test_two_runs_on_the_same_photos_are_compared_and_no_read_is_counted_for_it(cities, folds, finished):
    runs = [folds[2] / "Boston", cities.folder / "two"]
    shutil.copytree(*runs)
    assert cities.type("calibrate", runs[1], "--target_prior", "0.2").status == 0
    evaluated = cities.type("evaluate", runs[1])
    assert "slices: none of 2 has at least 30 photos" in evaluated.out
    counts = {path: path.read_bytes() for path in (cities.folder / "home" / "test_reads").glob("*")}
    status, out, err = cities.type("compare", *runs, "--output", cities.folder / "both")
    assert status == 0, err
    assert "two minus Boston:" in out
    document = read(cities.folder / "both" / "comparison.json")
    Comparison.check(document)
    for run, one in zip(runs, document["runs"]):
        for name, interval in read(run / "metrics.json")["metrics"].items():
            assert one["metrics"][name] == pytest.approx(interval), name
    assert document["runs"][0]["metrics"]["log_loss"] != document["runs"][1]["metrics"]["log_loss"]
    assert "weather" in {row["column"] for row in document["beside_first"][0]["slices"]}
    assert "<html" in (cities.folder / "both" / "comparison.html").read_text()
    assert {path: path.read_bytes() for path in (cities.folder / "home" / "test_reads").glob("*")} == counts
    line = cities.refusal("compare", runs[0], finished, "--output", cities.folder / "no")
    n = len(read(runs[0] / "splits.json")["ids"]["val_test"])
    assert f"against {n}, 0 of them the same)" in line
    assert not (cities.folder / "no").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no column to hold out: add --hold_out_each city_name"),
        (("--hold_out_each", "town"), "no column 'town'"),
        (("--hold_out_each", "gps"), "gps contains places"),
        (("--hold_out_each", "city_name", "--sweep", "true"), "--sweep cannot be set"),
        (("--hold_out_each", "city_name", "--test_on", "city_name=Boston"), "--test_on cannot be set"),
        (("--hold_out_each", "origin"), "only origin ="),
    ],
)
def test_folds_that_cannot_be_are_refused_before_anything_runs(cities, words, said):
    before = sorted(path.name for path in cities.folder.iterdir())
    assert said in cities.refusal("folds", cities.recipe, *WORDS, cities.folder / "street", *words)
    assert {path.name for path in cities.folder.iterdir()} - set(before) <= {".stdout", ".stderr"}


def test_a_value_or_a_slice_that_is_not_there_is_refused_by_training(cities):
    street = ("--method", "probe", "--dataset_name", cities.folder / "street", "--output_dir", cities.folder / "none")
    assert "no row has city_name = 'Bostn'" in cities.train(*street, "--test_on", "city_name=Bostn")
    assert "expected COLUMN=VALUE" in cities.train(*street, "--test_on", "Boston")
    assert "slices: no column 'town'" in cities.train(*street, "--slices", "town")
    assert not (cities.folder / "none").exists()
