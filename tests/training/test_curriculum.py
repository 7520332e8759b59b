"""Easy photos first: who judges, who is in when, and that train alone is read for it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from natix_hf import NatixTrainingArguments, UserError, train_run
from natix_hf.recipe.yaml_and_command_line import parse
from natix_hf.training.curriculum import (
    Curriculum,
    check_start,
    cross_fitted,
    difficulty,
    entries,
    pacing,
)
from natix_hf.training.epoch_kinds import check_curriculum

NAMES = ["None", "Roadwork"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]),
        ("root", [0.2, 0.6, 0.2 + 0.8 * 0.5**0.5, 0.2 + 0.8 * 0.75**0.5, 1.0, 1.0]),
        ("step", [0.2, 0.2, 0.2, 0.2, 1.0, 1.0]),
    ],
)
def test_pacing_is_that_of_the_papers(name, expected):
    times = [0.0, 0.15, 0.3, 0.45, 0.6, 0.9]
    assert [pacing(time, name, 0.2, 0.6) for time in times] == pytest.approx(expected)


def test_difficulty_against_literal_values():
    log_probabilities = np.log([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.25, 0.25, 0.5]])
    labels = np.array([0, 0, 1])
    np.testing.assert_allclose(difficulty(log_probabilities, labels, "loss"), -np.log([0.7, 0.2, 0.25]), atol=1e-6)
    np.testing.assert_allclose(difficulty(log_probabilities, labels, "margin"), [0.2 - 0.7, 0.5 - 0.2, 0.5 - 0.25])


def rows(count=120, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    features = rng.normal(size=(count, 5)) + labels[:, None] * [1.5, 0, 0, 0, 0]
    groups = [f"g{i // 4}" for i in range(count)]
    return features, labels, groups


def test_no_row_is_judged_by_a_probe_that_saw_its_group():
    """A group whose labels are turned round changes how others are judged, never how it is itself."""
    features, labels, groups = rows()
    before = cross_fitted(features, labels, groups, NAMES)
    turned = np.array(groups) == "g7"
    after = cross_fitted(features, np.where(turned, 1 - labels, labels), groups, NAMES)  # two of each, as before
    np.testing.assert_array_equal(before[turned], after[turned])
    assert np.abs(before[~turned] - after[~turned]).max() > 1e-6


def test_judgement_is_that_of_scikit_learn_and_finds_the_mislabelled():
    features, labels, groups = rows(400)
    wrong = labels.copy()
    wrong[:8] = 1 - wrong[:8]
    found = cross_fitted(features, wrong, groups, NAMES)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
    hard = difficulty(found, wrong, "loss")
    assert hard[:8].mean() > 2 * hard[8:].mean()


def test_a_class_of_one_group_cannot_be_judged():
    features, labels, _ = rows(40)
    groups = ["only" if label else f"g{i}" for i, label in enumerate(labels)]
    with pytest.raises(UserError, match=r"curriculum: class Roadwork is in 1 group\(s\) of train"):
        cross_fitted(features, labels, groups, NAMES)


def test_every_class_enters_by_the_same_share_easy_rows_first():
    rng = np.random.default_rng(1)
    labels = np.array([0] * 10 + [1] * 90)
    hard = rng.random(100)
    hard[:10] += 5  # a hard class enters all the same
    entry = entries(hard, labels, [f"{i:03d}" for i in range(100)])
    for share, counts in ((0.3, (3, 27)), (0.25, (3, 23)), (0.001, (1, 1)), (1.0, (10, 90))):
        admitted = entry < share
        assert (admitted[:10].sum(), admitted[10:].sum()) == counts
        for part in (slice(0, 10), slice(10, 100)):
            inside, outside = hard[part][admitted[part]], hard[part][~admitted[part]]
            assert not len(outside) or inside.max() < outside.min()


def test_the_order_of_equally_hard_rows_is_that_of_their_ids():
    ids = ["d", "a", "c", "b"]
    np.testing.assert_allclose(entries(np.zeros(4), np.zeros(4, int), ids), [0.75, 0.0, 0.5, 0.25])


# -- what is refused --------------------------------------------------------------------------------------------------


def arguments(tmp_path, **settings):
    return NatixTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{"curriculum": "loss", **settings})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"curriculum": "hard"}, "curriculum: expected none, loss or margin, found hard"),
        ({"curriculum_pacing": "log"}, "curriculum_pacing: expected linear, root or step, found log"),
        ({"curriculum_start": 0.0}, "curriculum_start: expected a share above 0 and at most 1, found 0.0"),
        ({"curriculum_end": 1.5}, "curriculum_end: expected a share above 0 and at most 1, found 1.5"),
        ({"num_train_epochs": 1}, "photos are added from epoch to epoch: expected more than one, found 1"),
        ({"curriculum_end": 0.8}, "the last of 3 epochs begins at 0.67 of the training"),
    ],
)
def test_a_curriculum_that_cannot_work_is_refused_before_anything_is_read(tmp_path, settings, said):
    with pytest.raises(UserError, match=re.escape(said)):
        check_curriculum(arguments(tmp_path, **settings))


def test_a_recipe_says_so_when_it_is_read(tmp_path):
    path = tmp_path / "recipe.yaml"
    head = "model_name_or_path: a/model\ndataset_name: a/photos\noutput_dir: runs/x\n"
    path.write_text(head + "curriculum: margin\nnum_train_epochs: 1\n")
    with pytest.raises(UserError, match="expected more than one, found"):
        parse([str(path)])
    path.write_text(head + "sampling: balanced\nlogit_adjustment: 1\n")
    with pytest.raises(UserError, match="would correct the class shares twice"):
        parse([str(path)])
    path.write_text(head + "target_prior: [0.5, 0.6]\n")
    with pytest.raises(UserError, match=re.escape("found 0.5 0.6 (sum 1.1)")):
        parse([str(path)])
    path.write_text(head + "target_prior: 0.5\ncurriculum: loss\ncurriculum_pacing: step\n")
    recipe = parse([str(path)])
    assert recipe.decision.target_prior == [0.5]
    assert recipe.training.curriculum_pacing == "step"


def test_a_start_below_one_step_is_refused(tmp_path):
    args = arguments(tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=2, curriculum_start=0.1)
    with pytest.raises(
        UserError,
        match=r"expected at least 0.16, found 0.1: of 100 photos that is 10, less than the 16 of one step",
    ):
        check_start(args, 100)
    assert check_start(args, 160) == 3
    assert check_start(arguments(tmp_path, max_steps=40, per_device_train_batch_size=8), 160) == 2
    with pytest.raises(UserError, match="expected more than one, found"):
        check_start(arguments(tmp_path, max_steps=20, per_device_train_batch_size=8), 160)


# -- in training ------------------------------------------------------------------------------------------------------

SETTINGS = {"curriculum": "loss", "curriculum_start": 0.4, "num_train_epochs": 4, "eval_strategy": "no"}


@pytest.mark.parametrize("method", ["lora", "full", "probe"])
def test_a_resumed_curriculum_ends_like_the_uninterrupted_one(job, stop_at, method):
    settings = {"save_strategy": "steps", "save_steps": 2, **SETTINGS}
    whole = job(method, "whole", **settings)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        job(method, "cut", callbacks=[stop_at(7)], **settings).train()
    resumed = job(method, "cut", **settings)
    np.testing.assert_array_equal(resumed.curriculum.entry, whole.curriculum.entry)
    resumed.train(resume_from_checkpoint=True)
    weights = dict(whole.model.named_parameters())
    for name, weight in resumed.model.named_parameters():
        assert torch.equal(weight, weights[name]), name


def test_epochs_keep_their_length_and_classes_and_only_train_is_read(job, capsys):
    plain, trainer = job("lora", "plain", num_train_epochs=4, eval_strategy="no"), job("lora", **SETTINGS)
    count, labels = len(trainer.train_dataset), trainer.curriculum.labels
    assert [len(list(trainer.sampler))] == [count]
    sizes = []
    for epoch in range(4):
        trainer.sampler.epoch = epoch
        drawn = [index for _, index in trainer.sampler]
        sizes.append(len(set(drawn)))
        assert np.bincount(labels[drawn]).tolist() == np.bincount(labels).tolist()
    assert trainer.curriculum.shares == pytest.approx([0.4, 0.7, 1.0, 1.0])
    assert sizes == [sum(-(-int(n * 10 * share) // 10) for n in np.bincount(labels)) for share in (0.4, 0.7, 1, 1)]
    assert {entry.split for entry in trainer.splits.ledger} == {"train", "val_select"}
    steps = [(entry.step, entry.role) for entry in trainer.splits.ledger]
    assert steps == [(entry.step, entry.role) for entry in plain.splits.ledger]  # nothing is read beside
    train_run(trainer)
    said = capsys.readouterr().out
    assert "curriculum: the first epoch uses 40% of each class" in said
    assert f"all {count} photos from epoch 3" in said
    picture = f"{trainer.args.output_dir}/figures/curriculum.png"
    assert Image.open(picture).size[0] > 1000


def test_the_probe_s_judgement_is_kept_for_other_processes_and_runs(job, monkeypatch):
    first = job("lora", "first", **SETTINGS)
    monkeypatch.setattr("natix_hf.training.curriculum.cross_fitted", None)
    again = job("lora", "second", **{**SETTINGS, "curriculum": "margin"})
    assert isinstance(again.curriculum, Curriculum)
    np.testing.assert_array_equal(np.argsort(first.curriculum.entry), np.argsort(again.curriculum.entry))


def test_balanced_sampling_draws_from_what_the_curriculum_admits(job):
    trainer = job("probe", sampling="balanced", **SETTINGS)
    drawn = [index for _, index in trainer.sampler]
    assert set(drawn) == set(np.flatnonzero(trainer.curriculum.admitted(0)))
    assert np.ptp(np.bincount(trainer.curriculum.labels[drawn])) <= 1


def test_a_target_far_from_what_training_sees_gets_one_line(tiny_backbone, make_photos, tmp_path, capsys):
    from natix_hf import NatixTrainer, load_model, load_photos

    folder = make_photos(tmp_path / "rare", {"None": (100, 120, 110)}, 8)
    splits = load_photos(make_photos(folder, {"Roadwork": (150, 100, 90)}, 40, seed=1))
    said, expected = {}, np.array([0.5, 0.5])
    remedies = {"plain": {}, "sampling": {"sampling": "balanced"}, "weights": {"class_weights": ["balanced"]}}
    for name, remedy in {**remedies, "adjustment": {"logit_adjustment": 1.0}}.items():
        model, processor = load_model(str(tiny_backbone), splits.label_names, method="probe", image_size=32)
        args = NatixTrainingArguments(output_dir=str(tmp_path / name), use_cpu=True, disable_tqdm=True, **remedy)
        capsys.readouterr()
        NatixTrainer(model, args, splits=splits, processing_class=processor, augment="none", target_prior=expected)
        said[name] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning:")]
    assert [len(lines) for lines in said.values()] == [1, 0, 0, 0]
    counts = splits.training_counts
    assert f"{counts['Roadwork'] / counts['None']:.1f} times the expected ones" in said["plain"][0]
