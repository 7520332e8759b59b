"""MixUp and CutMix: labels say what is in the pixels, draws are those of the papers, and nothing else is mixed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader

from natix_hf import UserError
from natix_hf.recipe.yaml_and_command_line import parse
from natix_hf.training.mixing import Mixing, check_views, mixing
from natix_hf.training.training_arguments import NatixTrainingArguments

DRAWS = 2000


def batch(labels=(0, 1, 2, 1), side: int = 16) -> dict[str, torch.Tensor]:
    """Photos of one colour each: the value of every pixel is the class."""
    values = torch.tensor(labels)
    pixels = values.float()[:, None, None, None].expand(-1, 3, side, side).clone()
    return {"pixel_values": pixels, "labels": values}


def share(seed: int, **options) -> float:
    """How much of a photo of class 1 is left where its partner is of class 0."""
    mixed = Mixing(2, **{"mixup_alpha": 0.0, "cutmix_alpha": 0.0, **options})(batch((0, 1), 64), [seed])
    return float(mixed["labels"][1, 1])


@pytest.mark.parametrize(
    "options", [{"mixup_alpha": 0.4, "cutmix_alpha": 0.0}, {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}]
)
def test_labels_are_the_shares_of_the_classes_in_the_pixels(options):
    changed = 0
    for seed in range(40):
        given = batch()
        mixed = Mixing(3, **options)(given, [seed, 1, 2, 3])
        labels = mixed["labels"]
        assert labels.shape == (4, 3)
        assert labels.dtype == torch.float32
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(4))
        colour = mixed["pixel_values"].mean(dim=(1, 2, 3))
        torch.testing.assert_close(colour, labels @ torch.arange(3.0), atol=1e-5, rtol=0)
        assert torch.equal(given["pixel_values"], batch()["pixel_values"])
        changed += not torch.equal(labels, one_hot(given["labels"], 3).float())
    assert changed > 30


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_the_weights_of_mixup_are_beta_distributed(alpha):
    weights = np.array([share(seed, mixup_alpha=alpha) for seed in range(DRAWS)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(weights.mean() - 0.5) < 4 * np.sqrt(variance / DRAWS)
    assert weights.var() == pytest.approx(variance, rel=0.1)
    # Where alpha is small, single precision puts some weights on 0 and 1 exactly.
    assert stats.kstest(weights, stats.beta(alpha, alpha).cdf).pvalue > 0.001


def test_cutmix_pastes_one_rectangle_of_the_partner():
    for seed in range(30):
        mixed = Mixing(2, mixup_alpha=0.0, cutmix_alpha=1.0)(batch((0, 1)), [seed])
        pasted = mixed["pixel_values"][0, 0] == 1  # (16, 16)
        rows, columns = pasted.any(dim=1), pasted.any(dim=0)
        assert torch.equal(pasted, rows[:, None] & columns)
        assert rows.int().diff().abs().sum() <= 2
        assert columns.int().diff().abs().sum() <= 2
        assert float(mixed["labels"][0, 1]) == pytest.approx(float(pasted.float().mean()), abs=1e-6)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_the_switch_gives_cutmix_its_share_of_the_batches(probability):
    mix = Mixing(2, mixup_alpha=5.0, cutmix_alpha=1.0, switch_prob=probability)
    # MixUp leaves no pixel as it was, CutMix takes each from one of the two photos.
    cut = [
        bool(torch.isin(mix(batch((0, 1), 8), [s])["pixel_values"], torch.tensor([0.0, 1])).all()) for s in range(600)
    ]
    assert abs(np.mean(cut) - probability) <= 4 * np.sqrt(probability * (1 - probability) / len(cut))


def test_a_mixture_depends_on_the_seeds_of_its_views_alone():
    mix = Mixing(3, mixup_alpha=1.0, cutmix_alpha=1.0)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = mix(batch(), [1, 2, 3, 4])
    assert torch.equal(torch.rand(3), expected)
    again, other = mix(batch(), [1, 2, 3, 4]), mix(batch(), [1, 2, 3, 5])
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert torch.equal(first["labels"], again["labels"])
    assert not torch.equal(first["labels"], other["labels"])


def test_nothing_is_mixed_unless_asked_for(job):
    trainer = job(num_train_epochs=1)
    assert mixing(2, trainer.args) is None
    assert next(iter(trainer.get_train_dataloader()))["labels"].dtype == torch.int64


# -- in a run ---------------------------------------------------------------------------------------------------------


def test_batches_are_mixed_alike_in_any_number_of_workers_and_anew_each_epoch(job):
    trainer = job(mixup_alpha=0.3, cutmix_alpha=1.0)

    def batches(epoch: int, workers: int) -> list[dict[str, torch.Tensor]]:
        trainer.sampler.epoch = epoch
        loader = DataLoader(
            trainer.train_dataset, 8, sampler=trainer.sampler, num_workers=workers, collate_fn=trainer.data_collator
        )
        return list(loader)

    alone, helped, later = batches(0, 0), batches(0, 2), batches(1, 0)
    for first, second in zip(alone, helped, strict=True):
        assert first.keys() == {"pixel_values", "labels"}
        assert torch.equal(first["pixel_values"], second["pixel_values"])
        assert torch.equal(first["labels"], second["labels"])
    assert not torch.equal(alone[0]["labels"], later[0]["labels"])


def test_scored_photos_are_never_mixed(job):
    trainer = job(mixup_alpha=1.0)
    plain = job(name="plain")
    for mixed, expected in zip(trainer.get_eval_dataloader(), plain.get_eval_dataloader(), strict=True):
        assert mixed["labels"].dtype == torch.int64
        assert torch.equal(mixed["labels"], expected["labels"])
        assert torch.equal(mixed["pixel_values"], expected["pixel_values"])
    assert trainer.evaluate()["eval_log_loss"] == plain.evaluate()["eval_log_loss"]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_loss_is_that_against_the_smoothed_mixture(job, method):
    trainer = job(method, mixup_alpha=1.0, label_smoothing_factor=0.1, lora_dropout=0.0)
    inputs = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    with torch.no_grad():
        logits = trainer.model(pixel_values=inputs["pixel_values"]).logits
        expected = -((0.9 * inputs["labels"] + 0.05) * logits.log_softmax(dim=1)).sum(dim=1).mean()
        found = trainer.compute_loss(trainer.model, dict(inputs))
    torch.testing.assert_close(found, expected)


def test_a_mixed_run_that_was_stopped_ends_like_the_whole_one(job, stop_at):
    settings = {
        "mixup_alpha": 0.2,
        "cutmix_alpha": 1.0,
        "label_smoothing_factor": 0.1,
        "load_best_model_at_end": False,
    }
    settings |= {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    whole = job("lora", "whole", **settings)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        job("lora", "cut", callbacks=[stop_at(5)], **settings).train()
    resumed = job("lora", "cut", **settings)
    resumed.train(resume_from_checkpoint=True)
    for (name, first), second in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0, msg=name)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("mixup_alpha: -1", "found -1.0"),
        ("cutmix_alpha: nan", "found nan"),
        ("mix_switch_prob: 1.5", "expected a number from 0 to 1"),
        ("augment: challenge@2027", "challenge@2026-05"),
        ("resize: stretch", "squash"),
        ("mixup_alpha: 0.2\nloss: asymmetric", "asymmetric needs one class per photo"),
    ],
)
def test_a_recipe_that_asks_for_what_there_is_not_is_refused(tmp_path, lines, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model_name_or_path: a/model\ndataset_name: a/photos\noutput_dir: runs/x\n{lines}\n")
    with pytest.raises(UserError) as caught:
        parse([str(path)])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "augment", "settings", "words"),
    [
        ("probe", "auto", {}, "augment: auto changes the photos, but method probe"),
        ("probe", "none", {"mixup_alpha": 0.2}, "mixup_alpha: every batch mixes photos differently"),
        ("probe", "basic", {"cutmix_alpha": 1.0}, "cutmix_alpha: every batch mixes photos differently"),
        ("lora", "challenge@2025", {"decode_copy": True}, "decode_copy: augment challenge@2025 works on whole photos"),
        ("lora", "strong", {}, "augment: expected one of none, basic, .*; found 'strong'"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(tmp_path, method, augment, settings, words):
    copy = settings.pop("decode_copy", False)
    args = NatixTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
    with pytest.raises(UserError, match=words):
        check_views(method, augment, args, decode_copy=copy)


def test_a_trainer_of_a_probe_refuses_to_mix(job):
    with pytest.raises(UserError, match="leave mixup_alpha out"):
        job("probe", mixup_alpha=0.2)


def test_the_augmentation_of_a_probe_is_written_down_as_none(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model_name_or_path: a/model\ndataset_name: a/photos\noutput_dir: runs/x\n")
    assert parse([str(path), "--method", "probe"]).data.augment == "none"
    assert parse([str(path)]).data.augment == "basic"


def test_the_recipe_lists_every_augmentation():
    from natix_hf.data.data_options import DataOptions
    from natix_hf.inference.augment import AUGMENTATIONS

    (field,) = [field for field in dataclasses.fields(DataOptions) if field.name == "augment"]
    assert field.type.__args__ == AUGMENTATIONS
