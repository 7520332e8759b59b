"""`natix_hf.recalibrate` as it is typed: a copy from labelled photos, a report from others, refusals in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from natix_hf.decision.calibration import Calibration
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.recalibration import Recalibration
from tests.verbs.conftest import COLOURS, listing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def own(tmp_path_factory, make_photos) -> Path:
    return make_photos(tmp_path_factory.mktemp("own") / "photos", COLOURS, 30, seed=11)


@pytest.fixture(scope="module")
def copy(trained_desk, finished, own) -> tuple[Path, str]:
    """The recalibrated copy, and what was printed."""
    (own / "None" / "broken.jpg").write_bytes(b"no photo")
    splits = json.loads((finished / "splits.json").read_text())
    shutil.copy(trained_desk.folder / "photos" / splits["ids"]["train"][0], own / "None" / "trained-on.jpg")
    before, output = listing(finished), trained_desk.folder / "mine"
    words = (finished, own, "--output", output, "--max_fpr", 0.3, "--prevalence", 0.1, "--fold_threshold", "true")
    done = trained_desk.type("recalibrate", *words, "--num_workers", 0)
    assert done.status == 0, done.err
    assert listing(finished) == before
    (own / "None" / "broken.jpg").unlink()
    (own / "None" / "trained-on.jpg").unlink()
    assert done.out.splitlines()[:2] == ["2 classes: None 32, Roadwork 30", f"labels: class folders of {own}"]
    return output, done.out + done.err


def test_the_copy_holds_the_new_calibration_everywhere(copy, finished):
    from transformers import AutoModelForImageClassification

    folder, _ = copy
    document, report = (json.loads((folder / f"{n}.json").read_text()) for n in ("calibration", "recalibration"))
    CalibrationFile.check(document)
    Recalibration.check(report)
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "README.md", "splits.json"}
    assert not {"run.json", "metrics.json", "checkpoints"} & {path.name for path in folder.iterdir()}
    assert document["prior_bias"] != [0, 0]
    assert document["guarantee"]["fitted_on"] == "own photos/control"
    model = AutoModelForImageClassification.from_pretrained(folder)
    np.testing.assert_allclose(model.head.temperature, document["temperature"], rtol=1e-6)
    np.testing.assert_allclose(model.head.logit_bias, document["logit_bias"], rtol=1e-5)
    assert model.config.decision["abstain_band"] == [document["guarantee"]["low"], document["guarantee"]["high"]]
    assert model.config.decision["threshold"] == document["threshold"]
    assert "## Recalibrated on other photos" in (folder / "README.md").read_text()


def test_the_halves_share_no_group_and_make_up_the_photos(copy):
    folder, said = copy
    report = json.loads((folder / "recalibration.json").read_text())
    rows = pq.read_table(folder / "predictions" / "val_calib.parquet").to_pydict()
    homes = {part: {g for g, p in zip(rows["group"], rows["part"]) if p == part} for part in ("fit", "control")}
    assert not homes["fit"] & homes["control"]
    assert report["photos"]["n"] == len(rows["id"]) == 60
    assert report["figures"]["n"] == rows["part"].count("control")
    assert [photo["id"] for photo in report["photos"]["broken"]] == ["None/broken.jpg"]
    assert report["photos"]["known"] == {"train": 1}
    assert "left out, because the model's own data holds them: 1 of train" in said
    assert "not read: None/broken.jpg" in said
    assert said.index("can certify fpr 0.") < said.index("calibration on own photos/fit")


def test_predict_gives_the_probabilities_that_the_copy_promises(copy, trained_desk, own):
    folder, _ = copy
    output = trained_desk.folder / "predicted.csv"
    assert trained_desk.type("predict", folder, own / "Roadwork", "--output", output, "--num_workers", 0).status == 0
    rows = pq.read_table(folder / "predictions" / "val_calib.parquet").to_pydict()
    logits = {row: np.array(one) for row, one in zip(rows["id"], rows["logits"])}
    calibration = Calibration.from_document(CalibrationFile.read(folder))
    lines = output.read_text().splitlines()
    header = lines[0].split(",")
    for line in lines[1:6]:
        found = dict(zip(header, line.split(",")))
        served = calibration.served(logits[f"Roadwork/{Path(found['file']).name}"][None])[0]
        expected = 1 / (1 + np.exp(served[0] - served[1]))
        calibrated = calibration.calibrated(logits[f"Roadwork/{Path(found['file']).name}"][None])[0]
        other = 1 / (1 + np.exp(calibrated[0] - calibrated[1]))
        assert min(abs(float(found["p_Roadwork"]) - expected), abs(float(found["p_Roadwork"]) - other)) < 1e-4
        assert (found["label"] == "Roadwork") == (expected > 0.5)


def test_a_copy_is_exported_and_a_stock_export_recalibrated_to_the_same_answers(copy, trained_desk, own, finished):
    desk, (folder, _) = trained_desk, copy
    tables = {}
    for name, source in (("from-copy", folder), ("plain", finished)):
        done = desk.type("export", source, "--format", "stock", "--output", desk.folder / name, "--no_proof")
        assert done.status == 0, done.err
    words = ("--max_fpr", 0.3, "--prevalence", 0.1, "--fold_threshold", "true", "--num_workers", 0)
    done = desk.type("recalibrate", desk.folder / "plain", own, "--output", desk.folder / "again", *words)
    assert done.status == 0, done.err
    for name, model in (("copy", folder), ("from-copy", desk.folder / "from-copy"), ("again", desk.folder / "again")):
        table = desk.folder / f"{name}.csv"
        assert desk.type("predict", model, own, "--output", table, "--num_workers", 0).status == 0
        rows = [line.split(",") for line in table.read_text().splitlines()]
        place = rows[0].index("p_Roadwork")
        tables[name] = [(row[1], row[place + 1]) for row in rows], [float(row[place]) for row in rows[1:]]
    for name in ("from-copy", "again"):
        assert tables[name][0] == tables["copy"][0]
        np.testing.assert_allclose(tables[name][1], tables["copy"][1], atol=3e-6)
    line = desk.refusal("export", own, "--format", "stock", "--output", desk.folder / "no")
    assert "not a run of natix_hf" in line


def test_photos_without_labels_give_a_report_and_no_model(trained_desk, finished, own):
    loose = trained_desk.folder / "loose"
    shutil.copytree(own / "Roadwork", loose)
    output = trained_desk.folder / "report"
    done = trained_desk.type("recalibrate", finished, loose, "--output", output, "--num_workers", 0)
    assert done.status == 0, done.err
    assert [path.name for path in output.iterdir()] == ["recalibration.json"]
    report = json.loads((output / "recalibration.json").read_text())
    Recalibration.check(report)
    assert report["labelled"] is False
    assert report["drift"] is not None
    for words in (
        "estimated class shares: ",
        "expected accuracy as the model decides now: ",
        "without labels no model",
    ):
        assert words in done.out


def test_refusals(trained_desk, finished, own, tmp_path, make_photos):
    def refused(*words) -> str:
        output = tmp_path / "out"
        line = trained_desk.refusal("recalibrate", *words, "--output", output, "--num_workers", 0)
        assert not output.exists() or not list(output.iterdir())
        return line

    line = refused(finished, own, "--max_fpr", 0.01)
    assert line.startswith("--max_fpr 0.01 is out of reach: with 90% confidence the checking half (15 photos of None")
    assert "set --max_fpr 0.1424 or more" in line  # 1 - 0.1^(1/15)
    cats = make_photos(tmp_path / "cats", {"Cat": (1, 2, 3), "Dog": (200, 2, 3)}, 20)
    assert "is outside label_names: expected one of 0=None, 1=Roadwork" in refused(finished, cats)
    few = make_photos(tmp_path / "few", COLOURS, 10, seed=5)
    assert refused(finished, few).endswith("few: expected at least 30 usable photos, found 20")
    shutil.copytree(own / "None", tmp_path / "one" / "None")
    assert "all 30 photos are of one class ('None')" in refused(finished, tmp_path / "one")
    assert "no such folder" in refused("./nowhere", own)
    assert "add prevalence" in refused(finished, own, "--min_precision", 0.9)
    assert "--prevalence: expected a number above 0 and below 1, found 3" in refused(finished, own, "--prevalence", 3)
    assert refused(finished, own, "--max_fnr", 0) == "--max_fnr: expected a number above 0 and below 1, found 0"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    line = trained_desk.refusal("recalibrate", finished, own, "--output", tmp_path / "full")
    assert "exists and is not empty" in line
    trained = trained_desk.folder / "photos"
    assert "48 are in the model's own data" in refused(finished, trained)
