"""`natix_hf.export --dtype int8`, as it is typed: what it writes, what it is proved by, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from finished_run import note_steps

from natix_hf.decision.calibration import Calibration
from natix_hf.decision.fit_calibrator import fit_calibrator
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.export import Export, Proof
from natix_hf.documents.ledger import read_ledger
from natix_hf.errors import UserError
from natix_hf.files import read_json, read_recipe, write_json
from natix_hf.runs.saved_logits import read_predictions
from tests.verbs.conftest import COLOURS, Desk, listing

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow
INT8 = ("--format", "onnx", "--dtype", "int8")
THREE = COLOURS | {"Closed": (90, 90, 150)}


@pytest.fixture(scope="module")
def desk_of(tmp_path_factory, tiny_backbone, make_photos, warm):
    """A function of classes and words of a recipe: a desk with a finished run that has enough photos of val_calib."""

    def made(classes: dict, *words: object) -> Desk:
        folder = tmp_path_factory.mktemp("int8")
        desk = Desk(folder, tiny_backbone, make_photos(folder / "photos", classes, 300 // len(classes)), warm)
        shares = ("--split_ratios", 0.3, 0.2, 0.4, 0.1)
        done = desk.type("train", desk.recipe, "--method", "probe", *shares, *words)
        assert done.status == 0, done.err
        return desk

    return made


@pytest.fixture(scope="module")
def two(desk_of) -> Desk:
    """Of two classes, with a promise."""
    return desk_of(COLOURS, "--risk", "fpr", "--risk_alpha", 0.3)


@pytest.fixture(scope="module")
def exported(two) -> Path:
    out = two.folder / "int8"
    done = two.type("export", two.output, *INT8, "--max_changed", 0.2, "--output", out)
    assert done.status == 0, done.err
    assert "photos of val_select in" in done.out
    assert "guarantee in int8" in done.out
    return out


def logits_of_photos(folder: Path, photos) -> np.ndarray:
    from natix_hf.inference.batches import logits_of, photo_batches
    from natix_hf.inference.classify import load_classifier

    model, processor = load_classifier(str(folder))
    return np.concatenate([logits_of(model, batch.pixels) for batch in photo_batches(photos, processor)])


def test_the_calibration_is_what_a_fit_by_hand_makes_of_the_int8_logits(two, exported):
    from natix_hf.runs.photos_of_run import run_splits

    rows = run_splits(two.output).rows("policy", step="fit calibration", part="fit")
    document = CalibrationFile.read(exported)
    calibration = Calibration.from_document(document)
    raw = (logits_of_photos(exported, rows["image"]) - calibration.logit_bias) * calibration.temperature
    saved = read_predictions(two.output, "val_calib", "fit")
    by_hand = fit_calibrator(raw, saved.label, saved.group, [CalibrationFile.read(two.output).calibrator])
    assert document.fitted_on == "val_calib/fit"
    assert document.calibrator == by_hand.calibration.calibrator
    np.testing.assert_allclose(document.temperature, by_hand.calibration.temperature, rtol=1e-3)
    assert document.nll_after == pytest.approx(by_hand.nll_after, abs=1e-4)
    assert np.abs(raw - saved.logits).max() > 1e-4  # the run's own logits would be another fit
    assert document.guarantee.fitted_on == "val_calib/control"


def test_the_proof_says_what_changed_and_clients_answer_like_the_graph(two, exported):
    export, proof = Export.read(exported), Proof.read(exported)
    assert export.dtype == proof.dtype == "int8"
    assert export.quantised == proof.quantised
    decisions = proof.quantised.decisions
    saved = read_predictions(two.output, "val_select")
    assert (decisions.on, decisions.n, decisions.bound) == ("val_select", len(saved.label), 0.2)
    assert decisions.low <= decisions.share == decisions.changed / decisions.n <= decisions.high
    figures = proof.quantised.figures
    control = read_predictions(two.output, "val_calib", "control")
    before = Calibration.from_document(CalibrationFile.read(two.output)).calibrated(control.logits)
    nll = np.log(np.exp(before).sum(axis=1)) - before[np.arange(len(before)), control.label]
    assert figures.before["nll"].value == pytest.approx(nll.mean(), abs=1e-9)
    assert figures.on == "val_calib/control"
    assert proof.quantised.guarantee_before == CalibrationFile.read(two.output).guarantee
    assert len(proof.clients) == 3
    assert all(client.logits < 1e-4 for client in proof.clients[1:])
    assert proof.clients[0].logits > 1e-4  # the graph from its run
    read = {(entry.step, entry.split) for entry in read_ledger(two.output)}
    assert {("quantise", "train"), ("round-trip proof", "val_select")} <= read


def test_predict_takes_the_folder_with_its_own_calibration(two, exported):
    table = two.folder / "p.csv"
    photos = sorted((two.folder / "photos" / "Roadwork").iterdir())[:7]
    done = two.type("predict", exported, two.folder / "photos" / "Roadwork", "--output", table, "--num_workers", 0)
    assert done.status == 0, done.err
    with table.open(newline="") as file:
        found = [float(row["p_Roadwork"]) for row in csv.DictReader(file)][:7]
    logits = logits_of_photos(exported, [str(path) for path in photos]).astype(np.float64)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(logits[:, 0] - logits[:, 1])), atol=2e-6)
    assert read_json(exported / "decision.json")["abstain_band"] is not None


def test_a_published_graph_has_its_own_calibration_and_a_card_that_says_int8_and_predict_reads_it(two, loopback_hub):
    owner, user = (loopback_hub.environment(two.folder / name) for name in ("owner", "user"))
    words = (two.output, "tester/quick", *INT8, "--max_changed", 0.2)
    done = two.type("publish", *words, fresh=True, **owner)
    assert done.status == 0, done.err
    held = loopback_hub.model("tester/quick")
    assert held.tags == {"1.0.0": held.head}
    assert {"model.onnx", "labels.json", "decision.json", "proof.json", "publication.json"} <= set(held.files)
    assert "config.json" not in held.files
    export, proof = Export.parse(held.files["export.json"], ""), Proof.parse(held.files["proof.json"], "")
    assert export.quantised == proof.quantised
    assert done.out.count("2 clients answer as the graph does") == 2
    own, run = CalibrationFile.parse(held.files["calibration.json"], ""), CalibrationFile.read(two.output)
    assert own.temperature != run.temperature
    assert own.guarantee == export.quantised.guarantee_after
    card = held.files["README.md"].decode()
    decisions = export.quantised.decisions
    assert f"T = {own.temperature[0]:.3f}" in card
    assert f"{decisions.changed} get another decision from the graph" in card
    assert f"95 % interval {decisions.low:.1%} to {decisions.high:.1%}" in card
    assert f"Guarantee of the run in fp32: {run.guarantee.lines[-1][:1].upper()}" in card

    photos, table = two.folder / "photos" / "Roadwork", two.folder / "published.jsonl"
    done = two.type("predict", "tester/quick", photos, "--output", table, fresh=True, **user)
    assert done.status == 0, done.err
    rows = {row["file"]: row["probabilities"]["Roadwork"] for row in map(json.loads, table.open())}
    (two.folder / "fetched").mkdir()
    for name in ("model.onnx", "labels.json", "preprocessor_config.json", "export.json"):
        (two.folder / "fetched" / name).write_bytes(held.files[name])
    logits = logits_of_photos(two.folder / "fetched", list(rows)).astype(np.float64)
    np.testing.assert_allclose(list(rows.values()), 1 / (1 + np.exp(logits[:, 0] - logits[:, 1])), atol=2e-6)


def test_three_classes_keep_their_order_and_photos_that_moved_are_read_where_they_are(desk_of):
    desk = desk_of(THREE)
    moved = (desk.folder / "photos").rename(desk.folder / "moved")
    asked = ("--max_changed", 0.2, "--output", desk.folder / "out")
    assert "say where they are with --dataset_name" in desk.refusal("export", desk.output, *INT8, *asked)
    done = desk.type("export", desk.output, *INT8, *asked, "--dataset_name", moved)
    assert done.status == 0, done.err
    assert Proof.read(desk.folder / "out").photos.source == "val_select"
    assert read_json(desk.folder / "out" / "labels.json") == ["Closed", "None", "Roadwork"]
    for name in THREE:
        photos = [str(path) for path in sorted((moved / name).iterdir())[:10]]
        one, other = logits_of_photos(desk.folder / "out", photos), logits_of_photos(desk.output, photos)
        assert (one.argmax(axis=1) == other.argmax(axis=1)).mean() >= 0.7


def test_a_spoiled_graph_is_refused_and_leaves_nothing(two, monkeypatch):
    from natix_hf.runs import export_int8 as room

    before = {name: text for name, text in listing(two.folder).items() if not name.endswith("ledger.jsonl")}
    sound = room.logits_by
    monkeypatch.setattr(room, "logits_by", lambda folder: lambda *asked: -sound(folder)(*asked))
    with pytest.raises(UserError, match=r"int8 changes the decision on \d+ of \d+ photos of val_select .* NLL on "):
        room.export_int8(two.output, "onnx", two.folder / "spoiled", dtype="int8")
    after = {name: text for name, text in listing(two.folder).items() if not name.endswith("ledger.jsonl")}
    assert after == before


def test_a_guarantee_that_int8_loses_is_refused_and_one_that_the_run_never_had_is_not(two):
    from natix_hf.runs.export_int8 import export_int8

    run = shutil.copytree(two.output, two.folder / "strict")
    asked = {"dtype": "int8", "max_changed": 0.2}
    document = CalibrationFile.read(run)
    document = document.model_copy(update={"options": document.options | {"risk_alpha": 0.001}})
    document.write(run)
    with pytest.raises(UserError, match=r"no guarantee in int8: risk_alpha 0\.001 is out of reach"):
        export_int8(run, "onnx", two.folder / "lost", **asked)
    assert not (two.folder / "lost").exists()
    none = document.guarantee.model_copy(update={"reachable": False, "reason": "too few photos"})
    document.model_copy(update={"guarantee": none}).write(run)
    quantised = export_int8(run, "onnx", two.folder / "never-had", **asked).quantised
    assert not quantised.guarantee_after.reachable


def test_what_cannot_be_had_in_int8_is_refused_in_a_line(two, trained_desk, finished):
    out = two.folder / "none"

    def line(run: Path, *words: object) -> str:
        told = two.refusal("export", run, *words, "--output", out)
        assert not out.exists()
        return told

    for form in ("merged", "stock"):
        assert "use --format onnx" in line(two.output, "--format", form, "--dtype", "int8")
    assert "int8 goes with onnx" in line(two.output, "--format", "adapter", "--dtype", "int8")
    assert "belongs to --dtype int8" in line(two.output, "--format", "onnx", "--max_changed", 0.1)
    assert "a share from 0 to below 1" in line(two.output, *INT8, "--max_changed", 2)
    few = line(finished, *INT8)
    assert "at least 30" in few
    assert "val_calib" in few

    gone = shutil.copytree(two.output, two.folder / "gone")
    recipe = read_recipe(gone) | {"dataset_name": str(two.folder / "nowhere")}
    (gone / "recipe.yaml").write_text(
        "\n".join(f"{key}: {value}" for key, value in recipe.items() if value is not None)
    )
    told = line(gone, *INT8)
    assert "int8 needs photos of train" in told
    assert "say where they are with --dataset_name" in told
    write_json(gone / "run.json", read_json(gone / "run.json") | {"purpose": "refit"})
    note_steps(gone)
    assert "is a refit" in line(gone, *INT8)
    (gone / "run.json").unlink()
    write_json(gone / "recalibration.json", {})
    assert "is a recalibrated copy" in line(gone, *INT8)
