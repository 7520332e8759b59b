"""SAM on quadratics in closed form, against the library's, and within the trainer: accumulation, clipping, dropout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from natix_hf.training.optimizers.sharpness import Climb

JOB = Path(__file__).parent / "killed_job.py"
A = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)  # f(w) = sum(A w^2) / 2


def gradient_at_the_top(start: list[float], rho: float, adaptive: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """`grad f(w + e)` and the weights afterwards."""
    w = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    (A * w**2 / 2).sum().backward()
    with Climb([w], rho, adaptive=adaptive):
        (A * w**2 / 2).sum().backward()
    return w.grad, w.detach()


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_climb_has_its_closed_form_and_leaves_no_trace(adaptive):
    start = [1.5, -0.5, 2.0]
    w = torch.tensor(start, dtype=torch.float64)
    g = A * w
    e = 0.1 * (w**2 * g / (w.abs() * g).norm() if adaptive else g / g.norm())
    gradient, after = gradient_at_the_top(start, 0.1, adaptive)
    torch.testing.assert_close(gradient, A * (w + e), rtol=1e-10, atol=0)
    assert torch.equal(after, w)


def test_the_length_of_the_climb_is_over_all_parameters_together():
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))
    a.grad, b.grad = torch.full((2,), 3.0), torch.full((3,), -1.0)
    with Climb([a, b], 0.5):
        assert torch.cat([a, b]).norm().item() == pytest.approx(0.5)
        assert a.grad is None
    assert not a.any()


@pytest.mark.parametrize("adaptive", [False, True])
def test_three_steps_equal_the_librarys(adaptive):
    from pytorch_optimizer import SAM

    ours, theirs = (nn.Parameter(torch.tensor([1.5, -0.5, 2.0], dtype=torch.float64)) for _ in range(2))
    base = torch.optim.SGD([ours], lr=0.1, momentum=0.9)
    reference = SAM([theirs], torch.optim.SGD, rho=0.2, adaptive=adaptive, lr=0.1, momentum=0.9)
    for _ in range(3):
        base.zero_grad()
        (A * ours**2 / 2).sum().backward()
        with Climb([ours], 0.2, adaptive=adaptive):
            (A * ours**2 / 2).sum().backward()
        base.step()

        def closure():
            reference.zero_grad()
            (A * theirs**2 / 2).sum().backward()

        closure()
        reference.step(closure)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)  # it takes the norm in float32


ONE_STEP = {"optim": "sam", "sam_base": "sgd", "sam_rho": 0.5, "max_steps": 1, "eval_strategy": "no"}
ONE_STEP |= {
    "warmup_steps": 0,
    "max_grad_norm": 0.0,
    "weight_decay": 0.0,
    "ema": False,
    "lr_scheduler_type": "constant",
}


def trained(trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def test_four_small_batches_make_the_step_of_a_large_one(job):
    """The climb follows the gradient of the whole step, and so does the second pass."""
    large = job(name="large", per_device_train_batch_size=8, lora_dropout=0.0, **ONE_STEP)
    start = trained(large)
    large.train()
    small = job(
        name="small", per_device_train_batch_size=2, gradient_accumulation_steps=4, lora_dropout=0.0, **ONE_STEP
    )
    small.train()
    plain = job(name="plain", per_device_train_batch_size=8, lora_dropout=0.0, **{**ONE_STEP, "optim": "sgd"})
    plain.train()
    far = 0.0
    for name, weight in trained(large).items():
        torch.testing.assert_close(trained(small)[name], weight, rtol=1e-4, atol=1e-6, msg=name)
        far = max(far, ((trained(plain)[name] - weight).abs().max() / (weight - start[name]).abs().max()).item())
    assert far > 0.01  # and another step than without the climb


def test_a_step_is_made_with_the_gradient_at_the_top(job):
    """Computed by hand from the trainer's own batch."""
    trainer = job("lora", per_device_train_batch_size=8, lora_dropout=0.0, **ONE_STEP)
    start = trained(trainer)
    batch = next(iter(trainer.get_train_dataloader()))
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    trainer.model.train()

    def gradients() -> list[torch.Tensor]:
        return list(torch.autograd.grad(trainer.model(**batch).loss, parameters))

    first = gradients()
    norm = torch.cat([g.flatten() for g in first]).norm()
    with torch.no_grad():
        for p, g in zip(parameters, first):
            p.add_(0.5 * g / norm)
    second = gradients()
    with torch.no_grad():
        for p, value in zip(parameters, start.values()):
            p.copy_(value)
    trainer.train()
    for (name, after), g in zip(trained(trainer).items(), second):
        torch.testing.assert_close(after, start[name] - trainer.args.learning_rate * g, rtol=1e-4, atol=1e-6, msg=name)


