"""The network of pretraining: what is trained, whose weights make targets, and how adapters are merged."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import DINOv3ViTModel

from natix_hf.errors import UserError
from natix_hf.modeling.checkpoints import load_backbone
from natix_hf.training.ema import Ema
from natix_hf.training.pretrain.crops_and_masks import OnePhotoOfAGroup, PretrainCollator, PretrainPhotos, block_mask
from natix_hf.training.pretrain.pretrain_options import PretrainOptions
from natix_hf.training.pretrain.schedules import Phases, RisingAverage
from natix_hf.training.pretrain.student import Student, merged_weights


def options(**given):
    return PretrainOptions(**{"pretrain_objective": "distill", "pretrain_drop_path": 0.0, **given})


@pytest.fixture
def student(tiny_backbone):
    return lambda **given: Student(load_backbone(str(tiny_backbone)), options(**given))


def batch(views=1, photos=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "global_views": torch.randn(views * photos, 3, 32, 32, generator=generator),
        "masks": torch.rand(views * photos, 4, generator=generator) < 0.5,
    }


def shaken(model, seed=1):
    """The model with other trained weights, as after some steps."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def trained(model):
    return {name for name, p in model.backbone.named_parameters() if p.requires_grad}


def test_explora_trains_lora_on_q_and_v_the_last_block_norms_and_the_mask_token(student):
    names = trained(student())
    adapters = {name for name in names if "lora_" in name}
    assert {name.split(".lora_")[0] for name in adapters} == {f"model.layer.0.attention.{q}_proj" for q in "qv"}
    rest = names - adapters
    assert {name for name in rest if not name.startswith("model.layer.1.")} == {
        "embeddings.mask_token",
        "norm.weight",
        "norm.bias",
        *(f"model.layer.0.norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias")),
    }
    last = {name for name, _ in student().backbone.named_parameters() if name.startswith("model.layer.1.")}
    assert last <= rest


def test_last_blocks_and_full_leave_tokens_and_the_patch_embedding_alone(student):
    whole, some = trained(student(pretrain_train="full")), trained(student(pretrain_train="last_blocks"))
    assert some < whole
    assert {name for name in whole if name.startswith("embeddings.")} == {"embeddings.mask_token"}
    assert "model.layer.0.mlp.up_proj.weight" in whole - some


def test_more_last_blocks_than_there_are_is_refused(student):
    with pytest.raises(
        UserError, match=r"pretrain_last_blocks: expected at most 1 with .*, found 2; the backbone has 2 blocks"
    ):
        student(pretrain_last_blocks=2)
    student(pretrain_last_blocks=2, pretrain_train="last_blocks")


def test_a_mask_token_that_is_not_finite_starts_at_zero(tiny_backbone):
    backbone = load_backbone(str(tiny_backbone))
    backbone.embeddings.mask_token.data.fill_(math.nan)
    assert not Student(backbone, options()).backbone.embeddings.mask_token.any()


@pytest.mark.parametrize("train", ["explora", "last_blocks", "full"])
def test_merged_weights_answer_as_the_adapted_backbone(student, train):
    model = shaken(student(pretrain_train=train)).eval()
    plain = DINOv3ViTModel(model.backbone.config).eval()
    plain.load_state_dict(merged_weights(model.backbone))
    pixels = batch()["global_views"]
    with torch.no_grad():
        assert_close(plain(pixels).pooler_output, model.backbone(pixels).pooler_output, rtol=1e-5, atol=1e-5)


def test_targets_come_from_the_weights_that_are_put_in_place_and_the_student_keeps_its_own(student):
    model, given = student(), batch()
    original = copy.deepcopy(model)
    by = Ema(model, 0.9)
    shaken(model)
    own = {name: p.clone() for name, p in model.named_parameters()}
    found = model(**given, targets_by=by, temperature=0.0, heads_only=False)
    targets = original.eval().objective.targets(original._tokens, crops_of(given), 0.0)
    wanted = model.objective.loss(model._tokens, crops_of(given), targets, 0.0)
    assert_close(found["loss"], wanted["loss"])
    assert found["loss"] > 1e-3
    assert all(torch.equal(p, own[name]) for name, p in model.named_parameters())


def crops_of(given):
    from natix_hf.training.pretrain.objectives import Crops

    return Crops(given["global_views"], given["masks"], None)


def test_autocast_does_not_hand_the_teacher_s_weights_to_the_student(student):
    model, given = student(), batch()
    by = Ema(model, 0.9)
    shaken(model)
    plain = model(**given, targets_by=by, temperature=0.0, heads_only=False)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**given, targets_by=by, temperature=0.0, heads_only=False)["loss"]
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert_close(loss, plain, rtol=0.05, atol=0.01)


def test_heads_alone_get_gradients_in_the_first_phase(student):
    model = student()
    model(**batch(), targets_by=Ema(model, 0.9), temperature=0.0, heads_only=True)["loss"].backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        name for name, _ in model.named_parameters() if name.startswith("objective.")
    }


def test_the_student_does_not_hang_on_the_global_random_state(tiny_backbone):
    state = torch.get_rng_state()
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        models.append(Student(load_backbone(str(tiny_backbone)), options(), seed=5))
    torch.set_rng_state(state)
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters()):
        assert torch.equal(one, other), name


