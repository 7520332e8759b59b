"""Folders that are taken, full or closed, and runs that are none: one line, exit status 2, nothing half-written."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
COLOURS = {"None": (100, 120, 110), "Roadwork": (150, 100, 90)}


# -- the output folder ------------------------------------------------------------------------------------------------


def test_an_output_folder_that_holds_a_finished_run(desk, finished):
    shutil.copytree(finished, desk.output)
    assert "already holds a finished run" in desk.train()
    assert "already holds a finished run" in desk.train("--resume_from_checkpoint", "true")


def test_an_output_folder_that_holds_an_interrupted_run(desk, photo_folder):
    desk.output.mkdir()
    (desk.output / "run.json").write_text('{"version": 2, "status": "training"}')
    line = desk.train()
    assert "--resume_from_checkpoint true" in line
    assert "--overwrite_output_dir true" in line
    for verb in ("evaluate", "calibrate"):
        assert "not finished" in desk.refusal(verb, desk.output)
    assert "not finished" in desk.refusal("predict", desk.output, photo_folder, "--output", "x.csv")


def test_an_output_folder_with_somebody_s_files(desk):
    desk.output.mkdir()
    (desk.output / "thesis.tex").write_text("years of work")
    assert "choose another folder" in desk.train("--overwrite_output_dir", "true")


def test_an_output_folder_that_cannot_be_written(desk, tmp_path):
    (tmp_path / "file").write_text("x")
    line = desk.refusal("train", desk.recipe, "--output_dir", tmp_path / "file" / "run")
    assert "cannot be written" in line
    assert "cannot be written" in desk.refusal("train", desk.recipe, "--output_dir", "/proc/run")
    assert "a file with this name exists" in desk.refusal("train", desk.recipe, "--output_dir", tmp_path / "file")


FULL = """
from safetensors import SafetensorError
from natix_hf.training import saving
def full(*_, **__):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
saving.save_file = full
"""


def test_a_disk_that_is_full_when_a_checkpoint_is_written(desk):
    line = desk.refusal("train", desk.recipe, prelude=FULL)
    assert "No space left on device" in line
    assert "free some space, then continue with --resume_from_checkpoint true" in line
    assert not list((desk.output / "checkpoints").iterdir())


def test_a_disk_that_is_really_full(desk, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=240k", "tmpfs", small], capture_output=True).returncode
    ):
        pytest.skip("mounting a small file system is not allowed here")
    try:
        line = desk.refusal("train", desk.recipe, "--output_dir", small / "run")
        assert "no space left on the disk" in line
        assert not list((small / "run").glob("*.safetensors"))
        assert not list((small / "run").glob(".*"))
        assert "not finished" in desk.refusal("evaluate", small / "run")
        subprocess.run(["mount", "-o", "remount,size=8m", small], check=True)
        result = desk.type("train", desk.recipe, "--output_dir", small / "run", "--resume_from_checkpoint", "true")
        assert result.status == 0, result.err
    finally:
        subprocess.run(["umount", small], check=True)


# -- finished runs ----------------------------------------------------------------------------------------------------


def test_a_model_whose_class_count_differs_from_the_data_s(desk, finished, make_photos, tmp_path):
    three = make_photos(tmp_path / "three", COLOURS | {"Closed": (40, 40, 200)}, 8)
    line = desk.train("--model_name_or_path", finished, "--dataset_name", three)
    assert "the model has 2 classes (None, Roadwork), the data has 3 (Closed, None, Roadwork)" in line


@pytest.mark.parametrize("verb", ["evaluate", "calibrate"])
def test_figures_of_something_that_is_no_run(desk, verb, tiny_backbone, tmp_path):
    assert desk.refusal(verb, tmp_path / "no").endswith("no such folder")
    assert "no run.json, so it is not a run" in desk.refusal(verb, tiny_backbone)
    assert "--help" in desk.refusal(verb)


def test_predict_without_photos_model_or_a_place_to_write(desk, finished, tiny_backbone, photo_folder, tmp_path):
    table = tmp_path / "out" / "table.csv"
    for words, expected in (
        ((finished, tmp_path / "no", "--output", table), "no such file or folder"),
        ((finished, tmp_path / "*.nothing", "--output", table), "no file matches this pattern"),
        ((finished, REPOSITORY / "recipes", "--output", table), "no photos in this folder"),
        ((tmp_path / "no", photo_folder, "--output", table), "no such folder"),
        ((tiny_backbone, photo_folder, "--output", table), "a backbone without a head"),
        ((photo_folder, photo_folder, "--output", table), "no model that can be loaded"),
        (
            (finished, photo_folder, "--output", tmp_path / "table.xlsx"),
            "expected a name that ends in .csv, .jsonl or .geojson",
        ),
        ((finished, photo_folder, "--output", finished / "config.json" / "x.csv"), "cannot be written"),
        ((finished, photo_folder), "--output"),
    ):
        assert expected in desk.refusal("predict", *words)
    assert not table.parent.exists()


def test_predict_on_tables_that_hold_no_photos(desk, finished, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"number": [1, 2]}), path)
    words = (finished, path, "--output", tmp_path / "out.csv")
    assert "no column 'image': the columns are number" in desk.refusal("predict", *words)
    assert "expected photos or paths" in desk.refusal("predict", *words, "--image_column_name", "number")
    path.write_bytes(b"PAR1 and then nothing")
    assert "cannot read table.parquet as parquet" in desk.refusal("predict", *words)
    assert "cannot read table.parquet as parquet" in desk.train("--dataset_name", path)


def test_predict_fails_if_no_photo_can_be_read_and_its_table_says_why(desk, finished, tmp_path):
    photo, output = tmp_path / "notes.jpg", tmp_path / "out.csv"
    photo.write_text("no photo")
    done = desk.type("predict", finished, photo, "--output", output)
    expected = f"error: {photo}: expected photos, found none that can be read: {output} has the reason of each"
    assert (done.status, done.err.splitlines()[-1]) == (2, expected)
    assert str(photo) in output.read_text()


def test_predict_with_weights_cut_short(desk, finished, photo_folder, tmp_path):
    run = shutil.copytree(finished, tmp_path / "copy")
    (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:-50])
    line = desk.refusal("predict", run, photo_folder, "--output", tmp_path / "out.csv")
    assert "no model that can be loaded" in line


def test_a_fault_shows_its_traceback_with_debug(desk):
    result = desk.type("train", desk.recipe, "--dataset_name", "/not/here", "--debug")
    assert result.status == 1
    assert "Traceback" in result.err
