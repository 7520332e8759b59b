"""Two run folders as one cascade, from their files alone; what cannot be one is refused in one line."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from finished_run import calibration_document, note_steps
from split_rows import photos
from two_stages import cascade_documents

from natix_hf import calibrate, compare, evaluate, export, publish, recalibrate
from natix_hf.data.splits.certificate import read_certificate
from natix_hf.data.splits.cut import cut
from natix_hf.data.splits.split_options import Plan
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.cascade import TwoModels
from natix_hf.documents.comparison import Comparison
from natix_hf.documents.ledger import read_ledger
from natix_hf.documents.photo_cost import PhotoCost
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.selective import Selective
from natix_hf.documents.step_record import StepRecord
from natix_hf.errors import UserError
from natix_hf.files import home, write_json, write_text
from natix_hf.report.metrics import classification_metrics
from natix_hf.runs.evaluate_run import evaluate_run
from natix_hf.runs.saved_logits import read_predictions, write_predictions

NAMES = ("None", "Roadwork")
PARTS = {"val_select": (None,), "val_calib": ("fit", "control"), "val_test": (None,)}


@cache
def divided(names: tuple[str, ...] = NAMES, seed: int = 0):
    """1,200 rows by place, and their certificate; nearly half of them for calibration."""
    done = cut(photos(1200, names=names), Plan(near_duplicates=False, ratios=(0.2, 0.1, 0.4, 0.3), seed=seed))
    return done.places, done.description


def finished(
    folder: Path, skill: float, flop: int, *, names=NAMES, shuffled=False, tiled=False, seed=0, **record
) -> Path:
    """A folder as a finished run leaves it; its logits are `skill` standard deviations apart for the two classes."""
    places, description = divided(names, seed)
    chance = np.random.default_rng(flop % 1000)
    for split, parts in PARTS.items():
        predicted = []
        for part in parts:
            place = places[f"{split}/{part}" if part else split]
            if shuffled:
                place = place.select(chance.permutation(len(place)))
            labels = np.array(place["label"][:])
            predicted.append((part, place, chance.normal(size=(len(labels), 2)) + skill * np.eye(2)[labels]))
        whole = [chance.normal(size=logits.shape) for *_, logits in predicted] if tiled else []
        write_predictions(folder / "predictions" / f"{split}.parquet", predicted, whole=whole)
    description.write(folder)
    known = {"version": 2, "status": "finished", "purpose": "run", "positive": 1, "method": "probe"}
    write_json(folder / "run.json", known | {"parameters": flop // 1000} | record)
    cost = {"views": 1, "height": 32, "width": 32, "tokens": 9, "batch": 1, "device": "cpu, 1 threads"}
    PhotoCost(**cost, flop=flop, seconds=flop / 1e9).write(folder)
    write_json(folder / "calibration.json", calibration_document())
    write_json(folder / "config.json", {"id2label": dict(enumerate(names))})
    write_json(folder / "preprocessor_config.json", {})
    write_text(folder / "model.safetensors", f"weights of {folder.name}")
    note_steps(folder)
    return folder


@pytest.fixture
def pair(tmp_path) -> tuple[Path, Path]:
    """A cheap run, and one that is right more often; they list the same photos in another order."""
    small = finished(tmp_path / "small", 2.5, 20_000_001, shuffled=True)
    return small, finished(tmp_path / "large", 6.0, 300_000_002)


def cascade(*runs: Path, words: tuple[str, ...] = ("--views_exit_alpha", "0.05")) -> Path:
    output = runs[0].parent / "cascade"
    calibrate.main(["--cascade", *map(str, runs), *words, "--output", str(output)])
    return output


def test_a_cascade_is_a_run_with_both_models_and_what_both_said(pair, capsys):
    small, large = pair
    output = cascade(*pair)
    out = capsys.readouterr().out
    assert "small answers first, large if the first is not certain" in out
    assert "early exits: with 95% confidence at most 5.00% of all photos leave with a wrong answer" in out
    assert "warning" not in out
    for stage, run in (("first", small), ("second", large)):
        for name in ("model.safetensors", "config.json", "preprocessor_config.json", "calibration.json"):
            assert (output / stage / name).read_bytes() == (run / name).read_bytes()
    early, full, both = (read_predictions(run, "val_calib", "control") for run in (small, large, output))
    assert both.ids.tolist() == full.ids.tolist() != early.ids.tolist()
    np.testing.assert_array_equal(both.logits, full.logits)
    theirs = dict(zip(early.ids, early.logits.tolist()))
    assert both.whole.tolist() == [theirs[name] for name in both.ids]
    exits = CalibrationFile.read(output).cascade.exit
    assert (exits.cost_in, exits.cost) == ("GFLOP", pytest.approx([0.020000001, 0.300000002]))
    assert (exits.n, exits.certified) == (len(both.ids), True)
    prints = read_certificate(large).fingerprints
    assert [(one.step, one.part, one.fingerprint) for one in read_ledger(output)] == [
        ("fit calibration", "fit", prints["val_calib/fit"]), ("early exits", "control", prints["val_calib/control"])
    ]  # fmt: skip
    assert not (home() / "test_reads").exists()
    record = RunRecord.read(output)
    assert (record.purpose, record.parameters) == ("cascade", 20_000 + 300_000)
    assert {"first/model.safetensors", "predictions/val_test.parquet"} <= set(StepRecord.of(output, "combine").writes)


def test_its_figures_come_from_the_rows_and_stand_beside_those_of_both_runs(pair):
    output = cascade(*pair)
    calibrated = (output / "calibration.json").read_bytes()
    evaluate.main([str(output)])
    assert len(list((home() / "test_reads").glob("*.jsonl"))) == 1
    assert (output / "calibration.json").read_bytes() == calibrated
    found, document = Selective.read(output).cascade, CalibrationFile.read(output)
    rows = read_predictions(output, "val_test")
    one, two = (
        logits / np.array(stage.temperature) + np.array(stage.bias)
        for logits, stage in zip((rows.whole, rows.logits), document.cascade.stages, strict=True)
    )
    p = 1 / (1 + np.exp(one[:, 0] - one[:, 1]))
    leaves = (p >= document.cascade.exit.high) | (p <= document.cascade.exit.low)
    assert 0 < leaves.sum() < len(leaves)
    wrong = np.where(leaves[:, None], one, two).argmax(axis=1) != rows.label
    assert found.error.value == pytest.approx(wrong.mean())
    assert found.error_of_second.value == pytest.approx(np.mean(two.argmax(axis=1) != rows.label))
    assert found.mean_cost.value == pytest.approx(0.020000001 + 0.300000002 * np.mean(~leaves))
    assert found.curve.cost[0] == pytest.approx(0.320000003)
    page, card = ((output / name).read_text() for name in ("report.html", "README.md"))
    assert f"the cascade {wrong.mean():.4f} at {found.mean_cost.value:.3g} GFLOP per photo" in " ".join(page.split())
    assert "The two models" in page
    assert "Two DINOv3 vision transformers that classify street photos into 2 classes: None, Roadwork." in card
    assert "`small` classifies each photo (0.02 GFLOP). If it is uncertain, the run `large`" in card
    assert "python -m natix_hf.predict cascade photos/" in card
    assert str(output.parent) not in card

    for run in pair:
        evaluate_run(run)
    beside = output.parent / "side-by-side"
    compare.main([*map(str, pair), str(output), "--output", str(beside)])
    compared = Comparison.read(beside)
    assert [one.name for one in compared.runs] == ["small", "large", "cascade"]
    answers = np.where(leaves[:, None], one, two) / np.array(document.temperature) + np.array(document.logit_bias)
    plain = classification_metrics(answers, rows.label)
    assert compared.runs[2].metrics["log_loss"].value == pytest.approx(plain["log_loss"])
    assert compared.runs[2].cost.photo.flop == 320_000_003
    assert [note for note in compared.notes if note.startswith(f"cascade: {leaves.mean():.1%} of the photos leave")]


def test_of_a_run_on_tiles_all_views_are_a_stage(pair, tmp_path):
    tiled = finished(tmp_path / "tiled", 6.0, 300_000_002, tiled=True)
    rows, both = (read_predictions(run, "val_test") for run in (tiled, cascade(pair[0], tiled)))
    early = read_predictions(pair[0], "val_test")
    np.testing.assert_array_equal(both.logits, rows.logits)
    assert both.whole.tolist() == [dict(zip(early.ids, early.logits.tolist()))[name] for name in both.ids]


def test_a_promise_of_abstention_shares_delta_with_that_of_the_exit(pair):
    words = ("--views_exit_alpha", "0.05", "--views_exit_delta", "0.04", "--risk", "fpr", "--risk_alpha", "0.1")
    document = CalibrationFile.read(cascade(*pair, words=words))
    assert document.cascade.exit.delta == 0.04
    assert document.guarantee.delta == pytest.approx(0.06)
    assert document.guarantee.fitted_on == "val_calib/control"


def test_another_promise_needs_no_model(pair, capsys):
    output = cascade(*pair)
    before = CalibrationFile.read(output).cascade.exit
    calibrate.main([str(output), "--views_exit_alpha", "0.1"])
    after = CalibrationFile.read(output).cascade.exit
    assert (after.alpha, after.asked) == (0.1, "risk")
    assert after.high < before.high
    with pytest.raises(UserError, match=r"views_exit: expected risk .*, found none: without exits .* second model"):
        calibrate.main([str(output), "--views_exit", "none"])
    with pytest.raises(UserError, match=r"^no early exits: views_exit_alpha 0.001 is out of reach: .* set views_exit"):
        calibrate.main([str(output), "--views_exit_alpha", "0.001"])
    assert CalibrationFile.read(output).cascade.exit == after


def test_what_sampling_did_to_one_of_the_models_is_undone(pair, tmp_path):
    """Balanced sampling moved the odds of the first alone: the stages come out as without it."""
    small, large = pair
    plain = CalibrationFile.read(cascade(small, large)).cascade
    shutil.rmtree(tmp_path / "cascade")
    record = json.loads((small / "run.json").read_text())
    write_json(small / "run.json", record | {"training_shares": [0.8, 0.2]})
    counts = np.bincount(read_predictions(large, "val_calib", "fit").label)
    moved = np.log([0.8, 0.2]) - np.log(counts / counts.sum())
    splits = divided()[0]
    for split, parts in PARTS.items():
        predicted = []
        for part in parts:
            rows, place = read_predictions(small, split, part), splits[f"{split}/{part}" if part else split]
            at = {name: i for i, name in enumerate(place["id"][:])}
            predicted.append((part, place.select([at[name] for name in rows.ids]), rows.logits + moved))
        write_predictions(small / "predictions" / f"{split}.parquet", predicted)
    found = CalibrationFile.read(cascade(small, large)).cascade
    assert found.exit.high == pytest.approx(plain.exit.high, abs=1e-4)
    assert found.exit.early == plain.exit.early
    assert found.stages[0].bias[1] - found.stages[0].bias[0] != 0


def test_a_warning_if_the_first_run_is_not_the_cheaper_one(pair, capsys):
    cascade(*pair[::-1])
    assert "warning: large takes 0.3 GFLOP per photo and small 0.02, so the first model is not the cheaper one" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("verb", "words", "name"),
    [
        (export, ("--format", "merged", "--output", "x"), "natix_hf.export"),
        (publish, ("me/model",), "natix_hf.publish"),
        (recalibrate, (str(Path(__file__).parent), "--output", "x"), "natix_hf.recalibrate"),
        (evaluate, ("--robustness", "challenge@2025"), "--robustness"),
    ],
)
def test_verbs_for_one_model_refuse_a_cascade_and_name_its_runs(pair, verb, words, name):
    output = cascade(*pair)
    with pytest.raises(UserError) as refused:
        verb.main([str(output), *words])
    assert str(refused.value) == (
        f"{output}: a cascade of two models, but {name} takes one model: use its runs small and large, one after the "
        "other"
    )


def _other(tmp_path: Path, **about) -> Path:
    return finished(tmp_path / "other", 5.0, 300_000_003, **about)


def _unfinished(tmp_path: Path) -> Path:
    other = _other(tmp_path)
    (other / "steps" / "report.json").unlink()
    return other


def _leaving(tmp_path: Path) -> Path:
    other = _other(tmp_path)
    write_json(other / "calibration.json", calibration_document(cascade=cascade_documents()[0].plain()))
    return other


def _without_cost(tmp_path: Path) -> Path:
    other = _other(tmp_path)
    (other / PhotoCost.file_name).unlink()
    return other


REFUSED = {
    "other classes": (lambda p: _other(p, names=("None", "Works")), "has other classes (None, Works against None, Ro"),
    "classes in another order": (lambda p: _other(p, names=NAMES[::-1]), "has other classes (Roadwork, None against"),
    "another positive class": (lambda p: _other(p, positive=0), "has another positive class than"),
    "another split": (lambda p: _other(p, seed=5), "has other photos in val_test (fingerprints differ) than"),
    "a run not finished": (_unfinished, "the run is not finished"),
    "a refit": (lambda p: _other(p, purpose="refit"), "is a refit, which was trained on the rows"),
    "a run of a sweep": (lambda p: _other(p, purpose="sweep"), "a run of a sweep is scored on val_select only"),
    "photos that leave early": (
        _leaving,
        "already has early exits, and a cascade has only two stages: remove the exits",
    ),
    "no cost": (_without_cost, "no photo_cost.json"),
    "no folder": (lambda p: p / "nowhere", "nowhere: no such folder"),
    "itself": (lambda p: p / "small", "small twice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_runs_that_cannot_form_a_cascade_are_refused_in_one_line(tmp_path, case):
    make, said = REFUSED[case]
    small, other = finished(tmp_path / "small", 2.5, 20_000_001), make(tmp_path)
    with pytest.raises(UserError) as refused:
        cascade(small, other)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "cascade").exists()


def test_the_words_of_the_command_are_checked(pair, tmp_path):
    for runs, said in (
        ((pair[0],), "expected two runs, the cheaper one first; found 1"),
        ((*pair, pair[0]), "expected two runs, the cheaper one first; found 3"),
    ):
        with pytest.raises(UserError, match=said):
            cascade(*runs)
    for words in (
        ["--cascade", *map(str, pair)],
        [str(pair[0]), "--output", "x"],
        [],
        [str(pair[0]), "--cascade", *map(str, pair), "--output", "x"],
    ):
        with pytest.raises(UserError, match="expected one run, or --cascade SMALL LARGE --output FOLDER"):
            calibrate.main(words)
    (tmp_path / "cascade").mkdir()
    write_text(tmp_path / "cascade" / "kept", "mine")
    with pytest.raises(UserError, match="exists and is not empty"):
        cascade(*pair)
    assert [path.name for path in (tmp_path / "cascade").iterdir()] == ["kept"]


def test_a_promise_that_the_control_rows_cannot_keep_leaves_no_folder_and_says_which_they_can(pair):
    with pytest.raises(UserError, match=r"^no early exits: views_exit_alpha 0.001 .* set views_exit_alpha to 0\.\d+"):
        cascade(*pair, words=("--views_exit_alpha", "0.001"))
    assert not (pair[0].parent / "cascade").exists()


def test_a_cascade_of_a_cascade_is_refused(pair, tmp_path):
    output = cascade(*pair)
    assert TwoModels.read(output).first.run == "small"
    with pytest.raises(UserError, match="is itself a cascade, and a cascade has only two stages"):
        calibrate.main(["--cascade", str(pair[0]), str(output), "--output", str(tmp_path / "more")])


def test_other_labels_in_the_same_photos_are_refused(pair):
    large, place = pair[1], divided()[0]["val_test"]
    labels = place["label"][:]
    turned = place.remove_columns("label").add_column("label", [1 - labels[0], *labels[1:]])
    write_predictions(large / "predictions" / "val_test.parquet", [(None, turned, np.zeros((len(labels), 2)))])
    with pytest.raises(UserError, match=r"has other labels than .* for 1 of \d+ photos in val_test"):
        cascade(*pair)
