"""Losses of pretraining beside values worked out by hand, and lightly's traps that are mended."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from natix_hf.errors import UserError
from natix_hf.training.losses.koleo import koleo
from natix_hf.training.pretrain.objectives import Crops, Dino, Distill, Tokens
from natix_hf.training.pretrain.pretrain_options import PretrainOptions

HIDDEN, PHOTOS, PATCHES = 8, 3, 4


def options(**given):
    return PretrainOptions(**{"pretrain_objective": "distill", "pretrain_prototypes": 6, **given})


def spoken(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def crops():
    masks = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]] * 2, dtype=torch.bool)
    return Crops(torch.zeros(2 * PHOTOS, 3, 32, 32), masks, torch.zeros(PHOTOS, 3, 16, 16))


def dino(**given):
    pytest.importorskip("lightly")
    torch.manual_seed(0)
    return Dino(HIDDEN, options(pretrain_objective="dino", **given))


class Encoder:
    """Says fixed tokens, those of small crops where these are asked for."""

    def __init__(self, seed):
        self.large = Tokens(spoken(seed, 2 * PHOTOS, HIDDEN), spoken(seed + 1, 2 * PHOTOS, PATCHES, HIDDEN))
        self.small = Tokens(spoken(seed + 2, PHOTOS, HIDDEN), spoken(seed + 3, PHOTOS, 1, HIDDEN))

    def __call__(self, pixels, masks=None):
        return self.large if pixels.shape[-1] == 32 else self.small


def test_dino_is_the_cross_entropy_of_other_crops_and_of_masked_patches(crops):
    objective, teacher, student = dino(pretrain_spread="none"), Encoder(0), Encoder(10)
    with torch.no_grad():
        targets = objective.targets(teacher, crops, 0.05)
        found = objective.loss(student, crops, targets, 0.05)
        said = [
            *objective.class_head(student.large.classes).split(PHOTOS),
            objective.class_head(student.small.classes),
        ]
        wanted = objective.class_head(teacher.large.classes).split(PHOTOS)
        terms = [
            -(F.softmax(wanted[t][i] / 0.05, dim=0) * F.log_softmax(said[s][i] / 0.1, dim=0)).sum()
            for t in range(2)
            for s in range(3)
            if s != t
            for i in range(PHOTOS)
        ]
        assert_close(found["class_loss"], sum(terms) / len(terms))
        patches = 0.0
        for i in range(2 * PHOTOS):
            own = crops.masks[i].nonzero().flatten().tolist()
            for p in own:
                t = F.softmax(objective.patch_head(teacher.large.patches[i, p]) / 0.05, dim=0)
                s = F.log_softmax(objective.patch_head(student.large.patches[i, p]) / 0.1, dim=0)
                patches -= (t * s).sum() / len(own)
        assert_close(found["patch_loss"], patches / (2 * PHOTOS))
        assert_close(found["loss"], found["class_loss"] + found["patch_loss"])


def test_the_teacher_s_entropy_is_a_share_of_the_uniform_distribution_s(crops):
    objective = dino()
    for parameter in objective.class_head.parameters():
        parameter.data.zero_()
    objective.class_head.last_layer.weight_v.data.fill_(1.0)
    with torch.no_grad():
        assert_close(objective.targets(Encoder(0), crops, 0.05).entropy, torch.tensor(1.0))


def test_centres_move_by_the_mean_of_all_targets_and_stay_where_no_patch_is_masked(crops):
    objective = dino(pretrain_spread="none")
    with torch.no_grad():
        targets = objective.targets(Encoder(0), crops, 0.05)
        objective.loss(Encoder(10), crops, targets, 0.05)
        assert_close(objective.class_loss.center[0, 0], 0.1 * targets.classes.mean(dim=0))
        moved = objective.patch_loss.center.value.clone()
        assert_close(moved[0], 0.1 * targets.patches.mean(dim=0))
        bare = crops._replace(masks=torch.zeros_like(crops.masks))
        found = objective.loss(Encoder(10), bare, objective.targets(Encoder(0), bare, 0.05), 0.05)
        assert found["patch_loss"] == 0
        assert_close(objective.patch_loss.center.value, moved)


def test_koleo_on_the_bottleneck_is_lightly_s(crops):
    objective, student = dino(pretrain_spread="koleo"), Encoder(10)
    from lightly.loss import KoLeoLoss

    with torch.no_grad():
        found = objective.loss(student, crops, objective.targets(Encoder(0), crops, 0.05), 0.05)
        views = objective.class_head.layers(student.large.classes).split(PHOTOS)
        theirs = sum(KoLeoLoss()(view) for view in views) / 2
        assert_close(found["spread_loss"], theirs, rtol=1e-4, atol=1e-6)
        assert_close(koleo(views[0]), KoLeoLoss()(views[0]), rtol=1e-4, atol=1e-6)
        assert_close(found["loss"], found["class_loss"] + found["patch_loss"] + 0.05 * found["spread_loss"])


def test_sigreg_is_the_weighted_gap_to_the_characteristic_function_of_a_gaussian():
    objective = dino()
    rows = spoken(0, 1, 50, 5)
    torch.manual_seed(3)
    found = objective._spread(rows)
    torch.manual_seed(3)
    directions = torch.randn(5, 1024)
    projected = rows[0] @ (directions / directions.norm(dim=0))  # (50, 1024)
    t = torch.linspace(0, 3, 17)
    gap = ((projected[..., None] * t).cos().mean(0) - torch.exp(-t * t / 2)) ** 2
    gap = gap + (projected[..., None] * t).sin().mean(0) ** 2
    # The trapezoidal rule on [-3, 3] of an even function, weighted by the Gaussian.
    integral = 2 * torch.trapezoid(gap * torch.exp(-t * t / 2), t)
    assert_close(found, 50 * integral.mean(), rtol=1e-4, atol=1e-5)


def test_distill_is_one_minus_the_cosine_to_the_original_of_class_and_masked_patches(crops):
    objective, original, student = Distill(HIDDEN, options()), Encoder(0), Encoder(10)
    targets = objective.targets(original, crops, 0.0)
    found = objective.loss(student, crops, targets, 0.0)
    angle = [1 - float(a @ b / a.norm() / b.norm()) for a, b in zip(student.large.classes, original.large.classes)]
    assert_close(found["class_loss"].item(), sum(angle) / len(angle), rtol=1e-5, atol=1e-6)
    photos = []
    for i in range(2 * PHOTOS):
        own = crops.masks[i].nonzero().flatten().tolist()
        a, b = student.large.patches[i], original.large.patches[i]
        gaps = [1 - float(a[p] @ b[p] / a[p].norm() / b[p].norm()) for p in own]
        photos.append(sum(gaps) / len(gaps) if gaps else 0.0)
    assert_close(found["patch_loss"].item(), sum(photos) / len(photos), rtol=1e-5, atol=1e-6)
    same = objective.loss(original, crops, targets, 0.0)
    assert_close(same["loss"].item(), 0.0, rtol=0, atol=1e-6)  # it starts at the original


@pytest.mark.parametrize("spread", ["sigreg", "koleo"])
def test_losses_are_computed_in_full_precision_under_autocast(crops, spread):
    objective = dino(pretrain_spread=spread)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        targets = objective.targets(Encoder(0), crops, 0.05)
        torch.manual_seed(0)
        found = objective.loss(Encoder(10), crops, targets, 0.05)
    assert {name: part.dtype for name, part in found.items()} == dict.fromkeys(found, torch.float32)
    assert objective.class_loss.center.dtype == objective.patch_loss.center.value.dtype == torch.float32


def test_buffers_go_into_a_checkpoint_and_come_back(crops, tmp_path):
    objective = dino()
    with torch.no_grad():
        objective.loss(Encoder(10), crops, objective.targets(Encoder(0), crops, 0.05), 0.05)
    objective.save(tmp_path)
    other = dino()
    assert not torch.equal(other.class_loss.center, objective.class_loss.center)
    other.load(tmp_path)
    for name, buffer in objective.named_buffers():
        assert torch.equal(dict(other.named_buffers())[name], buffer), name


def test_an_objective_without_its_extra_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "natix_hf\[pretrain\]", or use --pretrain_objective distill'):
        PretrainOptions(pretrain_objective="dino")
    assert PretrainOptions(pretrain_objective="distill").lora_rank(384) == 16


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"pretrain_global_scale": [1.0, 0.4]}, "two shares above 0 and at most 1"),
        ({"pretrain_mask_ratio": [0.1]}, "two shares above 0 and at most 1"),
        ({"pretrain_heads_share": 0.9, "pretrain_ramp_share": 0.2}, "leave no steps at the full rate"),
        ({"pretrain_momentum": 1.0}, "expected a number from 0 to below 1"),
        ({"pretrain_teacher_temperature": [0.04]}, "expected two numbers"),
    ],
)
def test_odd_values_are_refused(given, line):
    with pytest.raises(UserError, match=line):
        options(**given)


def test_the_uniform_loss_of_a_teacher_and_student_that_know_nothing(crops):
    """Both uniform over K prototypes: the cross-entropy of a pair is log K."""
    objective = dino(pretrain_spread="none")
    for name, parameter in objective.named_parameters():
        parameter.data.fill_(1.0 if name.endswith("weight_v") else 0.0)
    with torch.no_grad():
        found = objective.loss(Encoder(10), crops, objective.targets(Encoder(0), crops, 0.05), 0.05)
    assert_close(found["class_loss"].item(), math.log(6), rtol=1e-5, atol=0)
