"""Runs that are killed with SIGKILL and go on, and runs on two processes: compared with one undisturbed process."""

import functools
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from natix_hf.training.checkpoints import checkpoints

JOB = Path(__file__).parent / "killed_job.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """48 rows for training: whole batches of 8, on one process or two."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("photos")
    for name, colour in {"None": (112, 118, 115), "Roadwork": (124, 114, 110)}.items():
        (folder / name).mkdir()
        for i in range(40):
            pixels = np.clip(rng.normal(colour, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:03d}.jpg", quality=90)
    return folder


@pytest.fixture(scope="module")
def start(tiny_backbone, photos, tmp_path_factory, launched):
    """Run the job in processes of its own; an undisturbed one-process run is made once for each method."""
    folder = tmp_path_factory.mktemp("runs")
    home = tmp_path_factory.mktemp("home")

    def run(name, method="lora", processes=1, arguments=None, **job):
        steps = {"save_strategy": "steps", "save_steps": 4, "eval_strategy": "steps", "eval_steps": 4}
        job |= {
            "photos": str(photos),
            "backbone": str(tiny_backbone),
            "run": str(folder / name),
            "method": method,
            "arguments": {"num_train_epochs": 2, "per_device_train_batch_size": 8, **steps, **(arguments or {})},
        }
        return launched(JOB, json.dumps(job), home=home, processes=processes), folder / name

    @functools.cache
    def undisturbed(method: str, dropout: float = 0.1) -> Path:
        result, run_folder = run(f"whole-{method}-{dropout}", method, dropout=dropout)
        assert result.status == 0, result.err
        return run_folder

    run.undisturbed = undisturbed
    return run


def same_run(a: Path, b: Path) -> None:
    first, second = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert first.keys() == second.keys()
    for name in first:
        assert_close(first[name], second[name], rtol=0, atol=0, msg=name)
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (a, b)]
    assert metrics[0]["metrics"] == metrics[1]["metrics"]


@pytest.mark.parametrize(
    ("method", "way"),
    [*(("lora", way) for way in ("kill_at", "kill_while_saving", "kill_in_save_file")), ("full", "kill_in_save_file")],
)
def test_a_killed_run_goes_on_and_ends_like_the_undisturbed_one(start, method, way):
    """Killed between two checkpoints; with all files of one written but not marked whole; in the middle of a file."""
    name = f"{method}-{way}"
    killed, folder = start(name, method, **{way: 6 if way == "kill_at" else 8})
    assert killed.status == -signal.SIGKILL
    assert [p.name for p in checkpoints(folder)] == ["checkpoint-4"]
    assert (folder / "checkpoints" / "checkpoint-8").is_dir() == (way != "kill_at")
    again, _ = start(name, method, arguments={"resume_from_checkpoint": "true"})
    assert again.status == 0, again.err
    same_run(start.undisturbed(method), folder)


@pytest.mark.parametrize("method", ["lora", "full", "probe"])
def test_two_processes_have_the_losses_of_one_with_the_same_global_batch(start, method):
    def losses(folder: Path) -> list[float]:
        log = json.loads((folder / "run.json").read_text())["log_history"]
        return [entry["loss"] for entry in log if "loss" in entry]

    two, both = start(
        f"two-{method}",
        method,
        processes=2,
        dropout=0.0,
        arguments={"per_device_train_batch_size": 4, "ddp_backend": "gloo"},
    )
    assert two.status == 0, two.err
    alone = start.undisturbed(method, 0.0)
    assert losses(both) == pytest.approx(losses(alone), abs=1e-4)
    values = [json.loads((run / "metrics.json").read_text())["metrics"]["log_loss"]["value"] for run in (alone, both)]
    assert values[1] == pytest.approx(values[0], abs=1e-4)


def test_doran_goes_on_after_a_kill_and_has_the_same_losses_on_two_processes(start):
    """Its networks and floors are in no file that a run ships; a checkpoint has them."""
    doran = {"lora": {"use_doran": True, "doran_share": "block"}, "dropout": 0.0}
    whole, undisturbed = start("doran", **doran)
    assert whole.status == 0, whole.err
    killed, folder = start("doran-killed", kill_at=6, **doran)
    assert killed.status == -signal.SIGKILL
    again, _ = start("doran-killed", arguments={"resume_from_checkpoint": "true"}, **doran)
    assert again.status == 0, again.err
    same_run(undisturbed, folder)
    spread = {"per_device_train_batch_size": 4, "ddp_backend": "gloo"}
    two, both = start("doran-two", processes=2, arguments=spread, **doran)
    assert two.status == 0, two.err
    logs = [json.loads((run / "run.json").read_text())["log_history"] for run in (undisturbed, both)]
    alone, together = ([entry["loss"] for entry in log if "loss" in entry] for log in logs)
    assert together == pytest.approx(alone, abs=1e-4)
