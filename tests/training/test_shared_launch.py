"""Two processes against one that accumulates over two micro-batches: the same photos in the same batches of four.

So whatever depends on a batch (mixing, comparisons of rows) is the same on both sides, and the steps have to be.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "shared_launch.py"
EPOCHS = {"num_train_epochs": 2}
WEIGHTS = {"class_weights": ["1", "5"], "logit_adjustment": 1.0, "label_smoothing_factor": 0.1}
JOBS = [
    {"name": "mixed", "method": "full", "arguments": {**EPOCHS, "mixup_alpha": 0.4, "cutmix_alpha": 1.0}},
    {"name": "balanced", "method": "full", "arguments": {**EPOCHS, "sampling": "balanced"}},
    {"name": "curriculum", "method": "full", "arguments": {**EPOCHS, "curriculum": "loss"}},
    {"name": "compared", "method": "lora", "arguments": {"max_steps": 4, "loss": "ce+0.5*supcon+0.5*lcron+0.1*koleo"}},
    {"name": "weighted", "method": "lora", "arguments": {"max_steps": 4, **WEIGHTS}},
    {
        "name": "sophia",
        "method": "full",
        "attention": "eager",
        "arguments": {"max_steps": 5, "optim": "sophia", "optim_args": "update_period=2"},
        "two": {"activation_checkpointing": True},  # which changes memory alone
    },
    {"name": "finder", "method": "lora", "kind": "range test", "finish": True, "arguments": {}},
    {"name": "honest", "method": "lora", "finish": True, "arguments": {"max_steps": 3}},
    {"name": "probe", "method": "probe", "finish": True, "arguments": {"max_steps": 3}},
    {
        "name": "cut",
        "method": "lora",
        "lora": {"lora_last_blocks": 1},
        "speed": {"fixed_views": 2, "prefix_cache_gb": 1.0},
        "arguments": {"max_steps": 3},
    },
    {"name": "refit", "method": "lora", "kind": "refit", "honest": "honest", "finish": True, "arguments": {}},
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tiny_backbone, make_photos, tmp_path_factory, launched) -> dict[int, Path]:
    """The folder of the jobs of one process, and of two."""
    folder = tmp_path_factory.mktemp("jobs")
    photos = make_photos(folder / "photos", {"None": (112, 118, 115), "Roadwork": (124, 114, 110)}, 40)
    found = {}
    for processes in (1, 2):
        found[processes] = folder / str(processes)
        found[processes].mkdir()
        share = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3 - processes}
        share |= {"ddp_backend": "gloo"} if processes == 2 else {}
        jobs = [{**job, "arguments": {**share, **job["arguments"]}} for job in JOBS]
        for job in jobs:
            two = job.pop("two", {})
            job["arguments"] |= two if processes == 2 else {}
        common = {"photos": str(photos), "backbone": str(tiny_backbone), "folder": str(found[processes])}
        file = folder / f"jobs{processes}.json"
        file.write_text(json.dumps({**common, "jobs": jobs}))
        done = launched(SCRIPT, str(file), home=folder / f"home{processes}", processes=processes)
        assert done.status == 0, done.err
    return found


@pytest.mark.parametrize("name", [job["name"] for job in JOBS])
def test_two_processes_make_the_steps_of_one_that_accumulates(folders, name):
    one, two = (json.loads((folders[count] / f"{name}-losses.json").read_text()) for count in (1, 2))
    steps = {"mixed": 12, "balanced": 12, "curriculum": 12, "compared": 4, "weighted": 4, "sophia": 5}
    assert len(one["losses"]) == steps.get(name, len(one["losses"]))
    # A rising rate ends in divergence, where the last bits become all of them.
    count = 80 if name == "finder" else len(one["losses"])
    assert two["losses"][:count] == pytest.approx(one["losses"][:count], abs=1e-4)
    assert two["apart"] == 0  # the weights of the processes


@pytest.mark.parametrize("name", ["probe", "cut"])
def test_photos_pass_a_frozen_network_once_however_many_processes_share_the_cache(folders, name):
    for count in (1, 2):
        found = json.loads((folders[count] / f"{name}-losses.json").read_text())
        sizes = found["sizes"]
        photos = {
            "probe": sizes["train"] + sizes["val_select"] + sizes["val_calib"] + sizes["val_test"],
            "cut": 2 * sizes["train"] + sizes["val_select"],
        }
        expected = [[photos[name], 0], [0, photos[name]]]  # the second process is served what the first computed
        assert found["passed"] == expected[:count]


def test_the_curve_of_the_finder_is_that_of_all_photos_of_a_step(folders):
    curves = [json.loads((folders[count] / "finder-find_lr" / "find_lr.json").read_text()) for count in (1, 2)]
    assert [curve["photos_a_step"] for curve in curves] == [8, 8]
    assert curves[1]["losses"][:80] == pytest.approx(curves[0]["losses"][:80], abs=1e-4)


def test_a_refit_says_who_trained_and_wants_as_many_processes_again(folders, tiny_backbone, tmp_path):
    from natix_hf import NatixTrainingArguments, UserError, load_model, load_photos
    from natix_hf.runs.refit import Refit

    for count, run in folders.items():
        record = json.loads((run / "refit" / "run.json").read_text())
        assert record["processes"] == count
        assert record["status"] == "finished"
        assert record["steps"] == 3
    splits = load_photos(folders[1].parent / "photos").dedicate("refit")
    model, processor = load_model(str(tiny_backbone), splits.label_names, image_size=32, lora={"lora_r": 4})
    arguments = NatixTrainingArguments(output_dir=str(tmp_path / "other"), use_cpu=True)
    with pytest.raises(UserError, match=r"expected 2 process\(es\), found 1, .*: start 2"):
        Refit(model, arguments, splits=splits, processing_class=processor, honest=folders[2] / "honest")
    assert not (tmp_path / "other").exists()
