"""Run folders side by side: rows are joined by id; other photos, labels or classes are refused in one line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from finished_run import calibration_document, note_steps
from split_rows import photos
from two_stages import cascade_documents

from natix_hf import compare
from natix_hf.data.sources.rows import Rows
from natix_hf.data.splits.cut import cut
from natix_hf.data.splits.split_options import Plan
from natix_hf.decision.cascade import TwoStages
from natix_hf.documents.comparison import Comparison
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.photo_cost import PhotoCost
from natix_hf.documents.run_speed import RunSpeed
from natix_hf.errors import UserError
from natix_hf.files import home, write_json
from natix_hf.report.metrics import classification_metrics
from natix_hf.report.robustness import latency_document, robustness_document
from natix_hf.report.summary import metrics_document
from natix_hf.runs.compare_runs import compare_runs
from natix_hf.runs.saved_logits import write_predictions

CALIBRATION = calibration_document(temperature=[2.0, 2.0], logit_bias=[0.5, 0.0], prior_bias=[0.5, 0.0])


def run(folder: Path, rows: Rows, seed: int, *, shuffled: bool = False, split_seed: int = 0, **record) -> Path:
    """A folder as a finished run leaves it, with logits drawn by `seed`."""
    done = cut(rows, Plan(near_duplicates=False, seed=split_seed))
    test = done.places["val_test"]
    labels = np.array(test["label"][:])
    logits = np.random.default_rng(seed).normal(size=(len(labels), 2)) + 2 * np.eye(2)[labels]
    if shuffled:
        order = np.random.default_rng(9).permutation(len(labels))
        test, logits = test.select(order), logits[order]
    write_predictions(folder / "predictions" / "val_test.parquet", [(None, test, logits)])
    done.description.write(folder)
    known = {"version": 2, "status": "finished", "purpose": "run", "positive": 1, "method": "probe"}
    write_json(folder / "run.json", known | {"parameters": 1_000_000} | record)
    RunSpeed(time={"train": 12.5}, speed=None).write(folder)
    note_steps(folder)
    write_json(folder / "calibration.json", CALIBRATION)
    groups = np.array(test["group"][:])
    about = {"label_names": ["None", "Roadwork"], "times_read_before": seed, "n_boot": 9}
    metrics_document(logits, logits, np.array(test["label"][:]), groups, **about).write(folder)
    return folder


def test_runs_are_joined_by_id_and_judged_as_they_are_served(tmp_path, capsys):
    rows = photos()
    a, b = run(tmp_path / "a", rows, 1), run(tmp_path / "b", rows, 2, shuffled=True)
    timed = latency_document([0.25], cores=1, threads=1, limit=9.0)
    about = {"label_names": ["None", "Roadwork"], "n_boot": 9}
    robustness_document(np.eye(2), {}, np.arange(2), None, latency=timed, **about).write(b)
    PhotoCost(
        views=1, height=256, width=448, tokens=453, flop=21_500_000_000, seconds=0.125, batch=1, device="a GPU"
    ).write(b)
    output = tmp_path / "out"
    compare.main([str(a), str(b), "--output", str(output)])
    document = Comparison.read(output)
    assert [one.name for one in document.runs] == ["a", "b"]
    test = cut(rows, Plan(near_duplicates=False)).places["val_test"]
    labels = np.array(test["label"][:])
    for seed, one in zip((1, 2), document.runs):
        logits = np.random.default_rng(seed).normal(size=(len(labels), 2)) + 2 * np.eye(2)[labels]
        plain = classification_metrics(logits.astype(np.float32) / 2.0 + [0.5, 0], labels)
        assert {name: ends.value for name, ends in one.metrics.items()} == pytest.approx(plain)
    assert document.n == len(labels)
    assert document.groups == len(set(test["group"][:]))
    assert document.runs[1].cost.latency_p50 == 0.25
    assert document.runs[0].cost.latency_p50 is None
    assert document.runs[1].cost.photo == PhotoCost.read(b)
    assert document.runs[0].cost.photo is None  # of an older release: dashes
    assert {row.value for row in document.beside_first[0].slices} == {"Boston", "Austin"}
    assert "at least 3 models" in document.notes[0]
    page, told = (output / "comparison.html").read_text(), capsys.readouterr().out
    for said in ("<table", "GFLOP per photo", "256 x 448", "21.5"):
        assert said in page
    assert "b minus a:" in told
    shown = {"views": "1", "pixels": "256 x 448", "GFLOP": "21.5", "seconds": "0.125"}
    for head, cell in shown.items():
        assert re.search(rf"{head} per photo +- +{cell}", told)
    assert not (home() / "test_reads").exists()
    assert compare_runs([a, run(tmp_path / "c", rows, 1)]).beside_first[0].difference["mcc"].difference == 0


def test_a_run_with_early_exits_is_compared_by_its_answers_and_its_mean_cost_is_noted(tmp_path):
    rows, cascade, selective = photos(), *cascade_documents()
    a, b = (run(tmp_path / name, rows, seed) for seed, name in ((1, "a"), (2, "b")))
    test = cut(rows, Plan(near_duplicates=False)).places["val_test"]
    labels = np.array(test["label"][:])
    whole, full = (np.random.default_rng(i).normal(size=(len(labels), 2)) + 2 * np.eye(2)[labels] for i in (3, 4))
    write_predictions(b / "predictions" / "val_test.parquet", [(None, test, full)], whole=[whole])
    write_json(b / "calibration.json", calibration_document(cascade=cascade.plain()))
    selective.write(b)
    document = compare_runs([a, b], n_boot=20)
    answered = TwoStages.from_document(cascade).composite(*(one.astype(np.float32) for one in (whole, full)))
    assert set(answered.stage) == {1, 2}
    plain = classification_metrics(answered.logits / np.array(calibration_document()["temperature"]), labels)
    assert document.runs[1].metrics["mcc"].value == pytest.approx(plain["mcc"])
    assert document.runs[1].metrics["log_loss"].value == pytest.approx(plain["log_loss"])
    found = selective.cascade
    said = f"b: {found.early.value:.1%} of the photos leave early, {found.mean_cost.value:.2f} ["
    assert [note for note in document.notes if note.startswith(said)]


def test_names_have_as_many_folders_as_needed_to_differ(tmp_path):
    rows = photos()
    document = compare_runs([run(tmp_path / side / "lora", rows, i) for i, side in enumerate("xy")], n_boot=20)
    assert [one.name for one in document.runs] == ["x/lora", "y/lora"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"rows": photos(236)}, "other photos in val_test"),
        ({"split_seed": 5}, r"other photos in val_test \(24 against 24"),
        ({"rows": photos(fingerprint=[f"{i + 1:032x}" for i in range(240)])}, "same names but other content"),
        ({"rows": photos(names=("none", "work"))}, r"other classes \(none, work against None, Roadwork\)"),
        ({"positive": 0}, "another positive class"),
        ({"purpose": "refit", "refit": {"name": "mine", "steps": 1, "max_steps": 1}}, "compare its honest run mine"),
        ({"purpose": "sweep"}, "scored on val_select only"),
        ({"status": "training"}, "not finished"),
    ],
)
def test_what_was_tested_on_something_else_is_refused_in_one_line(tmp_path, other, said):
    first = run(tmp_path / "a", photos(), 1)
    second = run(tmp_path / "b", **{"rows": photos(), "seed": 2, **other})
    with pytest.raises(UserError, match=said) as caught:
        compare_runs([first, second])
    assert "\n" not in str(caught.value)


def test_other_labels_no_figures_and_one_run_are_refused(tmp_path):
    a, b = run(tmp_path / "a", photos(), 1), run(tmp_path / "b", photos(), 2)
    rows = cut(photos(), Plan(near_duplicates=False)).places["val_test"]
    flipped = rows.map(lambda row: {"label": 1 - row["label"] if row["id"] == rows["id"][0] else row["label"]})
    write_predictions(b / "predictions" / "val_test.parquet", [(None, flipped, np.zeros((len(rows), 2)))])
    with pytest.raises(UserError, match=r"other labels for 1 of 24 photos"):
        compare_runs([a, b])
    (b / "metrics.json").unlink()
    with pytest.raises(UserError, match="not evaluated yet"):
        compare_runs([a, b])
    with pytest.raises(UserError, match="expected two or more runs, found 1"):
        compare_runs([a])
    with pytest.raises(UserError, match="given twice"):
        compare_runs([a, f"{a}/../a"])
    assert FinalFigures.read(a).times_read_before == 1
