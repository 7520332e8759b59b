"""Broken predictions, options that cannot be and runs of other kinds, as calibrate, evaluate and compare meet them.

The run folders are made of files alone. Every refusal is one line, exit status 2, and leaves every file as it was.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from natix_hf import UserError, calibrate, compare, evaluate
from natix_hf.decision.fit_calibrator import fit_calibrator
from natix_hf.decision.prior_shift import estimate_prior
from natix_hf.decision.selective import risk_coverage
from natix_hf.decision.threshold import threshold_curve
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.errors import command
from natix_hf.files import read_json, write_json
from natix_hf.report.intervals import bootstrap_intervals, paired_differences
from natix_hf.report.slices import slices_document
from tests.runs.test_calibrate_run import write
from tests.verbs.conftest import listing

RECORD = {"method": "lora", "versions": {"natix_hf": "1"}, "fingerprints": {}, "log_history": []}
VERSION_1 = {
    "version": 1, "calibrator": "temperature", "fitted_on": "val_calib/fit", "n": 99, "temperature": 2.0, "kept": True,
    "nll_before": 1.0, "nll_after": 0.5, "ece_before": 0.1, "ece_after": 0.05,
    **{f"{name}_bias": [0.0, 0.0] for name in ("logit", "prior", "threshold")},
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A calibrated run as `train` leaves it, without weights and without a recipe."""
    run = write(tmp_path_factory.mktemp("runs") / "street", n=400, prior=0.6, **RECORD)
    calibrate.main([str(run)])
    return run


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "run")


def change(run: Path, split: str, column: str, value) -> None:
    """`value(column, labels)` in place of a column; both are arrays."""
    path = run / "predictions" / f"{split}.parquet"
    table = pq.read_table(path)
    found = value(np.array(table[column].to_pylist()), table["label"].to_numpy())
    at = table.column_names.index(column)
    pq.write_table(table.set_column(at, column, pa.array(found.tolist(), table.schema.field(column).type)), path)


def keep(run: Path, split: str, rows) -> None:
    """Only the rows for which `rows(labels)` holds."""
    path = run / "predictions" / f"{split}.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter(pa.array(rows(table["label"].to_numpy()))), path)


def refused(capsys, verb, run: Path, *words: object) -> str:
    """The line of a refusal; the run is as it was."""
    before = listing(run)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        command(verb.main, list(map(str, (run, *words))))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert listing(run) == before
    return line


def softmax(logits: np.ndarray, _labels: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def with_nan(logits: np.ndarray, _labels: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(logits))[:, None] == 3, np.nan, logits)


def third_class(labels: np.ndarray, _labels: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(labels)) == 2, 7, labels)


def wider(logits: np.ndarray, _labels: np.ndarray) -> np.ndarray:
    return np.hstack([logits, logits[:, :1]])


@pytest.mark.parametrize(("verb", "split"), [(calibrate, "val_calib"), (evaluate, "val_test")])
@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("logits", with_nan, "1 of {n} rows have NaN or infinite logits (the first is r"),
        ("logits", softmax, "expected logits, found probabilities (all {n} rows lie in [0, 1]"),
        ("label", third_class, "is not in 0..1, the classes of the model"),
        ("logits", wider, "expected 2 logits per photo, one per class (None, Roadwork); found 3"),
    ],
)
def test_what_are_no_logits_and_labels(run, capsys, verb, split, column, value, said):
    change(run, split, column, value)
    labels = pq.read_table(run / "predictions" / f"{split}.parquet").to_pydict()
    n = labels.get("part", []).count("fit") or len(labels["label"])
    line = refused(capsys, verb, run)
    assert said.format(n=n) in line
    assert f"{split}.parquet" in line


@pytest.mark.parametrize(
    ("verb", "split"), [(calibrate, "val_calib"), (evaluate, "val_test"), (evaluate, "val_select")]
)
def test_predictions_that_are_gone_empty_or_no_table(run, capsys, verb, split):
    path = run / "predictions" / f"{split}.parquet"
    keep(run, split, lambda labels: labels < 0)
    assert "no rows" in refused(capsys, verb, run)
    path.write_bytes(b"nothing")
    assert "no predictions of natix_hf.train" in refused(capsys, verb, run)
    path.unlink()
    assert "no such file" in refused(capsys, verb, run)


def test_a_calibration_that_is_gone_or_edited(run, capsys):
    path = run / "calibration.json"
    write_json(path, {"version": 2})
    assert "calibration.json: at $" in refused(capsys, evaluate, run)
    path.write_text("{")
    assert "not JSON that natix_hf wrote" in refused(capsys, evaluate, run)
    path.unlink()
    assert f"python -m natix_hf.calibrate {run} writes it" in refused(capsys, evaluate, run)


def test_one_class_few_photos_and_no_mistakes_are_told_and_change_no_logit(run, capsys, whole):
    words = [str(run), "--calibrator", "temperature", "vector", "isotonic", "--fold_threshold"]

    def told() -> str:
        capsys.readouterr()
        calibrate.main(words)
        document = read_json(run / "calibration.json")
        CalibrationFile.check(document)
        assert (document["temperature"], document["calibrator_bias"]) == ([1.0, 1.0], [0.0, 0.0])
        return capsys.readouterr().out

    change(run, "val_calib", "logits", lambda logits, labels: np.where(np.eye(2)[labels] > 0, 8.0, -8.0))
    said = told()  # the likelihood would grow for ever as T falls
    assert "no calibrator, none predicted held-out groups clearly better, NLL 0.0000" in said
    keep(run, "val_calib", lambda labels: labels == 1)
    said = told()
    assert "photos are of class Roadwork, temperature needs two classes and is left out" in said
    assert "photos have the same class, and a threshold needs both" in said
    shutil.copy(whole / "predictions" / "val_calib.parquet", run / "predictions")
    keep(run, "val_calib", lambda labels: np.arange(len(labels)) % 12 == 0)
    assert "are too few for temperature, 30 are needed" in told()
    assert read_json(run / "calibration.json")["threshold"] == 0.5


