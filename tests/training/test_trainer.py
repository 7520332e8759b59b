import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from natix_hf import NatixTrainingArguments, UserError, finish_run, load_photos, train_run
from natix_hf.training.finite_losses import FiniteLosses
from natix_hf.training.training_photos import EpochSampler


def trained(trainer):
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("lora", [{}, {"use_doran": True, "doran_share": "block"}], ids=["lora", "doran"])
def test_accumulated_gradients_equal_those_of_one_large_batch(job, lora):
    """Four steps of 2 photos must move the weights as one of 8, not four times as far."""
    settings = {"max_steps": 1, "lora_dropout": 0.0, "max_grad_norm": 0.0, "optim": "sgd", "eval_strategy": "no"}
    settings |= {"warmup_steps": 0, "lora": lora}
    large = job(name="large", per_device_train_batch_size=8, **settings)
    large.train()
    small = job(name="small", per_device_train_batch_size=2, gradient_accumulation_steps=4, **settings)
    small.train()
    for name, weight in trained(large).items():
        torch.testing.assert_close(trained(small)[name], weight, rtol=1e-5, atol=1e-7, msg=name)


def test_accumulated_loss_is_logged_as_the_mean(job, losses):
    settings = {"max_steps": 1, "lora_dropout": 0.0, "eval_strategy": "no"}
    large = job(name="large", per_device_train_batch_size=8, **settings)
    large.train()
    small = job(name="small", per_device_train_batch_size=2, gradient_accumulation_steps=4, **settings)
    small.train()
    assert losses(small) == pytest.approx(losses(large), rel=1e-5)


@pytest.mark.parametrize("method", ["lora", "full", "probe"])
@pytest.mark.parametrize("step", [4, 7])
def test_a_resumed_run_ends_like_the_uninterrupted_one(job, stop_at, method, step):
    """Weights, EMA, optimizer, schedule, order of photos and dropout go on where they stopped."""
    settings = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    settings |= {"model_options": {"head_dropout": 0.2}, "load_best_model_at_end": False}
    whole = job(method, "whole", **settings)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        job(method, "cut", callbacks=[stop_at(step)], **settings).train()
    resumed = job(method, "cut", **settings)
    resumed.train(resume_from_checkpoint=True)
    same(trained(whole), trained(resumed))
    last = [entry for entry in whole.state.log_history if "eval_log_loss" in entry][-1]
    again = [entry for entry in resumed.state.log_history if "eval_log_loss" in entry][-1]
    assert last["eval_log_loss"] == again["eval_log_loss"]


