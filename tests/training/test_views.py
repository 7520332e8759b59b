"""Training views with and without the pre-resized copy, and that whatever is scored reads the originals."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file
from torch.utils.data import DataLoader

from natix_hf import finish_run, load_photos, train_run
from natix_hf.inference.augment import training_view
from natix_hf.photos.copies import PhotoCopies, photo_copies
from natix_hf.photos.decode import open_photo
from natix_hf.photos.geometry import GEOMETRIES, Squash
from natix_hf.streetvision.profiles import cached_photo
from natix_hf.training import trainer as trainer_module
from natix_hf.training.training_photos import EpochSampler, TrainingPhotos

JOB = Path(__file__).parent / "killed_job.py"
OPTIONS = {"augment": "basic", "geometry": Squash(32), "seed": 5}
SIDE = 40  # the photos are 64x48


@pytest.fixture
def rows(photo_folder):
    return load_photos(photo_folder).rows("training", step="train")


@pytest.fixture
def with_copy(monkeypatch):
    """Switches `decode_copy` on or off for the trainers that `job` builds from then on."""
    plain = trainer_module.NatixTrainer

    def switch(on: bool = True) -> None:
        options = {"decode_copy": True, "decode_copy_side": SIDE} if on else {}
        monkeypatch.setattr(trainer_module, "NatixTrainer", partial(plain, **options))

    return switch


def copies_of(rows, folder: Path) -> PhotoCopies:
    return photo_copies(rows, side=SIDE, cache_dir=folder, progress=False)


def same_weights(a, b) -> None:
    for (name, first), second in zip(a.model.named_parameters(), b.model.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0, msg=name)


def test_the_levels_of_a_challenge_reach_the_views(rows):
    options = {**OPTIONS, "augment": "challenge@2026-04"}
    levels = [0.0, 0.0, 0.0, 1.0]
    facts = {**options, "epoch": 1, "row_id": rows[3]["id"]}
    views = TrainingPhotos(rows, **options, challenge_levels=levels)
    expected = training_view(cached_photo(rows[3]["image"]), **facts, challenge_levels=levels)
    assert torch.equal(views[(1, 3)]["pixel_values"], expected)
    assert not torch.equal(
        expected, training_view(cached_photo(rows[3]["image"]), **facts, challenge_levels=[1, 0, 0, 0])
    )


def test_a_view_is_that_of_the_copy_where_there_is_one_and_else_of_the_original(rows, tmp_path):
    copies = copies_of(rows, tmp_path)
    plain, copied = TrainingPhotos(rows, **OPTIONS), TrainingPhotos(rows, **OPTIONS, copies=copies)
    for index in (0, 7):
        facts = {**OPTIONS, "epoch": 3, "row_id": rows[index]["id"]}
        expected = training_view(open_photo(rows[index]["image"]), **facts)
        assert torch.equal(plain[(3, index)]["pixel_values"], expected)
        expected = training_view(open_photo(copies[index]), **facts)
        assert torch.equal(copied[(3, index)]["pixel_values"], expected)
        assert plain[(3, index)]["labels"] == copied[(3, index)]["labels"] == rows[index]["label"]


def test_whole_views_differ_little_with_the_copy(rows, tmp_path):
    options = {**OPTIONS, "augment": "none", "geometry": Squash(24)}
    plain = TrainingPhotos(rows, **options)
    copied = TrainingPhotos(rows, **options, copies=copies_of(rows, tmp_path))
    views = [[photos[(0, i)]["pixel_values"].float() for i in range(len(rows))] for photos in (plain, copied)]
    first, second = map(torch.stack, views)
    assert 0 < (first - second).abs().mean() < 0.1 * first.std()


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_a_copy_is_cropped_where_the_original_is(rows, tmp_path, resize):
    """Views that look elsewhere differ several times as much as those whose pixels were only resampled."""
    options = {**OPTIONS, "geometry": GEOMETRIES[resize](24)}
    plain = TrainingPhotos(rows, **options)
    copied = TrainingPhotos(rows, **options, copies=copies_of(rows, tmp_path))

    def views(photos, epoch):
        return torch.stack([photos[(epoch, i)]["pixel_values"].float() for i in range(len(rows))])

    same, elsewhere = (views(plain, 1) - views(copied, 1)).abs(), (views(plain, 1) - views(copied, 2)).abs()
    assert same.mean() < 0.4 * elsewhere.mean()
    assert (same.mean(dim=(1, 2, 3)) < elsewhere.mean(dim=(1, 2, 3))).float().mean() > 0.9


def test_views_of_copies_are_the_same_for_any_number_of_workers(rows, tmp_path):
    photos = TrainingPhotos(rows, **OPTIONS, copies=copies_of(rows, tmp_path))
    sampler = EpochSampler(len(rows), seed=1)
    alone, helped = (list(DataLoader(photos, batch_size=4, sampler=sampler, num_workers=n)) for n in (0, 2))
    for first, second in zip(alone, helped, strict=True):
        assert torch.equal(first["pixel_values"], second["pixel_values"])
        assert torch.equal(first["labels"], second["labels"])


def test_workers_mend_a_damaged_shard_and_see_the_same(rows, tmp_path):
    photos = TrainingPhotos(rows, **OPTIONS, copies=copies_of(rows, tmp_path))
    expected = [photos[(0, i)]["pixel_values"] for i in range(len(rows))]
    (shard,) = tmp_path.rglob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    shard.write_bytes(content)
    keys = [(0, i) for i in range(len(rows))]
    found = [batch["pixel_values"] for batch in DataLoader(photos, batch_size=None, sampler=keys, num_workers=2)]
    assert all(map(torch.equal, found, expected))


def test_training_opens_no_original_and_copies_hold_training_rows_only(job, with_copy, photo_folder, tmp_path):
    with_copy()
    splits = load_photos(photo_folder)
    trainer = job("full", splits=splits, num_train_epochs=1, eval_strategy="no", save_strategy="no")
    rows = splits.rows("training", step="train")
    for photo in rows["image"][:]:
        Path(photo["path"]).unlink()
    trainer.train()
    (shard,) = trainer.source.cache_dir.rglob("*.safetensors")
    held = [name.tobytes().hex() for name in load_file(shard)["fingerprints"]]
    assert sorted(held) == sorted(rows["fingerprint"][:])
    assert trainer.times["decode_copy"] > 0


def test_selection_calibration_and_test_never_read_the_copy(job, with_copy, monkeypatch):
    """Scores of the same weights, with the copy and without; a copy that is read for them would end the test."""
    settings = {"num_train_epochs": 1, "eval_strategy": "no"}
    with_copy(False)
    plain = job("full", "plain", **settings)
    expected = plain.evaluate()
    with_copy()
    copied = job("full", "copied", **settings)
    reads = []
    read = PhotoCopies.__getitem__
    monkeypatch.setattr(PhotoCopies, "__getitem__", lambda self, index: reads.append(index) or read(self, index))
    assert copied.evaluate()["eval_log_loss"] == expected["eval_log_loss"]
    assert not reads
    train_run(copied)
    # One more than an epoch: the operations of a step are counted on the first row.
    assert sorted(reads) == [0, *range(len(copied.train_dataset))]
    finish_run(copied)
    assert len(reads) == len(copied.train_dataset) + 1


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_resumed_run_with_copies_ends_like_the_uninterrupted_one(job, with_copy, stop_at, method):
    with_copy()
    settings = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    settings["load_best_model_at_end"] = False
    whole = job(method, "whole", **settings)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        job(method, "cut", callbacks=[stop_at(5)], **settings).train()
    for shard in whole.source.cache_dir.rglob("*.safetensors"):
        shard.unlink()  # the copies too are made again on the way, and are the same
    resumed = job(method, "cut", **settings)
    resumed.train(resume_from_checkpoint=True)
    same_weights(whole, resumed)


def test_a_run_that_makes_its_copies_trains_like_one_that_finds_them(job, with_copy):
    with_copy()
    settings = {"num_train_epochs": 1, "eval_strategy": "no", "save_strategy": "no", "dataloader_num_workers": 2}
    making = job("lora", "making", **settings)
    making.train()
    finding = job("lora", "finding", **settings)
    finding.train()
    same_weights(making, finding)


def test_a_probe_has_no_use_for_copies(job, with_copy):
    with_copy()
    assert not list(job("probe").source.cache_dir.rglob("copies"))


@pytest.mark.slow
def test_two_processes_make_one_copy_and_have_the_losses_of_one(tiny_backbone, make_photos, tmp_path, launched):
    """48 training rows: whole batches of 8, on one process or two."""
    photos = make_photos(tmp_path / "photos", {"None": (100, 120, 110), "Roadwork": (150, 100, 90)}, 40)
    script = tmp_path / "job.py"
    script.write_text(
        "import functools, runpy\n"
        "from natix_hf.training import trainer\n"
        f"options = {{'decode_copy': True, 'decode_copy_side': {SIDE}}}\n"
        "trainer.NatixTrainer = functools.partial(trainer.NatixTrainer, **options)\n"
        f"runpy.run_path({str(JOB)!r}, run_name='__main__')\n"
    )
    losses = {}
    for processes in (1, 2):
        arguments = {"num_train_epochs": 1, "per_device_train_batch_size": 8 // processes, "eval_strategy": "no"}
        job = {"photos": str(photos), "backbone": str(tiny_backbone), "run": str(tmp_path / f"{processes}")}
        job |= {"method": "full", "dropout": 0.0, "arguments": arguments}
        if processes == 2:
            arguments["ddp_backend"] = "gloo"
        home = tmp_path / f"home-{processes}"
        result = launched(script, json.dumps(job), home=home, processes=processes)
        assert result.status == 0, result.err
        assert len([path for path in (home / "copies").rglob("*") if path.is_file()]) == 1
        log = json.loads((tmp_path / f"{processes}" / "run.json").read_text())["log_history"]
        losses[processes] = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses[1]) == 6
    assert losses[2] == pytest.approx(losses[1], abs=1e-4)
