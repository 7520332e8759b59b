"""Every optimizer within the trainer: exact resume, what is scored and saved, accumulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

RECIPES = {
    "sam": {"optim": "sam", "sam_rho": 0.1},
    "sam around muon, accumulated": {"optim": "sam", "sam_base": "muon", "gradient_accumulation_steps": 2},
    "sophia": {"optim": "sophia", "optim_args": "update_period=3"},
    "muon": {"optim": "muon"},
    "ademamix": {"optim": "ademamix"},
    "schedule_free_adamw": {"optim": "schedule_free_adamw", "ema": False, "lr_scheduler_type": "constant"},
    "lion": {"optim": "lion", "learning_rate": 3e-4},
    "rates": {"loraplus_lr_ratio": 4.0, "layerwise_lr_decay": 0.7},
    "pissa under an unfrozen block": {
        "lora": {"lora_init": "pissa", "unfreeze_last_blocks": 1, "lora_train_norms": True, "use_dora": True}
    },
    "doran": {"lora": {"use_doran": True, "doran_share": "block"}},
    "doran without an average": {"lora": {"use_doran": True, "lora_dropout": 0.1}, "ema": False},
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_resumed_run_ends_like_the_uninterrupted_one(job, stop_at, name):
    """Stopped in the middle between two evaluations, taken up at a checkpoint that was not evaluated."""
    settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 4}
    settings |= {"load_best_model_at_end": False, **RECIPES[name], "per_device_train_batch_size": 4}
    if name == "sophia":
        settings["model_options"] = {"attn_implementation": "eager"}
    whole = job("lora", "whole", **settings)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        job("lora", "cut", callbacks=[stop_at(5)], **settings).train()
    resumed = job("lora", "cut", **settings)
    resumed.train(resume_from_checkpoint=True)
    ended = dict(resumed.model.named_parameters())
    for name, parameter in whole.model.named_parameters():
        torch.testing.assert_close(ended[name], parameter, rtol=0, atol=0, msg=name)
    scores = [[e for e in t.state.log_history if "eval_log_loss" in e][-1]["eval_log_loss"] for t in (whole, resumed)]
    assert scores[0] == scores[1]


def test_what_schedule_free_scores_is_what_it_saves_and_ends_with(job):
    """Also where the best checkpoint is loaded at the end, and predictions follow."""
    from safetensors.torch import load_file

    settings = {**RECIPES["schedule_free_adamw"], "max_steps": 5, "eval_strategy": "steps", "eval_steps": 2}
    trainer = job("lora", save_strategy="steps", save_steps=2, metric_for_best_model="log_loss", **settings)
    trainer.train()
    best = load_file(f"{trainer.state.best_model_checkpoint}/adapter_model.safetensors")
    rows = trainer.splits.rows("selection", step="predictions")
    trainer.logits(rows)  # evaluates, and must not average once more
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            assert torch.equal(parameter, best[name.replace(".default", "")])
    logged = [e["eval_log_loss"] for e in trainer.state.log_history if "eval_log_loss" in e]
    assert trainer.evaluate()["eval_log_loss"] == min(logged)


def test_sophia_and_layer_rates_learn_in_full(job, losses):
    options = {"attn_implementation": "eager"}
    settings = {"optim": "sophia", "optim_args": "update_period=2", "layerwise_lr_decay": 0.8, "num_train_epochs": 6}
    trainer = job("full", model_options=options, eval_strategy="no", warmup_steps=0, **settings)
    trainer.train()
    assert np.mean(losses(trainer)[-4:]) < 0.7 * np.mean(losses(trainer)[:4])


def test_sophias_estimate_under_accumulation_is_that_of_one_batch(job):
    def estimates(**settings) -> list[torch.Tensor]:
        options = {"attn_implementation": "eager"}
        common = {"optim": "sophia", "max_steps": 1, "eval_strategy": "no", "lora_dropout": 0.0, "ema": False}
        trainer = job("lora", model_options=options, name=str(settings), **common, **settings)
        trainer.train()
        state = trainer.optimizer.optimizer.state
        return [values["hessian"] for values in state.values()]

    small = estimates(per_device_train_batch_size=2, gradient_accumulation_steps=4)
    for one, other in zip(estimates(per_device_train_batch_size=8), small):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
