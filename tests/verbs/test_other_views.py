"""`--image_size --force` and `--tta` as they are typed: predict, recalibrate on the run's own val_calib, export."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.export import Export
from natix_hf.documents.ledger import read_ledger
from natix_hf.documents.recalibration import Recalibration
from natix_hf.files import read_json, write_json
from natix_hf.photos.geometry import Geometry, Squash
from tests.verbs.conftest import listing

pytestmark = pytest.mark.slow
SPEED = ("--num_workers", 0)


@pytest.fixture(scope="module")
def wide_copy(trained_desk, finished) -> tuple[Path, str]:
    """The run of 32 px recalibrated at 32 x 64 px on its own val_calib, and what was printed."""
    return _recalibrated(trained_desk, finished, "wide-copy", "--image_size", 32, 64, "--force")


@pytest.fixture(scope="module")
def mirrored_copy(trained_desk, finished) -> tuple[Path, str]:
    """The run recalibrated for photos that are seen mirrored too."""
    return _recalibrated(trained_desk, finished, "mirrored-copy", "--tta", "flip")


def _recalibrated(desk, run: Path, name: str, *words: object) -> tuple[Path, str]:
    output = desk.folder / name
    before = {path: text for path, text in listing(run).items() if path != "ledger.jsonl"}
    done = desk.type("recalibrate", run, *words, "--output", output, *SPEED)
    assert done.status == 0, done.err
    assert {path: text for path, text in listing(run).items() if path != "ledger.jsonl"} == before
    return output, done.out


def predicted(desk, model: Path, *words: object) -> tuple[np.ndarray, str]:
    """The probabilities of the desk's photos, and what was printed."""
    table = desk.folder / "views.csv"
    done = desk.type("predict", model, desk.folder / "photos", "--output", table, *words, *SPEED)
    assert done.status == 0, done.err
    with table.open(newline="") as file:
        return np.array([float(row["p_Roadwork"]) for row in csv.DictReader(file)]), done.out


def test_predict_at_another_size_is_refused_and_by_force_marked(trained_desk, finished):
    desk, words = trained_desk, (trained_desk.folder / "photos", "--output", trained_desk.folder / "no.csv", *SPEED)
    line = desk.refusal("predict", finished, *words, "--image_size", 32, 64)
    assert "was trained with 32 x 32 px" in line
    assert "add --force" in line
    assert not (desk.folder / "no.csv").exists()
    assert "a multiple of" in desk.refusal("predict", finished, *words, "--image_size", 32, 40, "--force")
    plain, said = predicted(desk, finished)
    assert ": 48 photos, calibrated probabilities" in said
    same, said = predicted(desk, finished, "--image_size", 32)
    np.testing.assert_array_equal(same, plain)
    assert ": 48 photos, calibrated probabilities" in said
    wide, said = predicted(desk, finished, "--image_size", 32, 64, "--force")
    assert np.abs(wide - plain).max() > 1e-4
    assert "photos are prepared at 32 x 64 px, but the model was trained with 32 x 32 px: its calibration is" in said
    assert ": 48 photos, uncalibrated probabilities" in said


def test_views_at_test_time_are_never_silently_on_and_say_that_nothing_was_calibrated(trained_desk, finished):
    plain, _ = predicted(trained_desk, finished)
    none, said = predicted(trained_desk, finished, "--tta", "none")
    np.testing.assert_array_equal(none, plain)
    assert "tta" not in said
    for views in ("flip", "flip,scales"):
        found, said = predicted(trained_desk, finished, "--tta", views)
        assert np.abs(found - plain).max() > 1e-5
        assert f"--tta {views}: the calibration was not fitted with these views and is not valid here" in said
        assert ": 48 photos, uncalibrated probabilities" in said
    output = trained_desk.folder / "no.csv"
    line = trained_desk.refusal(
        "predict", finished, trained_desk.folder / "photos", "--output", output, "--tta", "sideways"
    )
    assert line.startswith(
        "argument --tta: expected flip, scales, both with a comma between them, or none; found 'sideways'"
    )


def test_val_calib_of_the_run_is_what_the_new_calibration_was_fitted_on(wide_copy, mirrored_copy, finished):
    splits = read_certificate(finished)
    for folder, said in (wide_copy, mirrored_copy):
        document, report = CalibrationFile.read(folder), Recalibration.read(folder)
        assert document.fitted_on == "val_calib/fit"
        assert report.figures.on == "val_calib/control"
        assert report.photos.n == splits.sizes["val_calib"]
        assert "own photos" not in said
        assert "## Recalibrated on val_calib" in (folder / "README.md").read_text()
    reads = [(entry.step, entry.part) for entry in read_ledger(finished)]
    assert reads[-2:] == [("fit calibration", "fit"), ("guarantee", "control")]


def test_a_copy_for_another_size_is_calibrated_there(wide_copy, trained_desk):
    folder, said = wide_copy
    assert "the new calibration is only for 32 x 64 pixels" in said
    assert read_json(folder / "preprocessor_config.json")["size"] == {"height": 32, "width": 64}
    _, said = predicted(trained_desk, folder)
    assert ": 48 photos, calibrated probabilities" in said
    out = trained_desk.folder / "no.csv"
    words = (trained_desk.folder / "photos", "--output", out, "--image_size", 32)
    assert "was trained with 32 x 64 px" in trained_desk.refusal("predict", folder, *words)