def test_it_is_the_second_gradient_that_is_clipped(job):
    """An SGD step of a clipped gradient has length lr * max_grad_norm; the climb is as long as ever."""
    limit = 0.01
    clipped = job(name="clipped", lora_dropout=0.0, **{**ONE_STEP, "max_grad_norm": limit})
    start = trained(clipped)
    clipped.train()
    free = job(name="free", lora_dropout=0.0, **ONE_STEP)
    free.train()
    moves = [torch.cat([(trained(t)[n] - start[n]).flatten() for n in start]) for t in (clipped, free)]
    assert moves[0].norm().item() == pytest.approx(clipped.args.learning_rate * limit, rel=1e-3)
    # The same direction as without clipping: the climb was not shortened.
    assert torch.nn.functional.cosine_similarity(*moves, dim=0).item() == pytest.approx(1.0, abs=1e-5)
    logged = [e["grad_norm"] for e in clipped.state.log_history if "grad_norm" in e]
    assert logged[0] > limit


def test_batches_pass_twice_with_the_same_views_and_dropout_masks(job, monkeypatch):
    seen = []
    trainer = job("lora", lora_dropout=0.5, augment="basic", per_device_train_batch_size=2, **ONE_STEP)
    trainer.args.gradient_accumulation_steps = 2
    wrapped = type(trainer).compute_loss

    def watched(self, model, inputs, *args, **kwargs):
        drawn = torch.get_rng_state()
        seen.append((inputs["pixel_values"].clone(), drawn))
        return wrapped(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(type(trainer), "compute_loss", watched)
    trainer.train()
    assert len(seen) == 4
    for first, second in ((0, 2), (1, 3)):
        assert torch.equal(seen[first][0], seen[second][0])
        assert torch.equal(seen[first][1], seen[second][1])
    assert not torch.equal(seen[0][1], seen[1][1])


def test_under_bf16_the_weights_come_back_to_the_bit_and_it_learns(job, losses):
    settings = {"optim": "sam", "bf16": True, "max_steps": 12, "eval_strategy": "no", "warmup_steps": 0}
    trainer = job("lora", lora_dropout=0.0, **settings)
    trainer.train()
    assert np.mean(losses(trainer)[-3:]) < np.mean(losses(trainer)[:3])


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(tiny_backbone, make_photos, tmp_path, launched):
    """Half of each batch in each of them, two micro-batches a step."""
    photos = make_photos(tmp_path / "photos", {"None": (112, 118, 115), "Roadwork": (124, 114, 110)}, 40)
    arguments = {"optim": "sam", "sam_rho": 0.2, "max_steps": 4, "eval_strategy": "no", "save_strategy": "no"}
    arguments |= {"gradient_accumulation_steps": 2, "warmup_steps": 0}
    logs = []
    for processes in (1, 2):
        run = tmp_path / f"run-{processes}"
        here = {"per_device_train_batch_size": 8 // processes, **({"ddp_backend": "gloo"} if processes > 1 else {})}
        job = {"photos": str(photos), "backbone": str(tiny_backbone), "run": str(run), "method": "lora"}
        job |= {"dropout": 0.0, "arguments": {**arguments, **here}}
        result = launched(JOB, json.dumps(job), home=tmp_path / "home", processes=processes)
        assert result.status == 0, result.err
        history = json.loads((run / "run.json").read_text())["log_history"]
        logs.append([(entry["loss"], entry["grad_norm"]) for entry in history if "loss" in entry])
    np.testing.assert_allclose(logs[1], logs[0], rtol=2e-3, atol=1e-4)
