"""A small run under challenge profiles, from its recipe and once more after it is finished."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from natix_hf import NatixTrainer, NatixTrainingArguments, UserError, finish_run, load_model, load_photos, train_run
from natix_hf.decision.calibration import Calibration
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.ledger import read_ledger
from natix_hf.documents.reward import Reward
from natix_hf.documents.robustness import Robustness
from natix_hf.inference.batches import client_pixels
from natix_hf.inference.classify import load_classifier
from natix_hf.report.metrics import classification_metrics
from natix_hf.runs.calibrate_run import calibrate_run
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.evaluate_run import evaluate_run
from natix_hf.runs.measure_robustness import measure_robustness
from natix_hf.runs.saved_logits import read_predictions
from natix_hf.streetvision.field import read_field
from natix_hf.streetvision.profiles import SENT, cached_photo
from natix_hf.streetvision.sent_photos import Case, cases_of, sent_photo

PROFILE = "challenge@2025"
COLOURS = {"None": (100, 120, 110), "Roadwork": (150, 100, 90)}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tiny_backbone, make_photos, tmp_path_factory):
    """The folder of a run that is calibrated on what a challenge sends, and the splits that it was given."""
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("challenged")
    patch.setenv("NATIX_HF_HOME", str(folder / "home"))
    photos = make_photos(folder / "photos", COLOURS, 40)
    splits = load_photos(photos)
    model, processor = load_model(str(tiny_backbone), splits.label_names, method="lora", image_size=32)
    arguments = NatixTrainingArguments(
        output_dir=str(folder / "run"),
        num_train_epochs=1,
        learning_rate=3e-3,
        per_device_train_batch_size=8,
        dataloader_num_workers=0,
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = NatixTrainer(
        model,
        arguments,
        splits=splits,
        processing_class=processor,
    )
    train_run(trainer, recipe_text=f"dataset_name: {photos}\n")
    finish_run(trainer, DecisionOptions(calibrate_on=PROFILE, calibrate_views=2, robustness=[PROFILE]))
    patch.undo()
    return folder / "run", photos


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "run")


def test_val_calib_is_predicted_as_it_is_sent_in_its_groups_and_parts(finished):
    run, photos = finished
    clean = read_predictions(run, "val_calib")
    for part in ("fit", "control"):
        plain, sent = (read_predictions(run, name, part) for name in ("val_calib", "val_calib@challenge-2025"))
        for column in ("ids", "group", "label"):
            assert list(getattr(sent, column)) == list(getattr(plain, column)) * 2
    # A photo, sent by hand: the logits before calibration are those of the saved model with its calibration undone.
    rows = load_photos(photos).rows("policy", step="predictions", part="fit")
    model, processor = load_classifier(str(run))
    calibration = Calibration.from_document(CalibrationFile.read(run))
    sent = read_predictions(run, "val_calib@challenge-2025", "fit")
    assert list(rows["id"][:]) == list(sent.ids[: len(rows)])
    for view in (0, 1):
        image = sent_photo(cached_photo(rows[2]["image"]), Case(PROFILE, view=view), rows[2]["id"])
        with torch.inference_mode():
            served = model(pixel_values=client_pixels(image, processor)[None]).logits[0].numpy()
        at = view * len(rows) + 2
        np.testing.assert_allclose(calibration.served(sent.logits[at : at + 1])[0], served, atol=1e-4)
    assert len(clean.ids) * 2 == len(pq.read_table(run / "predictions" / "val_calib@challenge-2025.parquet"))


def test_val_test_is_predicted_in_every_way_and_the_documents_follow(finished):
    run, _ = finished
    table = pq.read_table(run / "predictions" / "robustness" / "challenge-2025.parquet")
    rows, n = read_predictions(run, "val_test"), len(read_predictions(run, "val_test").ids)
    assert table.column_names == ["id", "group", "label", "profile", "level", "distortion", "severity", "logits"]
    assert len(table) == n * len(cases_of(PROFILE))
    document, reward = (json.loads((run / f"{name}.json").read_text()) for name in ("robustness", "reward"))
    Robustness.check(document)
    Reward.check(reward)
    assert [profile["sent"] for profile in document["profiles"]] == [SENT]
    assert [entry.get("sent") for entry in reward["entries"]] == [None, SENT]
    fitted = CalibrationFile.read(run)
    assert fitted.sent == SENT
    calibration = Calibration.from_document(fitted)
    level_3 = table.filter(table_column(table, "level") == 3).to_pydict()
    logits = calibration.served(np.array(level_3["logits"]))
    got = next(case for case in document["profiles"][0]["cases"] if case["level"] == 3)
    assert got["metrics"]["log_loss"]["value"] == pytest.approx(
        classification_metrics(logits, np.array(level_3["label"]))["log_loss"]
    )
    assert (
        document["clean"]["mcc"]["value"] == json.loads((run / "metrics.json").read_text())["metrics"]["mcc"]["value"]
    )
    assert document["latency"]["n"] == min(50, n)
    assert [(entry["profile"], entry["n"]) for entry in reward["entries"]] == [("clean", n), (PROFILE, 4 * n)]
    assert reward["entries"][0]["groups"] == reward["entries"][1]["groups"] == len(set(rows.group))
    for name in ("robustness", "reward"):
        assert (run / "figures" / f"{name}.png").is_file()


def table_column(table, name):
    return np.array([-1 if value is None else value for value in table[name].to_pylist()])


def test_measured_once_more_gives_the_same_logits_and_no_other_read_of_the_test(finished, run):
    path = run / "predictions" / "robustness" / "challenge-2025.parquet"
    before = np.array(pq.read_table(path)["logits"].to_pylist())
    evaluate_run(run)
    shutil.rmtree(path.parent)
    (run / "robustness.json").unlink()
    measure_robustness(run, [PROFILE, "challenge@2026-05"], num_workers=0)
    document = evaluate_run(run)
    np.testing.assert_allclose(np.array(pq.read_table(path)["logits"].to_pylist()), before, atol=1e-4)
    assert document.times_read_before == 0  # the same model on the same rows
    found = json.loads((run / "robustness.json").read_text())
    assert [profile["profile"] for profile in found["profiles"]] == [PROFILE, "challenge@2026-05"]
    assert [entry.step for entry in read_ledger(run) if entry.split == "val_test"] == [
        "predictions",
        "predictions",
        "confident mistakes",
        "final figures",
        "final figures",
        "predictions",
        "final figures",
    ]


def test_predictions_of_version_0_1_are_told_as_what_they_are(finished, run):
    for path in (run / "predictions").rglob("*challenge-2025.parquet"):
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    calibrate_run(run)
    evaluate_run(run)
    robustness, calibration = (
        json.loads((run / f"{name}.json").read_text()) for name in ("robustness", "calibration")
    )
    for sent in (robustness["profiles"][0]["sent"], calibration["sent"]):
        assert sent == "upright by EXIF orientation and coded once as JPEG (natix_hf 0.1)"


def test_other_photos_are_refused_and_nothing_is_written(finished, run, make_photos, tmp_path):
    other = make_photos(tmp_path / "other", COLOURS, 40, seed=9)
    (run / "recipe.yaml").write_text(f"dataset_name: {other}\n")
    shutil.rmtree(run / "predictions" / "robustness")
    with pytest.raises(UserError, match=r"val_test of .*other has changed since training"):
        measure_robustness(run, [PROFILE], num_workers=0)
    assert not (run / "predictions" / "robustness").exists()
    with pytest.raises(UserError, match="--robustness: challenge profile 'challenge@1999' is unknown"):
        measure_robustness(run, ["challenge@1999"])
    (run / "recipe.yaml").unlink()
    with pytest.raises(UserError, match=r"no recipe\.yaml"):
        measure_robustness(run, [PROFILE])


def test_a_refit_has_no_photos_left_to_be_measured_on(run):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"purpose": "refit"}))
    with pytest.raises(UserError, match="a refit was trained on all photos"):
        measure_robustness(run, [PROFILE])


def test_rows_of_another_run_are_not_taken_for_this_one_s(run):
    path = run / "predictions" / "robustness" / "challenge-2025.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(UserError, match=r"expected the rows of val_test\.parquet, found others"):
        evaluate_run(run)


def test_the_field_of_a_csv_takes_the_record_s_place(run, tmp_path):
    (tmp_path / "scores.csv").write_text("0.5\n0.25\n")
    evaluate_run(run, field=read_field(tmp_path / "scores.csv"))
    reward = json.loads((run / "reward.json").read_text())
    assert reward["field"] == {
        "name": "scores.csv",
        "confirmed": True,
        "n": 2,
        "mean": pytest.approx(0.375),
        "quantiles": reward["field"]["quantiles"],
    }
    entry = reward["entries"][0]
    assert entry["relative_pay"]["value"] == pytest.approx(entry["reward"]["value"] / 0.375)