def test_a_copy_for_views_is_asked_with_them_or_says_so(mirrored_copy, trained_desk):
    desk, (folder, said) = trained_desk, mirrored_copy
    assert "predict with --tta flip" in said
    assert read_json(folder / "config.json")["decision"]["views"] == ["flip"]
    photos, out = desk.folder / "photos", desk.folder / "no.csv"
    assert "add --tta flip, or --tta none" in desk.refusal("predict", folder, photos, "--output", out)
    assert not out.exists()
    loose = ("recalibrate", folder, photos / "Roadwork", "--output", desk.folder / "no")  # without labels
    assert "add --tta flip, or --tta none" in desk.refusal(*loose)
    _, said = predicted(desk, folder, "--tta", "flip")
    assert ": 48 photos, calibrated probabilities" in said
    for views in ("none", "flip,scales"):
        _, said = predicted(desk, folder, "--tta", views)
        assert f"--tta {views}: the calibration was" in said
        assert ": 48 photos, uncalibrated probabilities" in said
    line = desk.refusal("export", folder, "--format", "merged", "--output", desk.folder / "no")
    assert "clients give the model one view: export the run that it was recalibrated from" in line
    assert not (desk.folder / "no").exists()


def test_recalibrating_without_photos_needs_a_reason_and_a_run(trained_desk, finished, mirrored_copy, tmp_path):
    def refused(*words: object) -> str:
        line = trained_desk.refusal("recalibrate", *words, "--output", tmp_path / "out", *SPEED)
        assert not (tmp_path / "out").exists()
        return line

    assert refused(finished).startswith("no photos given: name them, or say how those of val_calib are prepared")
    assert "add --force" in refused(finished, "--image_size", 64)
    assert "leave out isotonic, or --tta" in refused(finished, "--tta", "flip", "--calibrator", "isotonic")
    assert "not a run, so it has no photos of val_calib" in refused(mirrored_copy[0], "--tta", "flip")


@pytest.mark.parametrize("form", ["merged", "stock"])
def test_an_export_at_another_size_holds_its_image_processor_and_says_that_it_is_uncalibrated(
    form, trained_desk, finished
):
    pytest.importorskip("timm")
    desk, out = trained_desk, trained_desk.folder / f"wide-{form}"
    words = (finished, "--format", form, "--output", out)
    assert "add --force" in desk.refusal("export", *words, "--image_size", 32, 64)
    assert not out.exists()
    # One of them is proved: the run answers like its export at that size.
    done = desk.type("export", *words, "--image_size", 32, 64, "--force", *["--no_proof"] * (form == "merged"))
    assert done.status == 0, done.err
    assert "the probabilities are not calibrated" in done.out
    document = Export.read(out)
    assert (document.image_size, document.calibrated_at) == ([32, 64], 32)
    from natix_hf.inference.classify import load_classifier

    assert Geometry.of(load_classifier(str(out))[1]) == Squash(32, 64)
    table = desk.folder / "no.csv"
    line = desk.refusal("predict", out, desk.folder / "photos", "--output", table, *SPEED)
    assert "preprocessor_config.json says 32 x 64 px, but the model was trained with 32 x 32 px" in line
    forced, said = predicted(desk, out, "--image_size", 32, 64, "--force")
    expected, _ = predicted(desk, finished, "--image_size", 32, 64, "--force")
    np.testing.assert_allclose(forced, expected, atol=3e-6)
    assert ": 48 photos, uncalibrated probabilities" in said
    back, said = predicted(desk, out, "--image_size", 32)
    plain, _ = predicted(desk, finished)
    np.testing.assert_allclose(back, plain, atol=3e-6)
    assert ": 48 photos, calibrated probabilities" in said


def test_a_graph_sees_photos_at_its_own_size_alone(trained_desk, finished):
    pytest.importorskip("onnxruntime")
    desk, out = trained_desk, trained_desk.folder / "graph"
    done = desk.type("export", finished, "--format", "onnx", "--output", out, "--no_proof")
    assert done.status == 0, done.err
    words = (desk.folder / "photos", "--output", desk.folder / "no.csv", *SPEED)
    line = desk.refusal("predict", out, *words, "--image_size", 64, "--force")
    assert "is a graph for 32 x 32 px: export the run again with this --image_size" in line
    assert "an exported graph takes photos of one size only" in desk.refusal("predict", out, *words, "--tta", "scales")
    mirrored, _ = predicted(desk, out, "--tta", "flip")
    expected, _ = predicted(desk, finished, "--tta", "flip")
    np.testing.assert_allclose(mirrored, expected, atol=3e-6)


def test_an_image_processor_that_somebody_changed_stops_predict_and_export(trained_desk, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    path = run / "preprocessor_config.json"
    write_json(path, read_json(path) | {"size": {"height": 64, "width": 64}})
    words = (trained_desk.folder / "photos", "--output", tmp_path / "p.csv", *SPEED)
    for line in (
        trained_desk.refusal("predict", run, *words),
        trained_desk.refusal("export", run, "--format", "merged", "--output", tmp_path / "out"),
    ):
        assert "preprocessor_config.json says 64 x 64 px, but the model was trained with 32 x 32 px" in line