def test_a_guarantee_out_of_reach_names_the_smallest_rate_and_leaves_the_calibration(run, capsys):
    line = refused(capsys, calibrate, run, "--risk", "fpr", "--risk_alpha", "1e-5")
    rows = pq.read_table(run / "predictions" / "val_calib.parquet").to_pydict()
    groups = {g for g, y, part in zip(rows["group"], rows["label"], rows["part"]) if part == "control" and y == 0}
    binomial = 1 - 0.1 ** (
        1 / len(groups)
    )  # with photos that are each their own group and all right; no bound is less
    named = float(line.partition("set risk_alpha to ")[2].split()[0])
    assert binomial < named < binomial + 0.02
    assert "out of reach" in refused(capsys, calibrate, run, "--risk", "fpr", "--risk_alpha", round(named - 2e-4, 4))
    calibrate.main([str(run), "--risk", "fpr", "--risk_alpha", str(named)])
    assert read_json(run / "calibration.json")["guarantee"]["reachable"]


def test_runs_of_other_kinds(run, capsys, tmp_path):
    record = read_json(run / "run.json")
    output = ("--output", tmp_path / "compared")
    other = shutil.copytree(run, tmp_path / "other")
    for changed, verbs, said in (
        ({"status": "training"}, (calibrate, evaluate, compare), "the run is not finished"),
        ({"purpose": "sweep"}, (calibrate, evaluate, compare), "a run of a sweep is scored on val_select only"),
        ({"purpose": "refit"}, (calibrate,), "a refit was trained on val_calib"),
        (
            {"purpose": "refit", "refit": {"name": "street", "steps": 1, "max_steps": 1}},
            (compare,),
            "compare its honest run street",
        ),
        ({}, (compare,), "not evaluated yet: run python -m natix_hf.evaluate"),
    ):
        write_json(run / "run.json", record | changed)
        for verb in verbs:
            assert said in refused(capsys, verb, run, *((other, *output) if verb is compare else ()))
    assert not (tmp_path / "compared").exists()


def test_a_calibration_of_version_1_is_told_what_to_type_and_renewed(run, tmp_path, capsys):
    write_json(run / "calibration.json", VERSION_1)
    with pytest.raises(UserError, match=r"which this release reads; found 1: python -m natix_hf\.calibrate "):
        evaluate.main([str(run)])
    calibrate.main([str(run)])
    evaluate.main([str(run)])
    new = shutil.copytree(run, tmp_path / "new")
    calibrate.main([str(new), "--target_prior", "0.3"])
    assert read_json(new / "calibration.json")["version"] == 2
    evaluate.main([str(new)])
    compare.main([str(run), str(new), "--output", str(tmp_path / "both")])
    runs = read_json(tmp_path / "both" / "comparison.json")["runs"]
    assert [one["metrics"]["accuracy"] for one in runs] == [
        read_json(folder / "metrics.json")["metrics"]["accuracy"] for folder in (run, new)
    ]


@pytest.mark.parametrize(
    ("names", "positive"), [(["Works", "Free <b>"], 0), (["A b", "Cône", "Z,z", "0"], 2)], ids=["positive 0", "four"]
)
def test_other_classes_and_another_positive_one(tmp_path, capsys, names, positive):
    run = write(tmp_path / "run", n=600, prior=0.6, names=names, **RECORD | {"positive": positive})
    prior = ["0.5"] if len(names) == 2 else ["0.1", "0.2", "0.3", "0.4"]
    costly = ["--threshold_metric", "cost:1:20"]  # a threshold near 1 / 21, far from 0.5
    risk = ["--risk", "fpr", "--risk_alpha", "0.2", "--fold_threshold", *costly] if len(names) == 2 else []
    calibrate.main([str(run), "--target_prior", *prior, *risk])
    evaluate.main([str(run)])
    said = capsys.readouterr().out
    document, metrics = read_json(run / "calibration.json"), read_json(run / "metrics.json")
    assert (document["positive"], list(metrics["labels"])) == (positive, names)
    assert document["prior"]["target"] == pytest.approx([0.5, 0.5] if len(names) == 2 else [0.1, 0.2, 0.3, 0.4])
    if len(names) == 2:
        assert "at most 20.00% of photos of Free <b> are answered Works" in said
        assert document["threshold_bias"][1] == 0 != document["threshold_bias"][0]
    page = (run / "report.html").read_text()
    assert "Free <b>" not in page
    other = shutil.copytree(run, tmp_path / "other")
    compare.main([str(run), str(other), "--output", str(tmp_path / "both")])
    assert "Free <b>" not in (tmp_path / "both" / "comparison.html").read_text()


def test_groups_shorter_than_labels_are_refused_wherever_arrays_are_given():
    logits, labels, groups = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2, np.arange(39)
    for called in (
        lambda: fit_calibrator(logits, labels, groups),
        lambda: threshold_curve(softmax(logits, labels)[:, 1], labels == 1, groups, "mcc"),
        lambda: estimate_prior(logits, [0.5, 0.5], groups),
        lambda: risk_coverage(logits[:, 0], labels == 1, groups),
        lambda: bootstrap_intervals(logits, labels, groups),
        lambda: paired_differences(logits, logits, labels, groups),
        lambda: slices_document(logits, labels, groups, {"weather": np.array(["rain"] * 40)}, ["a", "b"]),
    ):
        with pytest.raises(UserError, match=r"expected one group per row, found 39 for 40 rows"):
            called()
