"""What an epoch is made of: exact shares, every row, the same anywhere, and what is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from natix_hf import NatixTrainingArguments, UserError
from natix_hf.training.epoch_kinds import check_sampling
from natix_hf.training.losses.training_loss import TrainingLoss
from natix_hf.training.sampling import REPEAT, Strata, StratifiedSampler, seen_shares

LABELS = np.array([0] * 7 + [1] * 60 + [2] * 33)
SOURCES = ["a", "b", "b", "b", "b", "b", "b"] + ["a"] * 50 + ["b"] * 10 + ["b"] * 33
NAMES = ["x", "y", "z"]


def sampler(balance_by="class", sampling="balanced", seed=3, **more):
    return StratifiedSampler(Strata(LABELS, SOURCES, NAMES, sampling, balance_by), seed, **more)


def epoch_of(sampler, epoch):
    sampler.epoch = epoch
    return list(sampler)


def test_balanced_epochs_keep_their_length_and_give_every_class_its_exact_share():
    balanced, total = sampler(), Counter()
    for epoch in range(6):
        keys = epoch_of(balanced, epoch)
        assert len(keys) == len(balanced) == 100
        drawn = Counter(LABELS[i] for _, i in keys)
        assert sorted(drawn.values()) == [33, 33, 34]
        total += drawn
    assert total == {0: 200, 1: 200, 2: 200}  # what is left over goes round


def test_rare_rows_repeat_evenly_and_common_ones_do_not():
    balanced, over_epochs = sampler(), Counter()
    for epoch in range(12):
        times = Counter(i for _, i in epoch_of(balanced, epoch))
        assert {times[i] for i in range(7)} <= {4, 5}
        assert max(times[i] for i in range(7, 67)) == 1
        assert max(times[i] for i in range(67, 100)) <= 2
        over_epochs += times
    for label in range(3):  # over the run all rows of a class are drawn equally often
        times = [over_epochs[i] for i in np.flatnonzero(label == LABELS)]
        assert max(times) - min(times) <= 1


def test_a_row_drawn_again_has_a_view_of_its_own():
    keys = epoch_of(sampler(), 5)
    assert len(set(keys)) == len(keys)
    assert {e % REPEAT for e, _ in keys} == {5}


@pytest.mark.parametrize("balance_by", ["class", "source", "class_and_source"])
def test_an_epoch_is_a_function_of_seed_and_epoch(balance_by):
    one = sampler(balance_by)
    first, second = epoch_of(one, 0), epoch_of(one, 1)
    assert epoch_of(sampler(balance_by), 1) == second  # without the epoch before
    assert epoch_of(one, 0) == first  # and back
    assert [i for _, i in first] != [i for _, i in second]
    assert epoch_of(sampler(balance_by, seed=4), 0) != first


def test_sources_are_evened_out_and_within_classes_too():
    shares = []
    for balance_by in ("source", "class_and_source"):
        one = sampler(balance_by)
        drawn = Counter((LABELS[i], SOURCES[i]) for epoch in range(60) for _, i in epoch_of(one, epoch))
        shares.append({cell: count / 6000 for cell, count in drawn.items()})
    assert sum(v for (_, source), v in shares[0].items() if source == "a") == pytest.approx(0.5)
    assert shares[0][0, "a"] == pytest.approx(0.5 / 51, abs=1e-3)  # classes as they are within a source
    expected = {(0, "a"): 1 / 6, (0, "b"): 1 / 6, (1, "a"): 1 / 6, (1, "b"): 1 / 6, (2, "b"): 1 / 3}
    assert shares[1] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("balance_by", ["class", "source", "class_and_source"])
def test_the_shares_told_are_those_drawn(balance_by):
    one = sampler(balance_by)
    drawn = np.bincount([LABELS[i] for epoch in range(60) for _, i in epoch_of(one, epoch)]) / 6000
    np.testing.assert_allclose(one.strata.shares(), drawn, atol=1e-3)


def test_natural_strata_hold_every_row_once():
    keys = epoch_of(sampler(sampling="natural"), 2)
    assert sorted(i for _, i in keys) == list(range(100))
    np.testing.assert_allclose(sampler(sampling="natural").strata.shares(), [0.07, 0.6, 0.33])


def test_only_admitted_rows_are_drawn_and_as_evenly_as_may_be():
    admitted = np.zeros(100, bool)
    admitted[[0, 1, *range(7, 20), *range(67, 80)]] = True
    one = sampler(sampling="natural", admitted=lambda epoch: admitted if epoch < 2 else np.ones(100, bool))
    times = Counter(i for _, i in epoch_of(one, 1))
    assert set(times) == set(np.flatnonzero(admitted))
    assert Counter(LABELS[i] for i in times.elements()) == {0: 7, 1: 60, 2: 33}
    assert {times[i] for i in (0, 1)} == {3, 4}
    assert {times[i] for i in range(7, 20)} == {4, 5}
    assert sorted(i for _, i in epoch_of(one, 2)) == list(range(100))


def test_what_is_not_there_cannot_be_balanced():
    with pytest.raises(UserError, match="no photo of class w"):
        Strata(LABELS, SOURCES, [*NAMES, "w"], "balanced", "class")
    with pytest.raises(UserError, match="balance_by: source: all photos of train come from one source"):
        Strata(LABELS, ["all"] * 100, NAMES, "balanced", "source")


@pytest.mark.parametrize("twice", [{"logit_adjustment": 1.0}, {"class_weights": ["balanced"]}])
def test_a_second_correction_is_refused(tmp_path, twice):
    args = NatixTrainingArguments(output_dir=str(tmp_path), use_cpu=True, sampling="balanced", **twice)
    with pytest.raises(
        UserError, match=f"sampling: balanced together with {next(iter(twice))}.* would correct the class shares twice"
    ):
        check_sampling(args)
    check_sampling(NatixTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **twice))
    given = {"sampling": "balanced", "class_weights": ["1", "2"]}  # somebody's own costs of mistakes
    check_sampling(NatixTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given))


def test_an_unknown_word_is_refused(tmp_path):
    with pytest.raises(UserError, match="sampling: expected natural or balanced, found even"):
        check_sampling(NatixTrainingArguments(output_dir=str(tmp_path), use_cpu=True, sampling="even"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.1, 0.9]),
        ({"class_weights": ["balanced"]}, [0.5, 0.5]),
        ({"class_weights": ["3", "1"]}, [0.25, 0.75]),
        ({"logit_adjustment": 1.0}, [0.5, 0.5]),
        ({"logit_adjustment": 0.5}, [0.25, 0.75]),
        ({"loss": "focal", "focal_alpha": [0.1]}, [0.5, 0.5]),
    ],
)
def test_weights_and_adjustment_count_for_what_training_sees(tmp_path, settings, expected):
    args = NatixTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
    criterion = TrainingLoss(args, [10, 90], ["a", "b"], 1)
    np.testing.assert_allclose(seen_shares(np.array([0.1, 0.9]), criterion), expected, rtol=1e-6)


# -- in training ------------------------------------------------------------------------------------------------------


@pytest.fixture
def rare(make_photos, tmp_path):
    """6 photos of `None` beside 36 of `Roadwork`."""
    from natix_hf import load_photos

    folder = make_photos(tmp_path / "rare", {"None": (100, 120, 110)}, 8)
    return load_photos(
        make_photos(folder, {"Roadwork": (150, 100, 90)}, 40, seed=1), split_ratios=[0.7, 0.1, 0.1, 0.1]
    )


def test_a_resumed_balanced_run_ends_like_the_uninterrupted_one(job, rare, stop_at):
    settings = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "no", "sampling": "balanced"}
    settings |= {"splits": rare, "num_train_epochs": 3}
    whole = job("lora", "whole", **settings)
    whole.train()
    assert whole.state.max_steps == 3 * -(-rare.sizes["train"] // 8)
    with pytest.raises(KeyboardInterrupt):
        job("lora", "cut", callbacks=[stop_at(7)], **settings).train()
    resumed = job("lora", "cut", **settings)
    resumed.train(resume_from_checkpoint=True)
    weights = dict(whole.model.named_parameters())
    for name, weight in resumed.model.named_parameters():
        assert torch.equal(weight, weights[name]), name


def test_training_draws_both_classes_alike_and_a_far_target_gets_one_line(job, rare, capsys):
    trainer = job("probe", "natural", splits=rare)
    assert "warning" not in capsys.readouterr().out
    trainer = job("probe", "balanced", splits=rare, sampling="balanced")
    labels = [trainer.train_dataset[key]["labels"] for key in trainer.sampler]
    assert abs(labels.count(0) - labels.count(1)) <= 1