def test_a_resumed_run_goes_on_counting_its_patience(job, stop_at):
    settings = {"num_train_epochs": 10, "early_stopping_patience": 3, "learning_rate": 0.0}
    whole = job("lora", "whole", **settings)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        job("lora", "cut", callbacks=[stop_at(10)], **settings).train()
    resumed = job("lora", "cut", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.epoch == whole.state.epoch == 4


def test_a_resumed_run_keeps_the_best_checkpoint_of_before(job, stop_at):
    whole = job("lora", "whole", num_train_epochs=3)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        job("lora", "cut", num_train_epochs=3, callbacks=[stop_at(11)]).train()
    resumed = job("lora", "cut", num_train_epochs=3)
    resumed.train(resume_from_checkpoint=True)
    same(trained(whole), trained(resumed))
    assert whole.state.best_metric == resumed.state.best_metric


def test_what_is_scored_is_what_is_saved(job):
    """The checkpoint holds the averaged weights whose score is logged; the raw ones lie beside it."""
    trainer = job("full", num_train_epochs=1, load_best_model_at_end=False)
    trainer.train()
    folder = _checkpoints(trainer)[0]
    saved = {
        n.replace("backbone.layer.", "backbone.model.layer."): t
        for n, t in load_file(f"{folder}/model.safetensors").items()
    }
    for name, weight in trained(trainer).items():
        torch.testing.assert_close(saved[name], weight, rtol=0, atol=0, msg=name)
    raw = load_file(f"{folder}/raw_trainable.safetensors")
    assert any(not torch.equal(raw[name], saved[name]) for name in raw)


def _checkpoints(trainer):
    from natix_hf.training.checkpoints import checkpoints

    return checkpoints(trainer.args.output_dir)


def test_scores_of_raw_and_averaged_weights_are_both_logged(job):
    trainer = job("lora", num_train_epochs=1)
    trainer.train()
    keys = {key for entry in trainer.state.log_history for key in entry}
    assert {"eval_mcc", "eval_raw_mcc", "eval_log_loss", "eval_raw_log_loss"} <= keys


def test_lora_checkpoints_hold_trainable_weights_only(job):
    trainer = job("lora", num_train_epochs=1)
    trainer.train()
    (folder,) = _checkpoints(trainer)
    assert not (folder / "model.safetensors").exists()
    names = load_file(folder / "adapter_model.safetensors").keys()
    assert all("lora_" in name or ".head." in name for name in names)
    assert load_file(folder / "raw_trainable.safetensors").keys() == trained(trainer).keys()


def test_probe_checkpoints_hold_the_head_only(job):
    trainer = job("probe", num_train_epochs=1)
    trainer.train()
    (folder,) = _checkpoints(trainer)
    assert load_file(folder / "model.safetensors").keys() == {"head.linear.weight", "head.linear.bias"}


def test_old_checkpoints_are_pruned(job):
    trainer = job(
        "lora", save_strategy="steps", save_steps=2, eval_strategy="no", save_total_limit=1, num_train_epochs=1
    )
    trainer.train()
    assert [p.name for p in _checkpoints(trainer)] == ["checkpoint-4"]


class _Poison(TrainerCallback):
    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 5:
            next(p for p in model.parameters() if p.requires_grad).data.fill_(math.nan)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_checkpoint(job):
    trainer = job("full", save_strategy="steps", save_steps=2, eval_strategy="no", callbacks=[_Poison()])
    with pytest.raises(UserError, match=r"loss is nan at step 6; the last good checkpoint is .*checkpoint-4"):
        trainer.train()


def test_a_loss_that_is_looked_at_a_step_later_stops_the_run_before_anything_of_it_is_kept(job):
    """As on a GPU: step 6 is a step of saving."""
    trainer = job("full", save_strategy="steps", save_steps=2, eval_strategy="no", callbacks=[_Poison()])
    trainer.finite.lag = 1
    with pytest.raises(UserError, match=r"loss is nan at step 6; the last good checkpoint is .*checkpoint-4"):
        trainer.train()
    assert _checkpoints(trainer)[-1].name == "checkpoint-4"


def test_losses_are_looked_at_when_the_next_one_is_there(tmp_path):
    losses = FiniteLosses(tmp_path, lag=1)
    losses.seen(1, torch.tensor(1.0))
    losses.seen(2, torch.tensor(math.inf))
    with pytest.raises(UserError, match="the loss is inf at step 2; there is no checkpoint yet"):
        losses.seen(3, torch.tensor(1.0))
    losses = FiniteLosses(tmp_path, lag=1)
    losses.seen(7, torch.tensor(math.nan))
    with pytest.raises(UserError, match="the loss is nan at step 7"):
        losses.check()


def test_on_an_accelerator_batches_travel_while_it_computes_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    def chosen(**given):
        return NatixTrainingArguments(output_dir=str(tmp_path), bf16=False, **given).accelerator_config.non_blocking

    assert not chosen()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert chosen()
    assert not chosen(accelerator_config={"non_blocking": False})
    assert not chosen(dataloader_pin_memory=False)


def test_label_smoothing_has_the_textbook_loss(job):
    plain = job("lora", label_smoothing_factor=0.2, num_train_epochs=1, lora_dropout=0.0)
    batch = plain.data_collator([plain.train_dataset[(0, i)] for i in range(8)])
    plain.model.train()  # what is scored is not smoothed
    with torch.no_grad():
        logits = plain.model(pixel_values=batch["pixel_values"]).logits
        expected = torch.nn.functional.cross_entropy(logits, batch["labels"], label_smoothing=0.2)
        loss = plain.compute_loss(plain.model, dict(batch))
    torch.testing.assert_close(loss, expected)


def test_no_decay_on_norms_biases_tokens_and_layer_scale(job):
    trainer = job("full")
    decayed = trainer.get_decay_parameter_names(trainer.model)
    assert "head.linear.weight" in decayed
    assert any(name.endswith("q_proj.weight") for name in decayed)
    single = ("bias", "cls_token", "register_tokens", "mask_token", "lambda1")
    assert not [name for name in decayed if name.endswith(single) or "norm" in name]


def test_early_stopping_ends_the_run(job):
    trainer = job("lora", num_train_epochs=30, early_stopping_patience=2, learning_rate=0.0)
    trainer.train()
    assert trainer.state.epoch == 3  # the first evaluation sets the mark, two more do not pass it


def test_workers_change_nothing(job):
    alone = job("lora", "alone", num_train_epochs=1, eval_strategy="no", lora_dropout=0.0)
    alone.train()
    helped = job("lora", "helped", num_train_epochs=1, eval_strategy="no", lora_dropout=0.0, dataloader_num_workers=2)
    helped.train()
    same(trained(alone), trained(helped))


def test_the_same_seed_gives_the_same_adapters(tiny_backbone):
    from natix_hf import load_model

    first, _ = load_model(str(tiny_backbone), ["a", "b"], image_size=32, seed=3)
    second, _ = load_model(str(tiny_backbone), ["a", "b"], image_size=32, seed=3)
    same(dict(first.named_parameters()), dict(second.named_parameters()))


def test_every_epoch_has_its_own_order_and_holds_every_row():
    sampler = EpochSampler(50, seed=3)
    first = list(sampler)
    assert first == list(EpochSampler(50, seed=3))
    sampler.epoch = 1
    second = list(sampler)
    assert {e for e, _ in second} == {1}
    assert sorted(i for _, i in first) == sorted(i for _, i in second) == list(range(50))
    assert [i for _, i in first] != [i for _, i in second]


def test_bf16_is_off_where_the_machine_lacks_it_and_fp16_cannot_be_asked_for(job):
    trainer = job("lora")
    assert trainer.args.bf16 is False
    assert trainer.args.fp16 is False
    with pytest.raises(TypeError):
        job("lora", fp16=True)


def test_classes_of_model_and_data_must_agree(job, make_photos, tmp_path):
    from natix_hf import NatixTrainer

    trainer = job("lora")
    other = load_photos(make_photos(tmp_path / "other", {"a": (1, 2, 3), "b": (200, 9, 9), "c": (9, 200, 9)}, 8))
    with pytest.raises(UserError, match="classes"):
        NatixTrainer(trainer.model, trainer.args, splits=other, processing_class=trainer.processing_class)


def test_thirteen_classes_train_and_are_tested(job, make_photos, tmp_path):
    colours = {f"class {i:02d}": (20 * i % 256, 255 - 19 * i, (97 * i) % 256) for i in range(13)}
    trainer = job("full", dataset=make_photos(tmp_path / "many", colours, 12), num_train_epochs=12, learning_rate=3e-3)
    train_run(trainer)
    metrics = finish_run(trainer)
    assert metrics.n == sum(metrics.labels.values())
    assert len(metrics.labels) == 13
    assert metrics.metrics["accuracy"].value > 0.5
    config = json.loads((_run(trainer) / "config.json").read_text())
    assert list(config["id2label"].values()) == list(colours)


def _run(trainer):
    from pathlib import Path

    return Path(trainer.args.output_dir)


@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same_losses(job, losses):
    settings = {"max_steps": 3, "eval_strategy": "no", "lora_dropout": 0.0}
    plain = job("lora", "plain", **settings)
    plain.train()
    compiled = job("lora", "compiled", torch_compile=True, **settings)
    compiled.train()
    assert losses(compiled) == pytest.approx(losses(plain), abs=1e-4)


def test_activation_checkpointing_changes_memory_and_not_the_result(job, losses):
    settings = {"max_steps": 3, "eval_strategy": "no", "lora_dropout": 0.0}
    for method in ("lora", "full"):
        plain = job(method, f"plain-{method}", **settings)
        plain.train()
        saving = job(method, f"saving-{method}", activation_checkpointing=True, **settings)
        saving.train()
        np.testing.assert_allclose(losses(saving), losses(plain), atol=1e-6)


def test_tensorboard_gets_the_scores(job, monkeypatch, tmp_path):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    job("lora", report_to="tensorboard", num_train_epochs=1).train()
    assert list((tmp_path / "board").rglob("events.out.tfevents.*"))


@pytest.mark.parametrize("patience", [None, 1])
def test_a_run_stopped_after_training_is_finished_by_resuming(job, monkeypatch, patience):
    """Also where early stopping ended it: the resumed run must not train on."""
    from natix_hf.runs import finish_run as final

    settings = {"num_train_epochs": 6, "early_stopping_patience": patience}
    if patience:
        settings["learning_rate"] = 0.0
    whole = job("lora", "whole", **settings)
    train_run(whole)
    expected = finish_run(whole)
    cut = job("lora", "cut", **settings)
    train_run(cut)
    calibrate = final.calibrate_run

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(final, "calibrate_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finish_run(cut)
    monkeypatch.setattr(final, "calibrate_run", calibrate)
    resumed = job("lora", "cut", **settings)
    train_run(resumed, resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step
    assert finish_run(resumed).metrics == expected.metrics


def test_a_run_that_had_made_its_max_steps_makes_none_when_resumed(job, losses):
    """Also where they end within an epoch, of which the parent would take one more step."""
    settings = {"max_steps": 5, "save_strategy": "steps", "save_steps": 5, "eval_strategy": "no", "logging_steps": 1}
    whole = job("lora", "cut", **settings)
    assert whole.args.max_steps % (len(whole.get_train_dataloader())) != 0
    whole.train()
    ended = {name: p.detach().clone() for name, p in whole.model.named_parameters()}
    resumed = job("lora", "cut", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 5
    assert len(losses(resumed)) == 5
    for name, parameter in resumed.model.named_parameters():
        assert torch.equal(parameter, ended[name]), name
