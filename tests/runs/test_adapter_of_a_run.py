"""`adapter/` of a run: the usual calls load it onto its base, and nothing adds it to weights that hold it already."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageClassification

import natix_hf
from natix_hf import finish_run, train_run
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.runs.assemble_model import write_into_weights

NAMES = ["None", "Roadwork"]


@pytest.fixture(params=[{}, {"lora_init": "pissa"}, {"use_doran": True, "doran_share": "block"}], ids=str)
def run(job, request):
    trainer = job("lora", num_train_epochs=1, learning_rate=3e-2, lora=request.param)
    train_run(trainer)
    finish_run(trainer)
    return trainer.args.output_dir


@torch.no_grad()
def logits(model) -> torch.Tensor:
    photos = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return model.eval()(pixel_values=photos).logits


def base(tiny_backbone):
    return natix_hf.load_model(str(tiny_backbone), NAMES, method="full", image_size=32)[0]


def test_the_adapter_of_a_run_loads_by_the_usual_calls_and_is_never_applied_twice(run, tiny_backbone):
    adapter, expected = f"{run}/adapter", logits(AutoModelForImageClassification.from_pretrained(run))
    assert not torch.allclose(expected, logits(base(tiny_backbone)), atol=0.1)
    loaded = AutoModelForImageClassification.from_pretrained(adapter)
    torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(base(tiny_backbone), adapter)), expected, atol=1e-5, rtol=0
    )
    for merged in (AutoModelForImageClassification.from_pretrained(run), loaded):
        with pytest.raises(ValueError, match="already merged into the weights of this model"):
            PeftModel.from_pretrained(merged, adapter)
    with pytest.raises(ValueError, match="would be applied twice"):
        AutoModelForImageClassification.from_pretrained(run).load_adapter(adapter)


def test_another_adapter_may_stand_on_merged_weights(job, tmp_path):
    first = job("lora", num_train_epochs=1)
    train_run(first)
    finish_run(first)
    run = first.args.output_dir
    second, _ = natix_hf.load_model(run, NAMES, method="lora", image_size=32, lora={"lora_r": 2})
    second.save_pretrained(tmp_path / "second")
    merged = AutoModelForImageClassification.from_pretrained(run)
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(merged, tmp_path / "second")), logits(second), atol=1e-5, rtol=0
    )


def test_the_adapter_has_the_run_s_calibration_also_where_that_is_changed_later(job):
    trainer = job("lora", num_train_epochs=1)
    train_run(trainer)
    finish_run(trainer)
    run = Path(trainer.args.output_dir)
    knots = [[[0.0, 0.1], [1.0, 0.9]], [[0.0, 0.2], [1.0, 0.8]]]
    changed = {"temperature": [2.0, 2.0], "logit_bias": [0.5, -0.5], "isotonic": knots}
    write_into_weights(run, CalibrationFile.read(run).model_copy(update=changed))
    expected = logits(AutoModelForImageClassification.from_pretrained(run))
    loaded = AutoModelForImageClassification.from_pretrained(run / "adapter")
    assert loaded.config.isotonic is not None
    torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=0)
