"""Training on a photo and its tiles: cached features against the whole model, the grid, LoRA, drawn tiles, resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from natix_hf.errors import UserError
from natix_hf.inference.augment import drawn_tiles, photo_for_view, training_view
from natix_hf.inference.batches import client_pixels, logits_of
from natix_hf.inference.classify import load_classifier
from natix_hf.inference.features import pooled
from natix_hf.inference.tiled_models import check_same_views
from natix_hf.modeling.checkpoints import load_processor
from natix_hf.photos.geometry import Squash, Tiles, tile_boxes
from natix_hf.training.heads import Setting, train_heads
from natix_hf.training.training_photos import TrainingPhotos

TILES = {"views": "tiles", "views_grid": [2, 2]}
GEOMETRY = Tiles(32, 32, (2, 2), 0.2)


def end_to_end(trainer, rows) -> np.ndarray:
    pixels = torch.stack([client_pixels(row["image"], trainer.processing_class) for row in rows])
    return logits_of(trainer.model.eval(), pixels)


@pytest.mark.parametrize(
    ("aggregate", "options"), [("top_k", {"pooling": "cls_mean", "feature_layers": 2}), ("attention", {})]
)
def test_a_probe_on_kept_features_answers_as_the_whole_model_does(job, aggregate, options):
    options = {**TILES, "views_aggregate": aggregate, **options}
    trainer = job("probe", model_options=options, num_train_epochs=3)
    item = trainer.train_dataset[0]
    assert item["features"].shape == (5, trainer.model.feature_size)
    before = [parameter.clone() for parameter in trainer.model.head.parameters()]
    trainer.train()
    assert all(not torch.equal(a, b) for a, b in zip(before, trainer.model.head.parameters(), strict=True))
    rows = trainer.splits.rows("selection", step="choose checkpoint")
    np.testing.assert_allclose(trainer.logits(rows), end_to_end(trainer, rows), atol=2e-5)


def test_the_grid_of_heads_trains_both_heads_and_hands_them_to_the_model(job):
    trainer = job(
        "probe", model_options=TILES, num_train_epochs=4, probe_heads="grid", probe_poolings=["cls", "cls_mean"]
    )
    trainer.train()
    assert bool(trainer.model.head.tiles.linear.weight.any())
    rows = trainer.splits.rows("selection", step="choose checkpoint")
    np.testing.assert_allclose(trainer.logits(rows), end_to_end(trainer, rows), atol=2e-4)
    assert trainer.evaluate()["eval_mcc"] > 0.5  # the classes differ in colour


def test_many_heads_on_tiles_learn_what_one_head_learns_by_torch():
    """Against plain autograd and torch's own SGD, step by step, on standardised features."""
    rng = torch.Generator().manual_seed(0)
    parts = torch.randn(24, 1, 4, 2, 6, generator=rng)  # 24 photos, one layer, the whole and three tiles
    labels = np.arange(24) % 3
    wanted = [Setting("cls", 1, 0.5, 0.01), Setting("cls", 1, 2.0, 0.0)]
    options = {"classes": 3, "epochs": 3, "batch_size": 8, "top_k": 2}
    heads = train_heads([parts.numpy()], labels, parts.numpy(), wanted, **options)

    cls = parts[:, 0, :, 0]  # (24, 4, 6)
    of_tiles = cls[:, 1:].flatten(0, 1)
    mean = torch.cat([cls[:, :1].mean(0), of_tiles.mean(0, keepdim=True).expand(3, -1)])
    spread = [cls[:, 0].std(0, correction=0)[None], of_tiles.std(0, correction=0)[None].expand(3, -1)]
    features = (cls - mean) / torch.cat(spread)
    order = torch.Generator().manual_seed(0)
    for head, setting in zip(heads, wanted, strict=True):
        order.manual_seed(0)
        weights = [torch.zeros(3, 6, requires_grad=True), torch.zeros(3, 6, requires_grad=True)]
        biases = [torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)]
        groups = [{"params": weights, "weight_decay": setting.weight_decay}, {"params": biases}]
        optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)

        def logits(x, weights=weights, biases=biases):
            tiles = x[:, 1:] @ weights[1].T + biases[1]
            return x[:, 0] @ weights[0].T + biases[0] + tiles.topk(2, dim=1).values.mean(1)

        for step in range(9):
            if step % 3 == 0:
                batches = torch.randperm(24, generator=order).split(8)
            for group in optimizer.param_groups:
                group["lr"] = setting.learning_rate * 8 / 256 * (1 + np.cos(np.pi * step / 9)) / 2
            index = batches[step % 3]
            optimizer.zero_grad()
            F.cross_entropy(logits(features[index]), torch.as_tensor(labels)[index]).backward()
            optimizer.step()
        expected = logits(features).detach().numpy()
        np.testing.assert_allclose(head.logits, expected, atol=2e-5)
        np.testing.assert_allclose(head.logits_of(pooled(parts.numpy(), "cls", 1)), expected, atol=2e-5)