def test_the_average_is_the_closed_form_of_a_decay_that_rises_to_1():
    model = torch.nn.Linear(1, 1, bias=False)
    average, steps = RisingAverage(model, 0.9, 5), 5
    model.weight.data.fill_(0.0)
    wanted = float(average.shadow["weight"])
    for step in range(steps):
        model.weight.data.fill_(float(step + 1))
        average.update(step)
        decay = 1 - 0.1 * (math.cos(math.pi * step / 4) + 1) / 2
        wanted = decay * wanted + (1 - decay) * (step + 1)
        assert_close(float(average.shadow["weight"]), wanted, rtol=1e-5, atol=1e-7)
    assert [average.decay_at(step) for step in (0, 4)] == pytest.approx([0.9, 1.0])


def test_the_phases_are_heads_then_a_ramp_then_constant():
    phases = Phases.of(options(pretrain_heads_share=0.4, pretrain_ramp_share=0.1), 100)
    assert phases == (40, 10, 100)
    assert [phases.backbone_rate(step) for step in (0, 39, 40, 44, 49, 99)] == pytest.approx([0, 0, 0.1, 0.5, 1, 1])
    assert [phases.heads_only(step) for step in (39, 40)] == [True, False]
    assert phases.milestones(6) == [50, 60, 70, 80, 90, 100]
    assert Phases(2, 1, 5).milestones(6) == [3, 4, 5]
    assert phases.temperature(0, [0.04, 0.07]) == pytest.approx(0.04)
    assert phases.temperature(25, [0.04, 0.07]) == pytest.approx(0.055)
    assert phases.temperature(80, [0.04, 0.07]) == pytest.approx(0.07)


def test_a_mask_has_exactly_as_many_patches_and_lies_in_blocks():
    neighbours = []
    for seed in range(30):
        mask = block_mask(14, 14, 60, torch.Generator().manual_seed(seed))
        assert mask.sum() == 60
        assert torch.equal(mask, block_mask(14, 14, 60, torch.Generator().manual_seed(seed)))
        grid = mask.view(14, 14)
        pairs = (grid[1:] & grid[:-1]).sum() + (grid[:, 1:] & grid[:, :-1]).sum()
        neighbours.append(int(pairs))
    assert np.mean(neighbours) > 2 * 2 * 13 * 14 * (60 / 196) ** 2  # twice as many as 60 patches strewn about
    assert block_mask(2, 2, 4, torch.Generator()).all()


@pytest.fixture
def photos(photo_folder):
    from datasets import Dataset, Image

    files = sorted((photo_folder / "None").glob("*.jpg"))[:6]
    rows = Dataset.from_dict({"id": [p.name for p in files], "image": [str(p) for p in files]})
    return rows.cast_column("image", Image(decode=False))


def test_crops_and_masks_are_functions_of_seed_epoch_and_row(photos):
    sizes = {"views": 2, "size": 32, "patch": 16, "mask_share": 0.5, "local_crops": 3, "seed": 1}
    given = options(pretrain_local_size=16)
    rows = PretrainPhotos([photos, photos], given, **sizes)
    state = torch.get_rng_state()
    first, again, later = rows[0, 2], rows[0, 2], rows[1, 2]
    other = PretrainPhotos([photos.select([2, 0])], given, **sizes)[0, 0]
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: tuple(value.shape) for name, value in first.items()} == {
        "global_views": (2, 3, 32, 32),
        "local_views": (3, 3, 16, 16),
        "masks": (2, 4),
    }
    for key in first:
        assert torch.equal(first[key], again[key])
        assert torch.equal(first[key], other[key])  # wherever the row stands
    assert not torch.equal(first["global_views"], later["global_views"])
    assert not torch.equal(first["global_views"], rows[0, 8]["global_views"])  # the same id in the other part
    masked = [rows[epoch, 0]["masks"].any(dim=1) for epoch in range(60)]
    assert 0.3 < torch.stack(masked).float().mean() < 0.7


def test_a_batch_holds_the_first_view_of_all_photos_first(photos, tiny_backbone):
    from transformers import DINOv3ViTImageProcessor

    sizes = {"views": 2, "size": 32, "patch": 16, "mask_share": 1.0, "local_crops": 0, "seed": 1}
    rows = PretrainPhotos([photos], options(), **sizes)
    items = [rows[0, i] for i in range(3)]
    processor = DINOv3ViTImageProcessor.from_pretrained(tiny_backbone)
    made = PretrainCollator(processor)(items)
    assert made["global_views"].shape == (6, 3, 32, 32)
    mean, std = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    assert_close(made["global_views"][4], (items[1]["global_views"][1] / 255 - mean) / std, rtol=1e-5, atol=1e-5)
    assert torch.equal(made["masks"][4], items[1]["masks"][1])


def test_an_epoch_has_one_photo_of_each_group_and_in_time_all_of_them():
    groups = np.array([0, 0, 0, 1, 2, 2])
    sampler = OnePhotoOfAGroup(groups, seed=0)
    assert len(sampler) == 3
    seen = set()
    for epoch in range(40):
        sampler.epoch = epoch
        rows = list(sampler)
        assert rows == list(sampler)
        assert all(one == epoch for one, _ in rows)
        assert sorted(groups[row] for _, row in rows) == [0, 1, 2]
        seen |= {row for _, row in rows}
    assert seen == set(range(6))
