"""Losses on features, and the projection head that is trained, kept in checkpoints, and published nowhere."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from natix_hf import UserError, finish_run, load_model, train_run
from natix_hf.training.checkpoints import checkpoints
from natix_hf.training.losses.koleo import koleo
from natix_hf.training.losses.projection import PROJECTION, Projection
from natix_hf.training.losses.supcon import supcon

LABELS = torch.tensor([0, 0, 1, 1, 1, 2])


@pytest.fixture
def features():
    """`(6, 4)` in float64 that want a gradient."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 4, generator=generator, dtype=torch.float64).requires_grad_()


# -- values -----------------------------------------------------------------------------------------------------------


def test_supcon_is_the_formula_of_the_paper(features):
    """`L_out` with temperature 0.5, over the rows that have another of their class."""
    z = torch.nn.functional.normalize(features.detach(), dim=1)
    rows = []
    for i in range(6):
        others = [a for a in range(6) if a != i]
        total = math.log(sum(math.exp(float(z[i] @ z[a]) / 0.5) for a in others))
        same = [p for p in others if LABELS[p] == LABELS[i]]
        if same:
            rows.append(-sum(float(z[i] @ z[p]) / 0.5 - total for p in same) / len(same))
    assert supcon(features, LABELS, 0.5).item() == pytest.approx(sum(rows) / len(rows))


def test_koleo_is_the_log_distance_to_the_nearest_direction():
    """Directions at 0, 60 and 180 degrees: chords to the nearest are 1, 1 and sqrt(3)."""
    angles = torch.deg2rad(torch.tensor([0.0, 60.0, 180.0], dtype=torch.float64))
    points = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([[1.0], [5.0], [0.1]])
    assert float(koleo(points)) == pytest.approx(-math.log(math.sqrt(3)) / 3)


@pytest.mark.parametrize("loss", [lambda x: supcon(x, LABELS, 0.5), koleo])
def test_gradients_agree_with_finite_differences(features, loss):
    assert torch.autograd.gradcheck(loss, features)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0], [0]])
def test_a_batch_without_pairs_or_without_others_costs_nothing(labels):
    x = torch.randn(len(labels), 4, requires_grad=True)
    loss = supcon(x, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.any()


def test_equal_rows_and_a_single_row_keep_koleo_finite():
    for x in (torch.ones(3, 4, requires_grad=True), torch.ones(1, 4, requires_grad=True)):
        loss = koleo(x)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(x.grad).all()


# -- the model and its projection head --------------------------------------------------------------------------------


def test_a_model_hands_out_the_features_that_its_head_read(tiny_backbone):
    model, _ = load_model(str(tiny_backbone), ["a", "b"], method="full", image_size=32, pooling="cls_mean")
    model.eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        output = model(pixel_values=pixels, output_features=True)
        assert_close(output.features, model.extract_features(pixels))
        assert_close(output.logits, model.head(output.features))
        assert model(pixel_values=pixels).features is None


def test_a_projection_head_is_trained_with_the_model_and_saved_with_none(tiny_backbone, tmp_path):
    model, _ = load_model(str(tiny_backbone), ["a", "b"], method="full", image_size=32)
    names = set(model.state_dict())
    state = torch.random.get_rng_state()
    projection = Projection(model.feature_size, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    projection.attach(model)
    assert {f"projection.{name}" for name, _ in projection.named_parameters()} <= dict(model.named_parameters()).keys()
    assert set(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    assert not [name for name in load_file(tmp_path / "model.safetensors") if "projection" in name]
    assert not model.load_state_dict(model.state_dict()).missing_keys
    output = model(pixel_values=torch.randn(2, 3, 32, 32), output_features=True)
    assert output.projected.shape == (2, 128)
    projection.detach(model)
    assert "projection" not in dict(model.named_modules())
    assert type(model(pixel_values=torch.randn(2, 3, 32, 32), output_features=True)).__name__ == "NatixDinov3Output"


# -- in training ------------------------------------------------------------------------------------------------------


def projections(run) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(run)[-1] / PROJECTION)


@pytest.mark.parametrize(("method", "ema"), [("lora", True), ("lora", False), ("full", True)])
def test_a_resumed_run_goes_on_with_its_projection_head(job, stop_at, method, ema):
    settings = {"loss": "ce+0.5*supcon+0.1*koleo", "ema": ema, "save_strategy": "steps", "save_steps": 2}
    settings |= {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": False, "save_total_limit": None}
    whole = job(method, "whole", **settings)
    fresh = {name: p.detach().clone() for name, p in whole.criterion.projection.named_parameters()}
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        job(method, "cut", callbacks=[stop_at(5)], **settings).train()
    resumed = job(method, "cut", **settings)
    resumed.train(resume_from_checkpoint=True)
    first, second = (projections(trainer.args.output_dir) for trainer in (whole, resumed))
    for name, weight in first.items():
        assert not torch.equal(weight, fresh[name]), f"{name} is not trained"
        assert torch.equal(weight, second[name]), name
    weights = dict(resumed.model.named_parameters())
    for name, weight in whole.model.named_parameters():
        assert torch.equal(weight, weights[name]), name


def test_the_published_model_and_adapter_have_no_projection_head(job):
    trainer = job("lora", loss="ce+0.1*supcon", num_train_epochs=1)
    train_run(trainer)
    finish_run(trainer)
    run = Path(trainer.args.output_dir)
    for path in (run / "model.safetensors", run / "adapter" / "adapter_model.safetensors"):
        assert not [name for name in load_file(path) if "projection" in name]
    assert trainer.trainable_parameters == job("lora", "plain").trainable_parameters


def test_a_checkpoint_of_another_loss_is_refused(job):
    settings = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "no", "max_steps": 2}
    job("lora", loss="ce+0.1*supcon", **settings).train()
    with pytest.raises(UserError, match="was written with supcon, but this run is without it"):
        job("lora", **{**settings, "max_steps": 4}).train(resume_from_checkpoint=True)


def test_features_move_under_their_losses(job):
    """The same steps with and without: the backbone's adapters end elsewhere."""
    settings = {"max_steps": 2, "lora_dropout": 0.0, "eval_strategy": "no", "save_strategy": "no", "ema": False}
    ends = []
    for loss in ("ce", "ce+supcon", "ce+koleo"):
        trainer = job("lora", loss, loss=loss, **settings)
        trainer.train()
        ends.append({n: p.detach().clone() for n, p in trainer.model.named_parameters() if "lora_" in n})
    for other in ends[1:]:
        assert any(not torch.equal(other[name], weight) for name, weight in ends[0].items())
