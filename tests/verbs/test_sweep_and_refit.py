"""The learning-rate finder, a sweep and a refit as they are typed, and that none of them gives test figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from natix_hf.documents.learning_rates import LearningRates
from natix_hf.documents.ledger import read_ledger
from natix_hf.documents.several_runs import Sweep
from tests.verbs.conftest import HOOKS

pytestmark = pytest.mark.slow

FORKS = HOOKS + "runs_in_forks()"  # runs as processes of their own: test_folds_and_compare.py
TABLES = ("val_calib.parquet", "val_test.parquet")


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def reads(run: Path) -> set[tuple[str, str]]:
    return {(entry.role, entry.split) for entry in read_ledger(run)}


# -- find_lr ----------------------------------------------------------------------------------------------------------


def test_the_finder_leaves_a_curve_beside_the_run_and_nothing_in_its_way(desk):
    words = ("--method", "probe", "--find_lr", "true", "--gradient_accumulation_steps", "2")
    status, out, err = desk.type("train", desk.recipe, *words)
    assert status == 0, err
    folder = desk.folder / "run-find_lr"
    left = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert left == {"find_lr.json", "figures/find_lr.png"}
    assert not desk.output.exists()
    curve = LearningRates.read(folder)
    assert curve.photos_a_step == 16
    assert f"{len(curve.rates)} steps of 16 photos" in out
    assert str(folder / "figures" / "find_lr.png") in out
    assert desk.type("train", desk.recipe, *words).status == 0  # again: replaces the curve
    assert LearningRates.read(folder) == curve
    assert not list(desk.folder.rglob("test_reads"))


def test_an_optimizer_whose_rate_is_something_else_is_refused_by_name(desk):
    words = ("--find_lr", "true", "--optim", "schedule_free_adamw", "--ema", "false")
    assert "optim schedule_free_adamw" in desk.train(*words, "--lr_scheduler_type", "constant")
    (desk.folder / "run-find_lr").mkdir()
    (desk.folder / "run-find_lr" / "letters.txt").write_text("mine")
    assert "has no earlier curve" in desk.train("--find_lr", "true")


# -- sweep ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(module_desk):
    """A desk, the words of a sweep of which one run fails, and what the sweep said."""
    desk = module_desk
    words = ("--method", "probe", "--seed", "3", "--grid", "learning_rate=1e-3,3e-2,1e30", "--max_grad_norm", "0")
    return desk, words, desk.type("sweep", desk.recipe, *words, prelude=FORKS)


def test_a_sweep_ranks_by_val_select_alone_and_says_what_failed(swept):
    desk, _, result = swept
    output = desk.folder / "run-sweep"
    assert result.status == 1, result.err
    assert "learning_rate=1e30: failed: exit status 2: the loss is" in result.err
    document = read(output / "sweep.json")
    Sweep.check(document)
    assert [one["status"] for one in document["runs"]] == ["finished", "finished", "failed"]
    scored = document["runs"][:2]
    assert [one["rank"] for one in scored] == [1, 2]
    assert scored[0]["score"]["value"] >= scored[1]["score"]["value"]
    assert {one["values"]["learning_rate"] for one in document["runs"]} == {1e-3, 3e-2, 1e30}
    assert scored[0]["n"] > 0
    assert (output / "SWEEP.md").read_text() in result.out
    said = ["2 classes: None 24, Roadwork 24", f"labels: class folders of {desk.folder / 'photos'}"]
    assert result.out.splitlines()[:2] == said
    for one in scored:
        run = output / one["name"]
        record = read(run / "run.json")
        assert record["purpose"] == "sweep"
        passed = read(run / "speed.json")["speed"]["passes"]["features"]
        assert passed["photos"] + passed["served"] > 0
        assert record["seeds"]["seed"] == 3
        assert reads(run) == {("training", "train"), ("selection", "val_select")}
        logged = [entry["eval_mcc"] for entry in record["log_history"] if "eval_mcc" in entry]
        assert one["score"]["value"] == pytest.approx(max(logged))


def test_neither_the_sweep_nor_evaluate_gives_test_figures_and_the_winner_gets_its_look(swept, tmp_path):
    desk, _, result = swept
    output = desk.folder / "run-sweep"
    names = {path.name for path in output.rglob("*")}
    assert not names & {*TABLES, "metrics.json", "calibration.json", "model.safetensors"}
    assert not list(desk.folder.rglob("test_reads"))
    best = output / read(output / "sweep.json")["runs"][0]["name"]
    for verb in ("evaluate", "calibrate"):
        assert "scored on val_select only" in desk.refusal(verb, best)
    line = next(line for line in result.out.splitlines() if "natix_hf.train" in line).split()
    assert line[:4] == ["python", "-m", "natix_hf.train", str(best / "recipe.yaml")]
    status, _, err = desk.type("train", *line[3:])
    assert status == 0, err
    winner = Path(line[-1])
    assert read(winner / "run.json")["purpose"] == "run"
    assert read(winner / "metrics.json")["split"] == "val_test"
    assert yaml.safe_load((winner / "recipe.yaml").read_text())["learning_rate"] == pytest.approx(
        yaml.safe_load((best / "recipe.yaml").read_text())["learning_rate"]
    )


def test_the_same_command_keeps_what_is_finished_and_goes_on_with_the_rest(swept):
    desk, words, _ = swept
    output = desk.folder / "run-sweep"
    kept = output / "learning_rate=1e-3" / "run.json"
    again = output / "learning_rate=3e-2"
    before, score = kept.read_bytes(), read(output / "sweep.json")["runs"]
    record = read(again / "run.json") | {"status": "training"}  # as a process leaves it that was killed at the end
    (again / "run.json").write_text(json.dumps(record))
    shutil.rmtree(again / "predictions")
    result = desk.type("sweep", desk.recipe, *words, prelude=FORKS)
    assert "learning_rate=1e-3: already finished" in result.out
    assert "learning_rate=3e-2: resumes" in result.out
    assert kept.read_bytes() == before
    strip = lambda runs: [{k: v for k, v in one.items() if k != "seconds"} for one in runs]  # noqa: E731
    assert strip(read(output / "sweep.json")["runs"]) == strip(score)
    line = desk.refusal("sweep", desk.recipe, *words, "--weight_decay", "0.5")
    assert "whose recipe is not the one of this sweep" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--grid", "lora_rr=8,16"), "did you mean 'lora_r'?"),
        (("--grid", "lora_r=8,many"), "'many'"),
        (("--grid", "loss=ce,focl"), "did you mean 'focal'?"),
        (("--grid", "loss=ce,gatekeeper", "--mixup_alpha", "0.2"), "gatekeeper needs one class per photo"),
        (("--grid", "split_seed=1,2"), "scored on different photos"),
        (("--grid", "dataset_name=a,b"), "scored on different photos"),
        (("--grid", "metric_for_best_model=mcc,accuracy"), "ranked by different scores"),
        (("--grid", "seed=1,2"), "the luckiest seed would win"),
        (("--grid", "lora_r=8,8"), "a value is given twice"),
        (("--grid", "learning_rate=1e-4,0.0001"), "are the same run"),
        (("--grid", "lora_r"), "for example lora_r=8,16,32; found lora_r"),
        (("--grid", "lora_r=8,16", "--lora_r", "4"), "--lora_r is given twice"),
        (("--grid", "lora_r=8", "--sweep", "true"), "--sweep cannot be set"),
        (("--grid",), "--grid: no key given"),
        ((), "expected one of --grid, --seeds and --search; found none"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_anything_runs(desk, words, said):
    before = sorted(path.name for path in desk.folder.iterdir())
    assert said in desk.refusal("sweep", desk.recipe, *words)
    assert {path.name for path in desk.folder.iterdir()} - set(before) <= {".stdout", ".stderr"}


# -- refit ------------------------------------------------------------------------------------------------------------


def test_a_refit_trains_on_all_rows_and_shows_the_honest_run_s_figures_as_such(trained_desk, finished):
    desk, recipe, desk_folder = trained_desk, trained_desk.recipe, trained_desk.folder
    before = {path: path.read_bytes() for path in (desk_folder / "home" / "test_reads").glob("*")}
    assert before
    words = (recipe, "--method", "probe", "--refit", "all", "--from", finished)
    status, out, err = desk.type("train", *words)
    assert status == 0, err
    run = finished.parent / "run-refit"
    honest, record = read(finished / "run.json"), read(run / "run.json")
    assert record["purpose"] == "refit"
    assert record["refit"] == {"name": "run", "steps": honest["best_step"], "max_steps": honest["max_steps"]}
    assert record["steps"] == honest["best_step"]
    assert reads(run) == {("refit", split) for split in ("train", "val_select", "val_calib", "val_test")}
    assert sum(entry.rows for entry in read_ledger(run)) == 48
    assert read(run / "metrics.json") == read(finished / "metrics.json") | {"honest_run": "run"}
    assert read(run / "calibration.json") == read(finished / "calibration.json") | {"honest_run": "run"}
    assert read(run / "config.json")["temperature"] == read(finished / "config.json")["temperature"]
    assert (run / "model.safetensors").read_bytes() != (finished / "model.safetensors").read_bytes()
    assert not (run / "predictions").exists()
    label = "the figures are those of the run run; this model is its refit"
    assert label in out
    speed = read(run / "speed.json")["speed"]
    assert speed["photos_per_second"] > 0
    assert f"bottleneck: {speed['bottleneck']}" in out
    assert "val_select:" not in out
    card = (run / "README.md").read_text()
    assert "**Refit.** The figures are those of the run run" in card
    assert "of the run run before this refit" in card
    assert "- refit\n" in card
    evaluated = desk.type("evaluate", run)
    assert evaluated.status == 0, evaluated.err
    assert evaluated.out.startswith(label)
    assert read(run / "metrics.json")["honest_run"] == "run"
    assert {path: path.read_bytes() for path in before} == before
    assert "keeps the calibration of its honest run" in desk.refusal("calibrate", run)
    photo = next((desk_folder / "photos").rglob("*.jpg"))
    assert desk.type("predict", run, photo, "--output", desk_folder / "out.csv").status == 0

    again = (*words, "--output_dir", desk_folder / "other")
    assert "learning_rate (0.1 here" in desk.refusal("train", *again, "--learning_rate", "0.1")
    assert "is itself a refit" in desk.refusal("train", *words[:-1], run, "--output_dir", desk_folder / "other")
    assert "refit: no run given" in desk.refusal("train", recipe, "--refit", "all")
    assert "nothing is refitted" in desk.refusal("train", recipe, "--from", finished)
    assert "turn the others off" in desk.refusal("train", *again, "--find_lr", "true")
    lost = desk_folder / "photos" / "None" / "000.jpg"
    content = lost.read_bytes()
    lost.unlink()
    assert "have changed since that run" in desk.refusal("train", *again)
    lost.write_bytes(content)  # other files of tests use these photos too
    assert not (desk_folder / "other").exists()
