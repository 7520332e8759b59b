"""Class shares where a run works, estimated from what it predicted there: `natix_hf.calibrate RUN --deployment`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from natix_hf import UserError, calibrate
from natix_hf.decision.calibration import Calibration
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.files import read_json
from natix_hf.inference.classify import Prediction, write_rows
from natix_hf.inference.probability_tables import read_probabilities
from natix_hf.logits import softmax
from natix_hf.runs.deployment_shares import deployment_prior
from tests.runs.test_calibrate_run import NAMES, write

TRUTH = 0.3  # share of positives where the model works; 0.9 in val_calib


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose logits are twice the log posterior under 90 % positives, with a prior and a threshold in use."""
    run = write(tmp_path_factory.mktemp("runs") / "street")
    calibrate.main([str(run), "--target_prior", "0.5", "--fold_threshold", "--threshold_metric", "cost:1:10"])
    return run


@pytest.fixture
def copy(run, tmp_path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def predicted(run: Path, path: Path, n: int = 2000, seed: int = 5, rough: float = 1.0, broken: int = 0) -> np.ndarray:
    """What `predict` writes of photos in which the share of positives is `TRUTH`; returns their labels."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(n) < TRUTH).astype(int)
    evidence = generator.normal(0, 1.3, (n, 2)) + 2.2 * np.eye(2)[labels]
    logits = 2 * (evidence * rough * 2.2 / 1.3**2 + np.log([0.1, 0.9]))
    calibration = Calibration.from_document(CalibrationFile.read(run))
    p, decided = softmax(calibration.calibrated(logits)), calibration.decisions(logits)
    rows = [Prediction(f"{i}.jpg", p[i], None, int(decided[i])) for i in range(n)]
    rows += [Prediction(f"broken-{i}.jpg", None, "no photo") for i in range(broken)]
    write_rows(path, rows, NAMES, read_json(run / "config.json").get("decision"))
    return labels


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_the_shares_of_a_known_shift_are_found_and_become_the_prior(copy, tmp_path, capsys, suffix):
    table = tmp_path / f"predictions.{suffix}"
    labels = predicted(copy, table, broken=3)
    before = read_json(copy / "calibration.json")
    capsys.readouterr()
    calibrate.main([str(copy), "--deployment", str(table)])
    said, document = capsys.readouterr().out, read_json(copy / "calibration.json")
    CalibrationFile.check(document)
    prior = document["prior"]
    told = prior["deployment"]
    assert before["prior"]["target"] == [0.5, 0.5]
    assert told["low"][1] < labels.mean() < told["high"][1]
    assert told["high"][1] - told["low"][1] < 0.15
    assert prior["target"] == pytest.approx(told["estimated"])
    assert document["prior_bias"] == pytest.approx(np.log(prior["target"]) - np.log(prior["seen"]))
    assert (told["n"], told["skipped"], told["drift"]["found"]) == (2000, 3, False)
    accuracy = told["expected_accuracy"]["with_this_prior"]
    # The best that any rule can do on these photos, from the posterior that they were made with.
    d = np.random.default_rng(1).normal(0, 1.3, (200_000, 2)) + 2.2 * np.eye(2)[[0, 1] * 100_000]
    odds = (d[:, 1] - d[:, 0]) * 2.2 / 1.3**2 + np.log(TRUTH / (1 - TRUTH))
    right = TRUTH * np.mean(odds[1::2] > 0) + (1 - TRUTH) * np.mean(odds[::2] <= 0)
    assert accuracy["low"] - 0.01 < right < accuracy["high"] + 0.01
    assert "class shares in 2000 photos without labels, 3 unreadable ones left out: Roadwork " in said
    assert f"-> those estimated from 2000 photos without labels (EM, 95 % interval {told['low'][1]:.1%}" in said
    assert "no drift found" in said


def test_the_same_table_again_gives_the_same_shares_though_the_calibration_is_another_now(copy, tmp_path):
    table = tmp_path / "predictions.csv"
    predicted(copy, table)
    calibrate.main([str(copy), "--deployment", str(table)])
    first = read_json(copy / "calibration.json")
    calibrate.main([str(copy), "--deployment", str(table), "--fold_threshold", "--threshold_metric", "cost:1:10"])
    again = read_json(copy / "calibration.json")
    assert again["folded"]
    assert again["prior"] == first["prior"]


def test_a_table_from_before_the_calibration_is_refused(copy, tmp_path):
    table = tmp_path / "predictions.csv"
    predicted(copy, table)
    os.utime(table, (0, 0))
    with pytest.raises(UserError, match=r"older than calibration.json of .*: run natix_hf.predict again"):
        deployment_prior(copy, table)


def test_drift_is_among_the_notes(copy, tmp_path):
    table = tmp_path / "predictions.csv"
    predicted(copy, table, rough=0.2)
    calibrate.main([str(copy), "--deployment", str(table)])
    assert any(note.startswith("drift: ") for note in read_json(copy / "calibration.json")["notes"])


def test_photos_of_one_class_leave_the_other_a_share_above_none(copy, tmp_path):
    table = tmp_path / "predictions.jsonl"
    rows = [{"file": f"{i}.jpg", "label": "None", "probabilities": {"None": 1.0, "Roadwork": 0.0}} for i in range(200)]
    table.write_text("\n".join(map(json.dumps, rows)))
    target, _ = deployment_prior(copy, table)
    assert target[1] == pytest.approx(0.5 / 200, rel=0.01)


def test_unusable_tables_are_refused_in_one_line_and_change_nothing(copy, tmp_path):
    def line(name: str, text: str | bytes, *words: str) -> str:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        kept = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
        with pytest.raises(UserError) as caught:
            calibrate.main([str(copy), "--deployment", str(tmp_path / name), *words])
        assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == kept
        assert "\n" not in str(caught.value)
        return str(caught.value)

    head = "file,label,p_None,p_Roadwork,error\n"
    with pytest.raises(UserError, match=r"no\.csv: no such file"):
        deployment_prior(copy, tmp_path / "no.csv")
    assert "expected .csv or .jsonl, found a .geojson file" in line("a.geojson", "{}")
    assert "the columns p_None, p_Roadwork; found no columns of probabilities" in line("a.csv", "file,label\n")
    assert "p_Roadwork; found p_Cat, p_Dog: give" in line("b.csv", "file,label,p_Cat,p_Dog,error\nx,Cat,1,0,\n")
    assert "no probabilities found" in line("c.csv", head + "x,,,,cannot be opened\n")
    assert "p_Roadwork; found no columns of probabilities" in line("c2.csv", "")
    assert "line 3: expected probabilities that sum to 1, found '3.2 -1.1'" in line(
        "d.csv", head + "x,None,1,0,\ny,None,3.2,-1.1,\n"
    )
    assert "line 2: expected probabilities that sum to 1, found 'nan nan'" in line("e.csv", head + "x,None,nan,nan,\n")
    assert "line 2: expected probabilities that sum to 1, found '0.9 None'" in line("f.csv", head + "x,None,0.9\n")
    assert "expected at least 100 photos with probabilities, found 1" in line("g.csv", head + "x,None,1,0,\n")
    assert "not a text file" in line("h.csv", b"\xff\xfe\x00\x01")
    assert "line 1 is not a row that natix_hf.predict wrote" in line("i.jsonl", "nothing\n")
    assert "line 1 is not a row that natix_hf.predict wrote" in line("i2.jsonl", "[1, 2]\n")
    assert "line 1: expected the classes None, Roadwork; found Cat" in line(
        "j.jsonl", '{"file": "x", "label": "Cat", "probabilities": {"Cat": 1.0}}\n'
    )
    assert "both give class shares" in line("k.csv", head, "--target_prior", "0.5")


def test_probabilities_come_back_as_they_were_written(run, tmp_path):
    rows = [Prediction("a", np.array([0.25, 0.75]), None, 1), Prediction("b", None, "broken")]
    for name in ("t.csv", "t.jsonl"):
        write_rows(tmp_path / name, rows, ["No, none", "Road\nwork"], None)
        found, without = read_probabilities(tmp_path / name, ["No, none", "Road\nwork"])
        np.testing.assert_array_equal(found, [[0.25, 0.75]])
        assert without == 1
