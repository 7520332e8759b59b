"""Two processes that share one model (FSDP2) against two that have one each (DDP): the same steps and the same files.

On two processes DDP is held to one process in `test_processes.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from accelerate.commands.launch import launch_command, launch_command_parser
from safetensors.torch import load_file
from torch.testing import assert_close

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).parent / "sharded_launch.py"
LORA = {"recipe": "lora", "learning_rate": 1e-3, "lora_r": 4}  # with dropout, accumulation, activation checkpointing
FULL = {"recipe": "full", "learning_rate": 1e-4}
MIXED = {
    **LORA,
    "lora_init": "pissa",
    "lora_train_norms": "true",
    "unfreeze_last_blocks": 1,
    "feature_layers": 2,
    "pooling": "cls_mean",
    "head": "mlp",
    "loraplus_lr_ratio": 4,
    "ema": "false",
    "gradient_accumulation_steps": 1,
}
AGAIN = {"resume_from_checkpoint": "true"}
JOBS = [
    ("lora", LORA, None),
    ("full", FULL, None),
    ("mixed", MIXED, None),
    ("stopped", LORA, 5),
    ("stopped", LORA | AGAIN, None),
    ("ended", FULL | {"max_steps": 6}, "finish"),
    ("ended", FULL | {"max_steps": 6} | AGAIN, None),
]
COMMON = {
    "image_size": 32,
    "logging_steps": 1,
    "dataloader_num_workers": 0,
    "disable_tqdm": "true",
    "use_cpu": "true",
    "ddp_backend": "gloo",
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_total_limit": 9,
}

pytestmark = [pytest.mark.slow, pytest.mark.long]


def words(options: dict) -> list[str]:
    recipe = REPOSITORY / "recipes" / f"{options['recipe']}.yaml"
    return [str(recipe), *(str(w) for key, value in options.items() if key != "recipe" for w in (f"--{key}", value))]


def environment_of(words: list[str]) -> dict[str, str]:
    """The environment in which `accelerate launch` with these words starts its processes."""
    found = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("torch.distributed.run.run", lambda _: found.update(os.environ))
        launch_command(launch_command_parser().parse_args(words))
    return found


@pytest.fixture(scope="module")
def runs(tiny_backbone, make_photos, tmp_path_factory, warm) -> dict[str, Path]:
    """The folder of the runs of two processes, by configuration of accelerate.

    `accelerate launch` starts one pair; the other, which is told the same in its environment, is forked: that saves
    their imports.
    """
    folder = tmp_path_factory.mktemp("sharded")
    photos = make_photos(folder / "photos", {"None": (112, 118, 115), "Roadwork": (124, 114, 110)}, 40)
    places = {"dataset_name": photos, "model_name_or_path": tiny_backbone}
    for name in ("multi_gpu", "fsdp2"):
        jobs = [
            [words({**COMMON, **places, **options, "output_dir": folder / name / run}), stop]
            for run, options, stop in JOBS
            if name == "fsdp2" or run != "ended"  # a whole model is not gathered before it is predicted with
        ]
        (folder / f"{name}.json").write_text(json.dumps(jobs))
        config = REPOSITORY / "recipes" / "accelerate" / f"{name}.yaml"
        launch = ["--config_file", str(config), "--num_processes", "2", "--main_process_port", "0"]
        script = [str(SCRIPT), str(folder / f"{name}.json")]
        more = {"OMP_NUM_THREADS": "1", "NATIX_HF_HOME": str(folder / f"home-{name}"), "CUDA_VISIBLE_DEVICES": ""}
        if name == "fsdp2":
            command = [sys.executable, "-m", "accelerate.commands.launch", *launch, *script]
            done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=os.environ | more)
            assert done.returncode == 0, done.stderr
        else:
            told = environment_of([*launch, *script])
            forked = warm.run(script[0], script[1:], told | more, folder, processes=2)
            assert forked.status == 0, forked.err
    return {name: folder / name for name in ("multi_gpu", "fsdp2")}


def record(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def values(run: Path, key: str) -> list[float]:
    return [entry[key] for entry in record(run)["log_history"] if key in entry]


def same_weights(one: Path, other: Path, tolerance: float) -> None:
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    for name in first:
        assert_close(first[name], second[name], rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def files(run: Path) -> set[str]:
    return {p.relative_to(run).as_posix() for p in run.rglob("*") if "checkpoints" not in p.parts}


@pytest.mark.parametrize("name", ["lora", "full", "mixed"])
def test_a_sharded_model_makes_the_steps_of_a_whole_one_and_leaves_the_same_run_behind(runs, name):
    whole, sharded = (runs[kind] / name for kind in ("multi_gpu", "fsdp2"))
    for key in ("loss", "grad_norm", "eval_log_loss", "eval_raw_log_loss"):
        assert values(sharded, key) == pytest.approx(values(whole, key), rel=1e-5, abs=1e-5)
    assert len(values(sharded, "loss")) >= 6
    assert record(sharded)["best_step"] == record(whole)["best_step"]
    assert files(sharded) == files(whole)  # the maps of the gallery among them
    same_weights(whole / "model.safetensors", sharded / "model.safetensors", 1e-6)
    if name != "full":
        adapter = "adapter/adapter_model.safetensors"
        same_weights(whole / adapter, sharded / adapter, 1e-6)


def test_the_best_checkpoint_comes_back_where_it_is_not_the_last(runs):
    found = [record(runs["fsdp2"] / name) for name in ("lora", "full", "mixed")]
    assert any(0 < run["best_step"] < run["steps"] for run in found)


@pytest.mark.parametrize("name", ["lora", "full"])
def test_checkpoints_hold_whole_tensors_averaged_and_raw(runs, name):
    for step in (2, 4, 6):
        whole, sharded = (runs[kind] / name / "checkpoints" / f"checkpoint-{step}" for kind in ("multi_gpu", "fsdp2"))
        model = "adapter_model.safetensors" if name == "lora" else "model.safetensors"
        for file in (model, "raw_trainable.safetensors"):
            same_weights(whole / file, sharded / file, 1e-6)


@pytest.mark.parametrize(("name", "like"), [("stopped", "lora"), ("ended", "full")])
def test_a_resumed_sharded_run_ends_like_the_undisturbed_one_to_the_bit(runs, name, like):
    """Stopped within training; and after its last step, before the model was predicted with and saved."""
    undisturbed, resumed = (runs["fsdp2"] / run for run in (like, name))
    assert values(resumed, "loss") == values(undisturbed, "loss")
    same_weights(undisturbed / "model.safetensors", resumed / "model.safetensors", 0.0)
    metrics = [json.loads((run / "metrics.json").read_text())["metrics"] for run in (undisturbed, resumed)]
    assert metrics[0] == metrics[1]


def test_a_finished_sharded_run_is_a_model_that_predicts_what_it_wrote_down(runs):
    import torch
    from transformers import pipeline

    from natix_hf.runs.saved_logits import read_predictions

    run = runs["fsdp2"] / "lora"
    rows = read_predictions(run, "val_test")
    photos = [str(runs["fsdp2"].parent / "photos" / name) for name in rows.ids]
    client = pipeline("image-classification", model=str(run), device="cpu")
    found = [{one["label"]: one["score"] for one in answer} for answer in client(photos, top_k=None)]
    # Too few photos for a calibration: what is served are the logits.
    assert json.loads((run / "calibration.json").read_text())["calibrator"] == "none"
    expected = torch.tensor(np.asarray(rows.logits)).softmax(dim=1)
    got = torch.tensor([[answer["None"], answer["Roadwork"]] for answer in found])
    assert_close(got, expected.float(), rtol=0, atol=1e-5)
