"""Two finished runs as one cascade: made, predicted, evaluated, compared and refused by what a user types."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.cascade import TwoModels
from natix_hf.documents.ledger import read_ledger
from natix_hf.documents.photo_cost import PhotoCost
from natix_hf.documents.selective import Selective
from natix_hf.runs.saved_logits import read_predictions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(module_desk) -> tuple[Path, Path]:
    """A cheap run on small squares, trained to know when it is wrong, and a dear one on rectangles."""
    small, large = module_desk.folder / "small", module_desk.folder / "large"
    how = {small: ("--loss", "gatekeeper"), large: ("--image_size", "64", "96", "--num_train_epochs", "8")}
    for run, words in how.items():
        words = ("--method", "lora", "--learning_rate", "3e-3", "--output_dir", run, *words)
        result = module_desk.type("train", module_desk.recipe, *words)
        assert result.status == 0, result.err
    return small, large


def probabilities(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def by_hand(small: Path, large: Path, document: CalibrationFile, split: str = "val_test"):
    """Ids, probabilities `(n, classes)` and stage `(n,)`, put together from what both runs predicted."""
    early, full = (read_predictions(run, split) for run in (small, large))
    order = [early.ids.tolist().index(name) for name in full.ids]
    one, two = (
        logits / np.array(stage.temperature) + np.array(stage.bias)
        for logits, stage in zip((early.logits[order], full.logits), document.cascade.stages, strict=True)
    )
    p, exits = probabilities(one)[:, document.positive], document.cascade.exit
    leaves = (p <= exits.low) | (p >= exits.high)
    answers = np.where(leaves[:, None], one, two) / np.array(document.temperature) + np.array(document.logit_bias)
    return full, probabilities(answers), np.where(leaves, 1, 2)


def test_a_cascade_answers_as_its_two_runs_put_together_and_is_compared_with_them(runs, module_desk):
    (small, large), output = runs, module_desk.folder / "cascade"
    score = np.sort(probabilities(read_predictions(small, "val_calib").logits)[:, 1])
    band = [f"{score[int(share * len(score))]:.4f}" for share in (0.3, 0.7)]
    result = module_desk.type("calibrate", "--cascade", small, large, "--views_exit", *band, "--output", output)
    assert result.status == 0, result.err
    assert "guarantee" in result.out
    assert (
        f"{output}: small answers first, large if the first is not certain; the folder holds copies of both models"
        in result.out
    )
    assert [(one.step, one.part) for one in read_ledger(output)] == [
        ("fit calibration", "fit"), ("early exits", "control")
    ]  # fmt: skip
    for run in runs:  # the folder needs neither
        shutil.move(run, run.with_name(f"{run.name}-moved"))
    try:
        result = module_desk.type(
            "predict", output, module_desk.folder / "photos", "--output", module_desk.folder / "p.csv"
        )
    finally:
        for run in runs:
            shutil.move(run.with_name(f"{run.name}-moved"), run)
    assert result.status == 0, result.err
    with (module_desk.folder / "p.csv").open(newline="") as file:
        table = {row["file"]: row for row in csv.DictReader(file)}
    document = CalibrationFile.read(output)
    full, found, stage = by_hand(small, large, document)
    rows = [next(row for file, row in table.items() if file.endswith(name)) for name in full.ids]
    np.testing.assert_allclose([float(row["p_Roadwork"]) for row in rows], found[:, 1], atol=2e-5)
    assert [int(row["stage"]) for row in rows] == stage.tolist()
    early = sum(row["stage"] == "1" for row in table.values())
    assert 0 < early < len(table)
    flops = [PhotoCost.read(run).flop / 1e9 for run in runs]
    mean = flops[0] + flops[1] * (1 - early / len(table))
    said = f"{early} photos left early ({early / len(table):.1%}): {mean:.3g} of {sum(flops):.4g} GFLOP per photo"
    assert said in result.out

    line = module_desk.refusal("compare", small, output)
    assert line.endswith(f"run python -m natix_hf.evaluate {output}")
    result = module_desk.type("evaluate", output)
    assert result.status == 0, result.err
    figures = Selective.read(output).cascade
    assert figures.cost == pytest.approx(flops)
    assert figures.early.value == pytest.approx(np.mean(stage == 1))
    assert figures.error.value == pytest.approx(np.mean(found.argmax(axis=1) != full.label))
    assert figures.mean_cost.value == pytest.approx(flops[0] + flops[1] * np.mean(stage == 2))
    assert ("final figures", "val_test") in [(one.step, one.split) for one in read_ledger(output)]
    page, card = ((output / name).read_text() for name in ("report.html", "README.md"))
    assert "GFLOP per photo" in page
    assert "Two DINOv3 vision transformers" in card
    assert TwoModels.read(output).second.cost == PhotoCost.read(large)
    result = module_desk.type("compare", small, large, output, "--output", module_desk.folder / "side-by-side")
    assert result.status == 0, result.err
    assert "cascade: " in result.out
    assert "GFLOP per photo; the columns views, GFLOP and seconds are for a photo that stays" in result.out
