"""calibrate_run on run folders without a model: the parts, their order, the rows that each reads, and refusals."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from finished_run import note_steps
from safetensors.torch import save_file
from sklearn.metrics import matthews_corrcoef
from split_rows import unopened

from natix_hf import UserError, calibrate
from natix_hf.data.splits.cut import cut
from natix_hf.data.splits.split_options import Plan
from natix_hf.decision.calibration import Calibration
from natix_hf.decision.temperature import fit_temperature
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.ledger import read_ledger
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.files import read_json, write_json
from natix_hf.logits import softmax
from natix_hf.recipe.yaml_and_command_line import parse
from natix_hf.report.decision_lines import calibration_lines
from natix_hf.runs import calibrate_run as deciding
from natix_hf.runs.calibrate_run import calibrate_run, carried, options_of
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.saved_logits import read_predictions, write_predictions

NAMES = ["None", "Roadwork"]


def write(
    folder: Path, n: int = 1600, prior: float = 0.9, scale: float = 2.0, names=NAMES, decision=None, **record
) -> Path:
    """A run whose logits are `scale` times the log posterior; two photos a group. All but class 0 have share `prior`.

    The evidence for a class is normal, N(0, 1.3) and 2.2 more for the class of the photo: the posterior is known.
    """
    generator = np.random.default_rng(n)
    classes = len(names)
    shares = [1 - prior, *[prior / (classes - 1)] * (classes - 1)]
    labels = np.repeat(generator.choice(classes, n // 2, p=shares), 2)
    evidence = generator.normal(0, 1.3, (n, classes)) + 2.2 * np.eye(classes)[labels]
    z = evidence * 2.2 / 1.3**2 + np.log(shares)
    ids, groups = [f"r{i}" for i in range(n)], [f"g{i // 2}" for i in range(n)]
    rows = unopened(n, names, id=ids, group=groups, label=labels.tolist())
    done = cut(rows, Plan(near_duplicates=False, ratios=(0.1, 0.1, 0.7, 0.1)))
    half = {"fit": [], "control": []}
    places = {split: [(None, done.places[split])] for split in ("val_select", "val_test")}
    places["val_calib"] = [(part, done.places[f"val_calib/{part}"]) for part in half]
    for split, parts in places.items():
        predicted = [(part, kept, z[[int(name[1:]) for name in kept["id"]]] * scale) for part, kept in parts]
        write_predictions(folder / "predictions" / f"{split}.parquet", predicted)
    done.description.write(folder)
    write_json(folder / "run.json", {"version": 2, "status": "finished", "positive": 1, **record})
    note_steps(folder, **asdict(decision or DecisionOptions()))
    write_json(folder / "config.json", {"id2label": dict(enumerate(names))})
    write_json(folder / "preprocessor_config.json", {})
    zeros, ones = torch.zeros(classes), torch.ones(classes)
    save_file({"head.temperature": ones, "head.logit_bias": zeros}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("runs") / "street")


def test_by_default_one_temperature_and_a_threshold_that_is_only_reported(run):
    document = calibrate_run(run)
    CalibrationFile.check(json.loads((run / "calibration.json").read_text()))
    rows = read_predictions(run, "val_calib", "fit")
    assert document.temperature == [fit_temperature(rows.logits, rows.label, rows.group)] * 2
    assert (document.n, document.groups) == (len(rows.label), len(set(rows.group)))
    assert (document.threshold, document.folded, document.guarantee) == (0.5, False, None)
    assert document.logit_bias == [0.0, 0.0]
    choice = document.threshold_choice
    assert choice.metric == "mcc"
    assert 0 < choice.low <= choice.threshold <= choice.high < 1
    again = calibrate_run(run)
    assert again == document


def test_prior_and_threshold_are_added_in_their_order_and_decide_at_one_half(run):
    options = DecisionOptions(target_prior=[0.5], fold_threshold=True, threshold_metric="cost:1:10")
    document = calibrate_run(run, options)
    rows = read_predictions(run, "val_calib", "fit")
    seen = np.mean(rows.label == 1)
    assert (document.prior.seen, document.prior.target) == (pytest.approx([1 - seen, seen]), [0.5, 0.5])
    assert document.prior_bias == pytest.approx([np.log(0.5 / (1 - seen)), np.log(0.5 / seen)])
    threshold = document.threshold
    assert threshold == document.threshold_choice.threshold != 0.5
    assert document.threshold_bias == pytest.approx([0.0, np.log((1 - threshold) / threshold)])
    assert document.logit_bias == pytest.approx(np.add(document.prior_bias, document.threshold_bias))
    calibration = Calibration.from_document(document)
    served, decisions = calibration.served(rows.logits), calibration.decisions(rows.logits)
    np.testing.assert_allclose(served, rows.logits / document.temperature + document.logit_bias)
    assert (served.argmax(axis=1) == decisions).all()
    # Under the expected shares a wrong "positive" costs 1 and a wrong "none" 10: the optimum lies near 1 / (1 + 10).
    assert document.threshold_choice.low - 0.1 < 1 / 11 < document.threshold_choice.high + 0.1


def test_a_threshold_that_is_no_better_on_held_out_groups_is_not_used(run):
    document = calibrate_run(run, DecisionOptions(fold_threshold=True, threshold_metric="mcc"))
    held = document.threshold_choice.held_out
    assert held.gain <= held.gain_se
    assert (document.threshold, document.folded, document.threshold_bias) == (0.5, False, [0.0, 0.0])
    told = "\n".join(calibration_lines(document, NAMES))
    assert f"{held.value:.3f} and 0.5 has {held.at_half:.3f}" in told
    assert "the threshold stays 0.5" in told


def test_probabilities_and_decisions_hold_under_the_expected_shares(tmp_path):
    """0.9 -> 0.5: on rows drawn at one half, calibration and MCC at 0.5 are better with the prior than without."""
    run = write(tmp_path / "shifted", n=3000)
    shifted = Calibration.from_document(calibrate_run(run, DecisionOptions(target_prior=[0.5])))
    plain = Calibration.from_document(calibrate_run(run, DecisionOptions()))
    rows = read_predictions(run, "val_calib", "control")
    positives, negatives = np.flatnonzero(rows.label == 1), np.flatnonzero(rows.label == 0)
    even = np.r_[positives[: len(negatives)], negatives]
    logits, labels = rows.logits[even], rows.label[even]
    figures = {}
    for name, calibration in (("plain", plain), ("shifted", shifted)):
        p = softmax(calibration.calibrated(logits))[:, 1]
        nll = -np.log(np.where(labels == 1, p, 1 - p)).mean()
        figures[name] = nll, abs(p.mean() - 0.5), -matthews_corrcoef(labels, calibration.decisions(logits))
    assert all(better < worse for better, worse in zip(figures["shifted"], figures["plain"], strict=True))
    assert figures["shifted"][1] < 0.05 < figures["plain"][1]


@pytest.mark.parametrize("name", ["vector", "isotonic"])
def test_the_chosen_calibrator_is_carried_whole(tmp_path, name):
    run = write(tmp_path / "run", prior=0.6, n=3000)  # isotonic needs 300 photos
    document = calibrate_run(run, DecisionOptions(calibrator=[name], target_prior=[0.3]))
    document = CalibrationFile.read(run)  # through JSON
    assert (document.calibrator, document.kept) == (name, True)
    rows = read_predictions(run, "val_calib", "fit")
    asked = DecisionOptions(calibrator=[name]), np.array([0.7, 0.3]), NAMES, 1
    whole = Calibration.from_document(deciding.decide(rows, *asked, fitted_on="val_calib/fit"))
    again = Calibration.from_document(document)
    np.testing.assert_array_equal(again.served(rows.logits), whole.served(rows.logits))
    assert carried(document).logit_bias == document.logit_bias
    assert (carried(document).isotonic is not None) == (name == "isotonic")


def test_the_guarantee_reads_control_rows_and_nothing_else_does(tmp_path, monkeypatch):
    run = write(tmp_path / "run", prior=0.5)
    read = []
    monkeypatch.setattr(deciding, "read_predictions", lambda *a: read.append(a[1:]) or read_predictions(*a))
    plain = calibrate_run(run, DecisionOptions())
    assert read == [("val_calib", "fit")]
    document = calibrate_run(run, DecisionOptions(risk="fpr", risk_alpha=0.05))
    assert read[1:] == [("val_calib", "fit"), ("val_calib", "control")]
    assert document.model_copy(update={"guarantee": None, "options": plain.options}) == plain
    guarantee = document.guarantee
    assert (guarantee.fitted_on, guarantee.reachable) == ("val_calib/control", True)
    rows = read_predictions(run, "val_calib", "control")
    p = softmax(Calibration.from_document(document).calibrated(rows.logits))[:, 1]
    assert np.mean(p[rows.label == 0] >= guarantee.high) < 0.05
    assert carried(document).decision["abstain_band"] == [guarantee.low, guarantee.high]
    ledger = [(entry.step, entry.part) for entry in read_ledger(run)]
    assert ledger == [("fit calibration", "fit"), ("fit calibration", "fit"), ("guarantee", "control")]
    unreachable = calibrate_run(run, DecisionOptions(risk="fpr", risk_alpha=1e-5))
    assert not unreachable.guarantee.reachable
    assert carried(unreachable).decision["abstain_band"] is None
    assert f"{unreachable.guarantee.smallest_alpha:.4f}" in "\n".join(calibration_lines(unreachable))


def test_calibrating_under_a_profile_reports_the_clean_calibration_too(tmp_path):
    run = write(tmp_path / "run", prior=0.5)
    options = DecisionOptions(calibrate_on="challenge@2025")
    with pytest.raises(UserError, match="no predictions on val_calib under this profile: train with that key"):
        calibrate_run(run, options)
    rougher = write(tmp_path / "other", prior=0.5, scale=5.0) / "predictions" / "val_calib.parquet"
    rougher.rename(run / "predictions" / "val_calib@challenge-2025.parquet")
    document = calibrate_run(run, options)
    clean = calibrate_run(run, DecisionOptions())
    assert document.fitted_on == "val_calib@challenge-2025/fit"
    compared = document.compared
    assert compared["clean"].temperature == clean.temperature
    assert compared["challenge@2025"].temperature == document.temperature
    for name, other in (("clean", "challenge@2025"), ("challenge@2025", "clean")):
        assert compared[name].nll_on[name] < compared[other].nll_on[name]
    assert len([line for line in calibration_lines(document) if "fitted on" in line]) == 2


def test_few_photos_or_an_absent_class_are_noted_and_change_nothing(tmp_path):
    run = write(tmp_path / "few", n=60, prior=0.5)
    document = calibrate_run(run, DecisionOptions(fold_threshold=True))
    assert document.logit_bias == [0.0, 0.0]
    text = "\n".join(calibration_lines(document))
    assert "photos are too few for temperature, 30 are needed" in text
    assert "too few to choose another (30 needed)" in text
    run = write(tmp_path / "one", n=400, prior=0.5)
    path = run / "predictions" / "val_calib.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.equal(table["label"], 1)), path)
    document = calibrate_run(run, DecisionOptions(target_prior=[0.5], fold_threshold=True))
    assert document.logit_bias == [0.0, 0.0]
    assert document.threshold_choice is None
    text = "\n".join(calibration_lines(document, NAMES))
    assert "are of class Roadwork, temperature needs two classes" in text
    assert "no photo shows None" in text


def test_an_unreachable_threshold_is_not_used(run):
    document = calibrate_run(run, DecisionOptions(threshold_metric="precision>=1.0", fold_threshold=True))
    if document.threshold_choice.reachable:
        assert document.folded
    else:
        assert (document.threshold, document.folded) == (0.5, False)
        assert any("no threshold reaches precision 1" in note for note in document.notes)


def test_options_are_those_of_the_run_unless_overridden(tmp_path, capsys):
    asked = DecisionOptions(calibrator=["temperature", "vector"], target_prior=[0.5])
    run = write(tmp_path / "run", n=3000, decision=asked)
    assert options_of(run) == asked
    calibrate.main([str(run), "--fold_threshold", "--threshold_metric", "cost:1:10", "--risk", "fnr"])
    out = capsys.readouterr().out
    document = CalibrationFile.read(run)
    expected = replace(asked, fold_threshold=True, threshold_metric="cost:1:10", risk="fnr")
    assert document.options == asdict(expected)
    assert "NLL on held-out groups of val_calib/fit: none " in out
    assert "class shares of val_calib/fit" in out
    assert "best threshold for cost:1:10" in out
    assert "95 % interval" in out
    assert "at best, with 90% confidence" in out
    config = read_json(run / "config.json")
    assert config["logit_bias"] == pytest.approx(document.logit_bias)
    assert config["decision"]["threshold"] == document.threshold != 0.5
    calibrate.main([str(run), "--calibrator", "isotonic", "--target_prior", "none"])
    assert len(read_json(run / "config.json")["isotonic"]) == 2
    calibrate.main([str(run)])
    assert read_json(run / "config.json")["isotonic"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--calibrator", "platt"],
            "calibrator: expected one or more of none, temperature, vector, isotonic; found platt",
        ),
        (["--threshold_metric", "mse"], "; found 'mse'"),
        (["--fold_threshold", "perhaps"], "fold_threshold: expected true or false, found 'perhaps'"),
        (["--target_prior", "half"], "target_prior: expected numbers or none, found half"),
        (["--target_prior", "0.5", "0.6"], "(sum 1.1)"),
        (["--calibrate_on", "rain"], "calibrate_on: expected one of clean, challenge@2025"),
        (["--risk", "ruin"], "risk: expected one of none, fpr"),
        (["--risk", "precision"], "risk: precision depends on how common positives are: add prevalence"),
        (["--risk_alpha", "2"], "risk_alpha: expected a number above 0 and below 1, found 2"),
        (["--prevalence", "0"], "prevalence: expected a share above 0 and below 1, found 0"),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_the_run_alone(run, words, message):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        calibrate.main([str(run), *words])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_recipe_takes_one_word_or_a_list_and_names_the_key_that_is_wrong(tmp_path):
    path = tmp_path / "recipe.yaml"

    def options(*lines):
        path.write_text("\n".join(["model_name_or_path: m", "dataset_name: d", "output_dir: o", *lines]))
        return parse([str(path)]).decision

    assert options() == DecisionOptions()
    assert options("calibrator: none").calibrator == ["none"]
    assert options("calibrator: [temperature, isotonic]").calibrator == ["temperature", "isotonic"]
    made = options("fold_threshold: true", "threshold_metric: precision>=0.98", "risk: precision", "prevalence: 0.02")
    assert (made.fold_threshold, made.threshold_metric) == (True, "precision>=0.98")
    assert (made.risk, made.prevalence, made.risk_alpha) == ("precision", 0.02, 0.02)
    for line, message in (
        ("calibrator: [temperature, platt]", "calibrator: expected .*; found temperature platt"),
        ("threshold_metric: precision>=2", "threshold_metric: expected .*, found 'precision>=2'"),
        ("risk: precision", "add prevalence"),
        ("risk_delta: 0", "risk_delta: expected .*, found 0"),
        ("risk: everything", "risk"),
        ("calibrate_views: 0", "calibrate_views: expected at least 1, found 0"),
        ("calibrate_on: rain", "calibrate_on"),
        ("target_prior: 1.5", "target_prior: expected .*, found 1.5"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            options(line)
        assert "\n" not in str(caught.value)


def test_three_classes_have_a_prior_but_neither_threshold_nor_guarantee(tmp_path):
    names = ["None", "Cone", "Barrier"]
    run = write(tmp_path / "run", names=names, prior=0.5)
    document = calibrate_run(run, DecisionOptions(calibrator=["vector"], target_prior=[0.2, 0.4, 0.4]))
    assert document.threshold_choice is None
    assert len(set(document.temperature)) == 3
    assert "-> target_prior: None 48.8% -> 20.0%, Cone" in "\n".join(calibration_lines(document, names))
    for option in ({"fold_threshold": True}, {"risk": "fpr"}):
        with pytest.raises(UserError, match="only for two classes, and there are 3"):
            calibrate_run(run, DecisionOptions(**option))


def _applied(*asked) -> Calibration:
    return Calibration.from_document(deciding.decide(*asked, fitted_on="rows"))


@pytest.mark.parametrize("calibrator", ["temperature", "vector", "isotonic", "none"])
def test_balanced_training_is_not_corrected_twice(calibrator):
    """Logits that belong to equal shares, photos of which 85 % are positive, a world in which 50 % are."""
    rng = np.random.default_rng(0)
    labels = (rng.random(4000) < 0.85).astype(np.int64)
    margin = rng.normal(np.where(labels == 1, 1.5, -1.5), np.sqrt(3.0))  # log p(x|1)/p(x|0) exactly: odds at 50 %
    rows = SavedLogits(np.stack([np.zeros(4000), margin], axis=1), labels, None)
    options = DecisionOptions(calibrator=[calibrator], target_prior=[0.5])
    trained = np.array([0.5, 0.5])
    calibration = _applied(rows, options, np.array([0.5, 0.5]), NAMES, 1, trained)
    found = calibration.calibrated(rows.logits)
    odds = found[:, 1] - found[:, 0]
    inner = np.abs(margin) < 2
    assert np.abs(odds - margin)[inner].mean() < (0.35 if calibrator == "isotonic" else 0.12)
    # Without knowing what training saw, a temperature alone is off by the log odds of the photos.
    if calibrator == "temperature":
        blind = _applied(rows, options, np.array([0.5, 0.5]), NAMES, 1).calibrated(rows.logits)
        assert np.abs(blind[:, 1] - blind[:, 0] - margin)[inner].mean() > 1
    own = _applied(rows, DecisionOptions(calibrator=[calibrator]), None, NAMES, 1, trained)
    if calibrator != "none":  # what was asked for as it is stays as it is
        p = softmax(own.calibrated(rows.logits))[:, 1]
        assert p.mean() == pytest.approx(labels.mean(), abs=0.01)


@pytest.mark.parametrize("calibrator", ["temperature", "vector"])
def test_a_model_no_better_than_the_class_shares_is_noted(calibrator):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 200)
    scores = rng.permutation(np.repeat([-8.0, 8.0], 200))  # sure of itself, and by chance
    rows = SavedLogits(np.stack([-scores, scores], axis=1), labels, np.arange(400).astype(str))
    document = deciding.decide(rows, DecisionOptions(calibrator=[calibrator]), None, NAMES, 1, fitted_on="rows")
    (line,) = [note for note in document.notes if "no better than the class shares" in note]
    assert "no better than the class shares do" in line
    assert "the same by None and Roadwork" in line
    telling = np.stack([labels * -2.0, labels * 2.0], axis=1) + rng.normal(0, 1, (400, 2))
    rows = replace(rows, logits=telling)
    document = deciding.decide(rows, DecisionOptions(calibrator=[calibrator]), None, NAMES, 1, fitted_on="rows")
    assert not [note for note in document.notes if "no better than the class shares" in note]


def test_notes_call_classes_by_their_names():
    rng = np.random.default_rng(0)
    labels = np.r_[np.zeros(120, int), np.ones(4, int)]
    rows = SavedLogits(rng.normal(0, 1, (124, 2)), labels, np.arange(124).astype(str))
    document = deciding.decide(
        rows, DecisionOptions(calibrator=["temperature", "vector"]), None, NAMES, 1, fitted_on="rows"
    )
    assert document.notes[0].startswith("class Roadwork has 4 photos, too few for vector")
    rows = replace(rows, label=np.zeros(124, int))
    document = deciding.decide(rows, DecisionOptions(), None, NAMES, 1, fitted_on="rows")
    assert document.notes[0].startswith("all 124 photos are of class None, temperature needs two classes")