@pytest.mark.parametrize("augment", ["none", "basic", "trivial"])
def test_the_photo_is_augmented_before_it_is_cut(augment, job):
    """The whole view and the tiles show one augmented photo: a tile's place in the whole has the tile's colours."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (3, 6, 8)).astype(np.uint8).repeat(24, 1).repeat(24, 2)  # large even squares
    view = training_view(
        torch.from_numpy(colours), augment=augment, geometry=GEOMETRY, seed=3, epoch=1, row_id="a"
    )  # fmt: skip
    assert view.shape == (5, 3, 32, 32)
    whole = view[0].float()
    for tile, (left, top, wide, high) in zip(view[1:], tile_boxes(32, 32, (2, 2), 0.2), strict=True):
        expected = F.interpolate(whole[None, :, top : top + high, left : left + wide], 32, mode="bilinear")[0]
        assert (tile.float() - expected).abs().mean() < 20  # of 255; another place differs by 60 and more


def test_drawn_tiles_depend_on_seed_epoch_and_row_alone_and_all_come_in_time():
    tiles = Tiles(32)
    drawn = [drawn_tiles(tiles, 3, seed=1, epoch=epoch, row_id="a") for epoch in range(40)]
    assert drawn[7] == drawn_tiles(tiles, 3, seed=1, epoch=7, row_id="a")
    assert {len(set(one)) for one in drawn} == {3}
    assert {number for one in drawn for number in one} == set(range(9))
    assert drawn[7] != drawn_tiles(tiles, 3, seed=1, epoch=7, row_id="b")
    assert drawn != [drawn_tiles(tiles, 3, seed=2, epoch=epoch, row_id="a") for epoch in range(40)]


def test_a_step_on_drawn_tiles_sees_the_whole_photo_and_these_and_tells_what_it_keeps(job, capsys):
    trainer = job("lora", model_options=TILES, speed={"sampled_tiles": 2})
    photos, row = trainer.train_dataset, trainer.splits.rows("training", step="train")[0]
    assert isinstance(photos, TrainingPhotos)
    found = photos[3, 0]["pixel_values"]
    assert found.shape == (3, 3, 32, 32)
    all_of_them = training_view(
        photo_for_view(row["image"], "basic", GEOMETRY),
        augment="basic", geometry=GEOMETRY, seed=trainer.args.seed, epoch=3, row_id=row["id"],
    )  # fmt: skip
    chosen = drawn_tiles(GEOMETRY, 2, seed=trainer.args.seed, epoch=3, row_id=row["id"])
    assert torch.equal(found, all_of_them[[0, *(1 + number for number in chosen)]])
    trainer.train()
    kept = trainer.accounting.kept
    assert (
        f"memory: 24 views per step (8 photos, 3 views each) keep {8 * kept / 1e9:.2g} GB of activations in fp32; "
        "to use less memory, take fewer photos, --views_train sampled or --activation_checkpointing true"
        in capsys.readouterr().out
    )
    assert trainer.evaluate()["eval_loss"] > 0  # scored on all of them


def test_with_checkpointing_a_step_keeps_the_inputs_of_blocks_and_one_block_computed_anew(job, capsys):
    trainer = job("lora", model_options=TILES, speed={"sampled_tiles": 2}, activation_checkpointing=True, max_steps=1)
    trainer.train()
    config = trainer.plain_model().config.backbone_config
    blocks, tokens = config.num_hidden_layers, 3 * (1 + config.num_register_tokens + (32 // config.patch_size) ** 2)
    kept = 4 * blocks * tokens * config.hidden_size + trainer.accounting.kept // blocks
    assert (
        f"memory: 24 views per step (8 photos, 3 views each) keep {8 * kept / 1e9:.2g} GB of activations in fp32 with "
        "checkpointing; to use less memory, take fewer photos or --views_train sampled" in capsys.readouterr().out
    )


@pytest.mark.slow
@pytest.mark.parametrize(("method", "sampled"), [("lora", 2), ("full", 0)])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(method, sampled, job, losses, stop_at):
    settings = {"model_options": TILES, "speed": {"sampled_tiles": sampled}}
    settings |= {
        "ema": True,
        "gradient_accumulation_steps": 2,
        "save_steps": 1,
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "eval_steps": 1,
    }
    whole = job(method, "whole", **settings)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        job(method, "stopped", callbacks=[stop_at(2)], **settings).train()
    resumed = job(method, "stopped", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole)
    for (name, one), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_mixup_mixes_all_views_alike(job):
    trainer = job("lora", model_options=TILES, mixup_alpha=0.4)
    items = [trainer.train_dataset[0, i] for i in range(4)]
    plain = trainer.data_collator([{k: v for k, v in item.items() if k != "seed"} for item in items])
    mixed = trainer.data_collator(items)
    share = mixed["labels"].max(dim=1).values
    assert mixed["pixel_values"].shape == (4, 5, 3, 32, 32)
    lam = (mixed["pixel_values"] - plain["pixel_values"].roll(1, 0)) / (
        plain["pixel_values"] - plain["pixel_values"].roll(1, 0)
    )
    lam = lam.nanmedian()
    torch.testing.assert_close(
        mixed["pixel_values"], lam * plain["pixel_values"] + (1 - lam) * plain["pixel_values"].roll(1, 0),
        atol=1e-4, rtol=1e-4,
    )  # fmt: skip
    assert (share >= 0.5).all()


@pytest.mark.parametrize(
    ("method", "options", "settings", "told"),
    [
        ("lora", {}, {"speed": {"prefix_cache_gb": 1}}, "prefix_cache_gb: .* or use --views whole"),
        ("lora", {}, {"loss": "ce+0.1*koleo"}, "loss ce.*koleo compares one feature vector .* --views whole"),
        ("lora", {}, {"cutmix_alpha": 1.0}, "cutmix_alpha: .* with --cutmix_alpha 0, or use --mixup_alpha"),
        ("probe", {"views_aggregate": "attention"}, {"probe_heads": "grid"}, "probe_heads: grid .*--probe_heads one"),
        (
            "lora",
            {"views_aggregate": "attention"},
            {"warm_start": "probe"},
            "warm_start: probe .*--views_aggregate",
        ),
    ],
)
def test_what_does_not_go_with_tiles_is_refused_before_a_photo_is_read(method, options, settings, told, job):
    with pytest.raises(UserError, match=told):
        job(method, model_options={**TILES, **options}, **settings)


def test_a_processor_of_other_views_than_the_model_was_trained_for_is_refused(job, tiny_backbone, tmp_path):
    trainer = job("probe", model_options=TILES)
    trainer.model.save_pretrained(tmp_path / "mixed")
    load_processor(str(tiny_backbone), Squash(32)).save_pretrained(tmp_path / "mixed")
    with pytest.raises(UserError, match=r"the whole photo and 4 tiles \(top 2\), but its .* makes no tiles"):
        load_classifier(str(tmp_path / "mixed"))
    with pytest.raises(UserError, match="trained on the whole photo alone, but its image processor makes 9 tiles"):
        check_same_views(None, load_processor(str(tiny_backbone), Tiles(32)))


def test_lora_may_start_from_the_probe_of_whole_and_tiles(job):
    trainer = job("lora", model_options=TILES, warm_start="probe")
    rows = trainer.splits.rows("selection", step="choose checkpoint")
    kept = trainer.warm.features(trainer.plain_model(), rows).table()
    np.testing.assert_allclose(trainer.warm.head.logits_of(kept), end_to_end(trainer, rows), atol=2e-4)
    trainer.train()


@pytest.mark.parametrize("method", ["probe", "lora"])
def test_a_curriculum_judges_a_photo_by_the_whole_of_it(method, job):
    settings = {"curriculum": "loss", "num_train_epochs": 3}
    tiled = job(method, "tiled", model_options=TILES, **settings)
    plain = job(method, "plain", **settings)
    assert np.array_equal(tiled.curriculum.difficulty, plain.curriculum.difficulty)
    tiled.train()
