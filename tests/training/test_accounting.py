import json

import pytest
import torch
from transformers import TrainerCallback

from natix_hf.schemas import validate
from natix_hf.training.accounting import Accounting, bottleneck, speed_lines


def test_counted_operations_are_those_of_the_architecture_and_training_sees_nothing_of_it(job, tiny_backbone):
    trainer = job("full", lora_dropout=0.0)
    config = json.loads((tiny_backbone / "config.json").read_text())
    width, layers, inner = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    patches = (32 // config["patch_size"]) ** 2
    tokens = 1 + config["num_register_tokens"] + patches
    # Products of matrices: patches in, four projections and two products of attention, the MLP, the head.
    block = 2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * tokens**2 * width
    embedding = 2 * patches * width * 3 * config["patch_size"] ** 2
    forward = embedding + layers * block + 2 * width * 2
    before = torch.random.get_rng_state()
    weights = {n: p.clone() for n, p in trainer.model.named_parameters()}
    trainer._count_operations()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(p, weights[n]) and p.grad is None for n, p in trainer.model.named_parameters())
    # Backward takes twice as much, but no gradient goes into the photo; flash attention computes its scores once more.
    assert trainer.accounting.flop == pytest.approx(3 * forward - embedding, rel=0.02)


def test_a_run_says_where_its_time_went(job, tmp_path):
    class Slow(TrainerCallback):
        pass

    trainer = job(num_train_epochs=1, callbacks=[Slow()])
    trainer.train()
    metrics = trainer.finish()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    validate(record, "run")
    speed = record["speed"]
    assert speed["photos"] == trainer.splits.sizes["train"]
    assert speed["photos_per_second"] > 0
    assert speed["peak_flop_per_second"] is None  # seconds of training are not worth the measurement
    assert any(line.startswith("speed: ") for line in trainer.told(metrics))


def test_waiting_for_data_is_what_fetching_took(job):
    import time

    trainer = job(num_train_epochs=1, eval_strategy="no", save_strategy="no")
    real = trainer.train_dataset.__class__.__getitem__

    def slow(self, key):
        time.sleep(0.02)
        return real(self, key)

    trainer.train_dataset.__class__.__getitem__ = slow
    try:
        trainer.train()
    finally:
        trainer.train_dataset.__class__.__getitem__ = real
    assert trainer.accounting.waited >= 0.02 * trainer.splits.sizes["train"]
    document = trainer.accounting.document()
    assert document["waiting"] > 0.15
    assert document["bottleneck"].startswith("training waited for data")


@pytest.mark.parametrize(
    ("found", "times", "said"),
    [
        ({"waiting": 0.4, "beside": 0.1, "share_of_peak": 0.3}, {"train": 10}, "waited for data 40%"),
        ({"waiting": 0.0, "beside": 0.6, "share_of_peak": 0.3}, {"train": 10, "predict": 15}, "the phase predict"),
        ({"waiting": 0.0, "beside": 0.6, "share_of_peak": 0.3}, {"train": 20, "predict": 1}, "scoring and saving"),
        ({"waiting": 0.0, "beside": 0.1, "share_of_peak": 0.3}, {"train": 10}, "ran at 30% of this machine"),
        ({"waiting": 0.0, "beside": 0.1, "share_of_peak": 0.8}, {"train": 10}, "the model itself"),
    ],
)
def test_the_first_thing_to_mend_is_the_largest_loss(found, times, said):
    assert said in bottleneck(found, times)


def test_a_run_without_a_step_says_nothing(job):
    assert Accounting(job("probe")).document() is None
    assert speed_lines(None) == []
