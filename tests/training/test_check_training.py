"""Settings are checked once: by the recipe when a verb reads it, by the trainer for whoever builds it in Python."""

from __future__ import annotations

import pytest

from natix_hf import UserError
from natix_hf.recipe.yaml_and_command_line import parse
from natix_hf.train import train
from natix_hf.training import check_training


def test_a_trainer_and_a_verb_check_once(job, monkeypatch, tmp_path, tiny_backbone, photo_folder):
    usual, calls = check_training.check_loss, []
    monkeypatch.setattr(check_training, "check_loss", lambda *args: calls.append("loss") or usual(*args))
    job("lora")
    assert calls == ["loss"]

    def stopped(*args, **kwargs):
        raise UserError("here training would begin")

    monkeypatch.setattr("natix_hf.runs.train_run.train_run", stopped)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model_name_or_path: {tiny_backbone}\ndataset_name: {photo_folder}\noutput_dir: {tmp_path / 'verb'}\n"
        "image_size: 32\nuse_cpu: true\ndataloader_num_workers: 0\n"
    )
    recipe = parse([str(path)])
    assert calls == ["loss"] * 2
    with pytest.raises(UserError, match="here training would begin"):
        train(recipe)
    assert calls == ["loss"] * 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sampling": "even"}, "sampling: expected natural or balanced, found even"),
        ({"balance_by": "town"}, "balance_by: expected class, source or class_and_source, found town"),
        ({"layerwise_lr_decay": 1.5}, "layerwise_lr_decay: expected a share above 0 and at most 1, found 1.5"),
        ({"sampling": "balanced", "logit_adjustment": 1.0}, "sampling: balanced together with logit_adjustment"),
        ({"optim": "lion", "optim_args": "beta1=high"}, "optim_args: beta1=high: expected a number"),
        ({"probe_heads": "grid"}, "probe_heads: grid given, but method is lora"),
        ({"speed": {"prefix_cache_gb": -1.0}}, "prefix_cache_gb: expected a number of gigabytes above 0, found -1.0"),
    ],
)
def test_a_trainer_in_python_refuses_in_one_line(job, settings, said):
    with pytest.raises(UserError, match=said) as refused:
        job("lora", **settings)
    assert "\n" not in str(refused.value)
