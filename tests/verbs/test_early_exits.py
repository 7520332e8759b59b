"""Photos of a run on tiles leave early: calibrated, tested, predicted and taken off again by what a user types."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from natix_hf.decision.calibration import Calibration
from natix_hf.decision.cascade import TwoStages
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.ledger import read_ledger
from natix_hf.documents.selective import Selective
from natix_hf.documents.step_record import StepRecord
from natix_hf.errors import UserError
from natix_hf.files import read_json
from natix_hf.logits import softmax
from natix_hf.recipe.yaml_and_command_line import parse
from natix_hf.runs.pipeline.made_from import version_name
from natix_hf.runs.saved_logits import read_predictions

TILES = ("--views", "tiles", "--views_grid", "2", "--method", "probe", "--num_train_epochs", "8")
EXIT = ("--views_exit", "0.2", "0.8")


@pytest.fixture(scope="module")
def run(module_desk) -> Path:
    """A finished run whose photos leave early where the whole view is certain."""
    result = module_desk.type("train", module_desk.recipe, *TILES, *EXIT)
    assert result.status == 0, result.err
    return module_desk.output


def predicted(desk, run: Path) -> tuple[dict[str, dict], str]:
    """The rows that `predict` writes of all photos, by name, and what it prints."""
    result = desk.type("predict", run, desk.folder / "photos", "--output", desk.folder / "p.csv")
    assert result.status == 0, result.err
    with (desk.folder / "p.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}, result.out


def on_arrays(run: Path):
    """Ids of val_test, the composite's probabilities `(n, classes)` and the stage of each, from the run's files."""
    document, rows = CalibrationFile.read(run), read_predictions(run, "val_test")
    found = TwoStages.from_document(document.cascade, document.positive).composite(rows.whole, rows.logits)
    return rows.ids, softmax(Calibration.from_document(document).calibrated(found.logits)), found.stage


@pytest.mark.slow
def test_a_band_between_the_photos_is_fitted_tested_and_predicted(run, module_desk):
    document, rows = CalibrationFile.read(run), read_predictions(run, "val_calib")
    assert (document.cascade.exit.asked, document.cascade.exit.cost) == ("band", [1.0, 4.0])
    stages = TwoStages.from_document(document.cascade)
    score = np.sort(softmax(stages.first.calibrated(rows.whole))[:, 1])
    low, high = (f"{score[int(share * len(score))]:.6f}" for share in (0.25, 0.75))
    result = module_desk.type("calibrate", run, "--views_exit", low, high)
    assert result.status == 0, result.err
    assert "guarantee" in result.out
    ids, probabilities, stage = on_arrays(run)
    table, told = predicted(module_desk, run)
    names = {name: next(row for file, row in table.items() if file.endswith(name)) for name in ids}
    found = np.array([[float(names[name][f"p_{k}"]) for k in ("None", "Roadwork")] for name in ids])
    np.testing.assert_allclose(found, probabilities, atol=1e-5)
    assert [int(names[name]["stage"]) for name in ids] == stage.tolist()
    early = sum(row["stage"] == "1" for row in table.values())
    assert 0 < early < len(table)
    assert f"{early} photos left early ({early / len(table):.1%}): " in told

    result = module_desk.type("evaluate", run)
    assert result.status == 0, result.err
    figures = Selective.read(run).cascade
    assert figures.early.value == pytest.approx(np.mean(stage == 1))
    wrong = probabilities.argmax(axis=1) != read_predictions(run, "val_test").label
    assert figures.error.value == pytest.approx(wrong.mean())
    assert figures.mean_cost.value == pytest.approx(1 + 4 * np.mean(stage == 2))
    assert "views per photo" in (run / "report.html").read_text()


@pytest.mark.slow
def test_a_promise_rests_on_control_rows_and_one_out_of_reach_says_what_is(run, module_desk):
    before = (run / "calibration.json").read_bytes()
    line = module_desk.refusal("calibrate", run, "--views_exit", "risk", "--views_exit_alpha", "0.001")
    assert line.startswith("no early exits: ")
    assert "set views_exit_alpha to 0.6316 or more" in line  # 1 - 0.05 ** (1 / 3): 3 control groups
    assert (run / "calibration.json").read_bytes() == before
    result = module_desk.type("calibrate", run, "--views_exit", "risk", "--views_exit_alpha", "0.9")
    assert result.status == 0, result.err
    exits = CalibrationFile.read(run).cascade.exit
    assert (exits.asked, exits.certified, exits.fitted_on) == ("risk", True, "val_calib/control")
    assert ("early exits", "control") in [(entry.step, entry.part) for entry in read_ledger(run)]
    ids, probabilities, stage = on_arrays(run)
    table, _ = predicted(module_desk, run)
    rows = [next(row for file, row in table.items() if file.endswith(name)) for name in ids]
    np.testing.assert_allclose([float(row["p_Roadwork"]) for row in rows], probabilities[:, 1], atol=1e-5)
    assert [int(row["stage"]) for row in rows] == stage.tolist()


@pytest.mark.slow
def test_exits_come_off_by_a_word_and_what_cannot_be_done_with_them_says_so(run, module_desk):
    assert module_desk.type("calibrate", run, *EXIT).status == 0
    photos, output = module_desk.folder / "photos", module_desk.folder / "again"
    off = f"python -m natix_hf.calibrate {run} --views_exit none"
    assert module_desk.refusal("recalibrate", run, photos, "--output", output).endswith(off)
    assert module_desk.refusal("evaluate", run, "--robustness", "challenge@2025").endswith(off)
    line = module_desk.refusal("predict", run, photos, "--output", "p.csv", "--tta", "flip")
    assert "the band of this model's early exits was fitted on one view" in line
    line = module_desk.refusal("calibrate", run, "--views_exit", "0.8", "0.2")
    assert "expected `risk` or two numbers low and high with 0 < low < high < 1" in line
    result = module_desk.type("calibrate", run, "--views_exit", "none")
    assert result.status == 0, result.err
    assert "views_exit" not in read_json(run / "config.json")
    assert CalibrationFile.read(run).cascade is None
    table, told = predicted(module_desk, run)
    assert "stage" not in next(iter(table.values()))
    assert "left early" not in told


@pytest.mark.slow
def test_training_does_not_depend_on_exits_and_calibration_does(run):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    one, other = (version_name(recipe | {"views_exit": asked}, "p", "c") for asked in (None, ["risk"]))
    assert one.split("-")[0] == other.split("-")[0]
    assert one != other
    assert "views_exit" in json.dumps(StepRecord.of(run, "calibrate").options)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--views", "whole"), "early exits save tiles, and this recipe has none: add --views tiles"),
        (("--robustness", "challenge@2025"), "whole-view logits are not stored for the photos of challenge@2025"),
        (
            ("--risk", "fpr", "--risk_delta", "0.05"),
            "views_exit_delta: expected less than risk_delta (0.05), of which it is a part; found 0.05",
        ),
    ],
)
def test_a_recipe_whose_photos_cannot_leave_early_is_refused_in_one_line(words, told, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model_name_or_path: m\ndataset_name: p\noutput_dir: run\nviews: tiles\nviews_grid: 2\nviews_exit: risk\n"
    )
    with pytest.raises(UserError) as refused:
        parse([str(recipe), *words])
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
