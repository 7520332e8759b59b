"""A refit in this process: its steps and schedule, and that it goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from natix_hf import finish_run, train_run
from natix_hf.runs.refit import finish_refit

pytestmark = pytest.mark.slow

SETTINGS = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps"}
SETTINGS |= {"eval_steps": 4, "load_best_model_at_end": False}


@pytest.fixture
def refit(job, photo_folder, tiny_backbone, monkeypatch):
    """A function that builds the refit of the run `honest` of a method, in a folder of the name given."""
    from natix_hf import NatixTrainer, load_photos
    from natix_hf.runs.refit import Refit

    def build(method: str, honest: Path, name: str, callbacks=None, **settings) -> NatixTrainer:
        def trainer(*args, **kwargs):
            return Refit(*args, honest=honest, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr("natix_hf.training.trainer.NatixTrainer", trainer)
            splits = load_photos(photo_folder).dedicate("refit")
            return job(method, name, splits=splits, callbacks=callbacks, **(settings or SETTINGS))

    return build


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_refit_that_was_stopped_ends_like_the_whole_one(job, refit, stop_at, tmp_path, method):
    """On the schedule of the honest run, with its figures, and in the form in which any run is left."""
    first = job(method, "honest", **SETTINGS)
    train_run(first)
    finish_run(first)
    honest = tmp_path / "honest"
    steps = json.loads((honest / "run.json").read_text())["steps"]
    whole = refit(method, honest, "whole")
    assert len(whole.train_dataset) == 48
    train_run(whole)
    finish_refit(whole)
    with pytest.raises(KeyboardInterrupt):
        train_run(refit(method, honest, "cut", callbacks=[stop_at(5)]))
    resumed = refit(method, honest, "cut")
    train_run(resumed, resume_from_checkpoint=True)
    finish_refit(resumed)
    for trainer in (whole, resumed):
        assert trainer.state.global_step == steps
    rates = [
        [e["learning_rate"] for e in t.state.log_history if "learning_rate" in e] for t in (first, whole, resumed)
    ]
    assert rates[0] == rates[1] == rates[2]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut", "honest")]
    for name, tensor in weights[0].items():
        assert_close(weights[1][name], tensor, rtol=0, atol=0, msg=name)
    assert any(not torch.equal(weights[2][name], tensor) for name, tensor in weights[0].items())
    assert (tmp_path / "cut" / "adapter").is_dir() == (method == "lora")
    for file in ("metrics.json", "calibration.json"):
        texts = [json.loads((tmp_path / name / file).read_text()) for name in ("honest", "cut")]
        assert texts[1] == texts[0] | {"honest_run": "honest"}


def test_a_refit_of_a_grid_trains_the_chosen_head_alone_and_chooses_nothing(job, refit, tmp_path):
    grid = {"probe_heads": "grid", "probe_learning_rates": [0.001, 1.0], "probe_poolings": ["cls", "cls_mean"]}
    first = job("probe", "honest", **grid)
    train_run(first)
    finish_run(first)
    again = refit("probe", tmp_path / "honest", "again", **grid)
    train_run(again)
    finish_refit(again)
    documents = [json.loads((tmp_path / name / "probe.json").read_text()) for name in ("honest", "again")]
    assert documents[1]["chosen"] == documents[0]["chosen"]
    assert documents[1]["steps"] == documents[0]["steps"]
    assert "heads" not in documents[1]
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("honest", "again")]
    assert configs[1]["pooling"] == configs[0]["pooling"]


def test_a_warm_start_is_refused_since_it_chooses_by_rows_that_a_refit_trains_on(job, tmp_path):
    from natix_hf import UserError
    from natix_hf.runs.refit import check_refit

    honest = tmp_path / "honest"
    first = job("probe", "honest", num_train_epochs=1)
    train_run(first)
    finish_run(first)
    (honest / "recipe.yaml").write_text("warm_start: probe\n")
    with pytest.raises(UserError, match="refit: warm_start chooses its head on val_select"):
        check_refit(honest, "warm_start: probe\n", {})
