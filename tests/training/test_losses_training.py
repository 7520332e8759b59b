"""Losses through the Trainer: today's numbers, accumulation, what is scored."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from natix_hf.training.losses.training_loss import TrainingLoss

STEP = {"max_steps": 1, "lora_dropout": 0.0, "max_grad_norm": 0.0, "optim": "sgd", "warmup_steps": 0, "ema": False}
STEP |= {"eval_strategy": "no", "save_strategy": "no"}


def trained(trainer):
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


def one_batch(trainer, count: int = 8):
    return trainer.data_collator([trainer.train_dataset[(0, i)] for i in range(0, 2 * count, 2)])


def test_ce_is_the_loss_that_the_model_itself_gives(job):
    trainer = job("lora", **STEP)
    batch = one_batch(trainer)
    trainer.model.train()
    expected = trainer.model(**batch).loss
    assert torch.equal(trainer.compute_loss(trainer.model, dict(batch)), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"class_weights": ["1", "5"], "label_smoothing_factor": 0.1},
        {"loss": "focal", "logit_adjustment": 1.0, "focal_alpha": [0.3]},
        {"loss": "asymmetric", "class_weights": "balanced"},
        {"loss": "ce+0.5*gatekeeper"},
    ],
)
def test_the_gradient_of_two_halves_is_that_of_the_whole_batch(job, settings):
    large = job("lora", "large", per_device_train_batch_size=8, **STEP, **settings)
    before = trained(large)
    large.train()
    small = job("lora", "small", per_device_train_batch_size=4, gradient_accumulation_steps=2, **STEP, **settings)
    small.train()
    assert any(not torch.equal(weight, before[name]) for name, weight in trained(large).items())
    for name, weight in trained(large).items():
        assert_close(trained(small)[name], weight, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("loss", ["ce+supcon", "ce+koleo", "ce+lcron"])
def test_losses_that_compare_rows_compare_those_of_one_step(job, losses, loss):
    """Under accumulation the loss is the mean of those of the halves, which is not that of the whole batch."""
    small = job("lora", "small", per_device_train_batch_size=4, gradient_accumulation_steps=2, loss=loss, **STEP)
    order = list(small.sampler)[:8]
    small.model.train()
    halves = []
    for part in (order[:4], order[4:]):
        batch = small.data_collator([small.train_dataset[key] for key in part])
        halves.append(small.compute_loss(small.model, batch).item())
    small.train()
    assert losses(small) == pytest.approx([sum(halves) / 2], rel=1e-5)


def test_what_is_scored_is_plain_cross_entropy_whatever_is_trained(job):
    """So `eval_loss` compares runs with different losses: here, before the first step, it is the same number."""
    settings = [{}, {"loss": "focal+supcon", "logit_adjustment": 1.0}]
    settings += [{"class_weights": ["1", "9"], "label_smoothing_factor": 0.3}]
    scores = [job("lora", f"run{i}", ema=False, **given).evaluate() for i, given in enumerate(settings)]
    assert scores[0]["eval_loss"] == pytest.approx(scores[0]["eval_log_loss"], rel=1e-5)
    for score in scores[1:]:
        assert score["eval_loss"] == scores[0]["eval_loss"]


def test_the_trainer_weighs_and_adjusts_by_the_rows_of_train(job, make_photos, tmp_path):
    from natix_hf import load_photos

    folder = make_photos(tmp_path / "many", {"None": (100, 120, 110)}, 10)
    make_photos(folder, {"Roadwork": (150, 100, 90)}, 40, seed=1)
    splits = load_photos(folder)
    counts = splits.description.class_counts["train"]
    trainer = job("lora", splits=splits, class_weights="balanced", logit_adjustment=2.0)
    rows = counts["None"] + counts["Roadwork"]
    assert trainer.criterion.weights.tolist() == pytest.approx(
        [rows / 2 / counts["None"], rows / 2 / counts["Roadwork"]]
    )
    shares = torch.tensor([counts["None"] / rows, counts["Roadwork"] / rows])
    assert_close(trainer.criterion.adjustment, 2 * shares.log())
    assert isinstance(trainer.criterion, TrainingLoss)


def test_a_probe_trains_with_losses_on_logits(job):
    trainer = job("probe", loss="focal+0.1*lcron", class_weights="balanced", num_train_epochs=1)
    trainer.train()
    batch = one_batch(trainer)
    trainer.model.eval()
    with torch.no_grad():
        loss, outputs = trainer.compute_loss(trainer.model, dict(batch), return_outputs=True)
    assert_close(loss, F.cross_entropy(outputs.logits, batch["labels"]))
