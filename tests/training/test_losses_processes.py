"""Losses on two processes, compared with one process and the same global batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

JOB = Path(__file__).parent / "killed_job.py"

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tiny_backbone, make_photos, tmp_path, launched):
    """A function that trains in processes of its own and returns the logged losses."""
    photos = make_photos(tmp_path / "photos", {"None": (112, 118, 115), "Roadwork": (124, 114, 110)}, 40)

    def start(processes: int, **arguments) -> list[float]:
        folder = tmp_path / f"{processes}"
        plain = {"max_steps": 4, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
        plain |= {"per_device_train_batch_size": 8 // processes, **arguments}
        if processes > 1:
            plain["ddp_backend"] = "gloo"
        job = {"photos": str(photos), "backbone": str(tiny_backbone), "run": str(folder), "method": "lora"}
        words = json.dumps({**job, "dropout": 0.0, "arguments": plain})
        result = launched(JOB, words, home=tmp_path / f"home{processes}", processes=processes)
        assert result.status == 0, result.err
        log = json.loads((folder / "run.json").read_text())["log_history"]
        return [entry["loss"] for entry in log if "loss" in entry]

    return start


def test_class_weights_mean_the_same_on_two_processes(run):
    """They weigh rows, whatever rows a process happens to have beside them."""
    settings = {"class_weights": ["1", "5"], "logit_adjustment": 1.0, "label_smoothing_factor": 0.1}
    assert run(2, **settings) == pytest.approx(run(1, **settings), abs=1e-4)


def test_the_projection_head_trains_on_two_processes(run):
    losses = run(2, loss="ce+0.5*supcon+0.1*koleo")
    assert len(losses) == 4
