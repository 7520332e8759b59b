"""What a curve of losses over rates suggests, and where the range test ends."""

from __future__ import annotations

import math

import numpy as np
import pytest

from natix_hf import load_photos
from natix_hf.documents.learning_rates import LearningRates
from natix_hf.errors import LeakageError
from natix_hf.runs import range_test
from natix_hf.runs.range_test import (
    HIGH,
    LOW,
    QUIET,
    STEPS,
    RangeTest,
    diverged,
    finish_range_test,
    rates,
    smooth,
    suggestion,
)


def curve(middle: float, up: float, noise: float = 0.0, start: float = 0.7) -> np.ndarray:
    """A loss that falls around the rate `middle` by half and rises steeply from `up` on."""
    rate, random = np.log10(rates(STEPS)), np.random.default_rng(0)
    fall = 1 / (1 + np.exp(-6 * (rate - math.log10(middle))))
    rise = np.clip(rate - math.log10(up), 0, None) ** 2
    return start - 0.35 * fall + 2 * rise + noise * random.normal(size=STEPS)


def test_rates_rise_by_one_factor_from_end_to_end():
    given = rates(STEPS)
    assert given[0] == LOW
    assert given[-1] == pytest.approx(HIGH)
    assert np.ptp(np.diff(np.log(given))) < 1e-9


def test_the_running_mean_is_symmetric_and_leaves_a_line_as_it_is():
    assert smooth(np.arange(30.0)) == pytest.approx(np.arange(30.0))
    spike = np.zeros(21)
    spike[10] = 11
    assert smooth(spike)[5:16] == pytest.approx(np.ones(11))


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_steepest_fall_is_suggested_where_divergence_is_far(noise):
    found = suggestion(curve(1e-3, 1.0, noise))
    assert found["suggestion"] == found["steepest"]
    assert 4e-4 < found["suggestion"] < 2.5e-3
    assert found["risen"] > found["lowest"] > found["steepest"]


def test_a_tenth_of_where_the_loss_is_back_is_suggested_where_that_is_less():
    found = suggestion(curve(1e-2, 3e-2))
    assert found["suggestion"] == pytest.approx(found["risen"] / 10)
    assert found["suggestion"] < found["steepest"]


def test_nothing_is_suggested_where_the_loss_never_fell_beyond_its_noise():
    flat = 0.7 + 0.1 * np.random.default_rng(1).normal(size=STEPS)
    assert set(suggestion(flat).values()) == {None}
    assert set(suggestion(flat[:QUIET]).values()) == {None}
    assert set(suggestion(np.full(STEPS, 0.7)).values()) == {None}


def test_a_loss_has_diverged_when_it_is_as_far_above_its_start_as_it_was_below():
    losses = curve(1e-3, 1e-1)
    end = next(n for n in range(1, STEPS + 1) if diverged(losses[:n]))
    assert losses[end - 1] > 0.7 + 0.34 > losses[end - 6]
    assert not diverged(curve(1e-3, HIGH))
    assert diverged(np.array([0.7, math.nan]))
    assert not diverged(-1 - curve(1e-3, HIGH))  # losses may be negative (koleo)


@pytest.fixture
def test_of(job, photo_folder, monkeypatch):
    """A function that runs a range test of a job, of fewer steps, and returns its trainer and document."""
    import natix_hf

    def run(method="full", **arguments):
        monkeypatch.setattr(natix_hf, "NatixTrainer", RangeTest)
        monkeypatch.setattr(range_test, "STEPS", 30)
        splits = load_photos(photo_folder).dedicate("range test")
        trainer = job(method, splits=splits, **arguments)
        trainer.train()
        return trainer, finish_range_test(trainer)

    return run


@pytest.mark.slow
def test_the_test_ends_at_divergence_and_reads_train_alone(test_of):
    trainer, document = test_of(optim="sgd", gradient_accumulation_steps=2, augment="none")
    assert document.diverged
    assert QUIET < len(document.rates) < 30
    assert {entry.split for entry in trainer.splits.ledger} == {"train"}
    with pytest.raises(LeakageError, match="range test"):
        trainer.splits.rows("selection", step="choose checkpoint")
    assert LearningRates.read(trainer.output) == document
    assert {path.name for path in trainer.output.iterdir()} == {"find_lr.json", "figures"}


@pytest.mark.slow
def test_the_loss_of_a_step_is_the_mean_over_its_parts(test_of):
    whole = test_of(optim="sgd", per_device_train_batch_size=8, augment="none", name="a")[1]
    parts = test_of(
        optim="sgd", per_device_train_batch_size=4, gradient_accumulation_steps=2, augment="none", name="b"
    )[1]
    # The first epoch alone: the last batch of an epoch is smaller, and parts of it weigh otherwise.
    assert parts.losses[:3] == pytest.approx(whole.losses[:3], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["adamw_torch", "sam", "muon", "ademamix", "lion"])
def test_every_optimizer_is_tested_on_the_rates_that_the_curve_says(test_of, optim):
    trainer, document = test_of(optim=optim, layerwise_lr_decay=0.5)
    steps = len(document.rates)
    factors = {round(group["lr"] / float(rates(steps + 1)[-1]), 6) for group in trainer.optimizer.param_groups}
    assert factors == {1.0, 0.5, 0.25, 0.125}  # head, two blocks, embeddings
