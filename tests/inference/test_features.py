import json
import shutil
import threading

import numpy as np
import pytest
import torch

from natix_hf import UserError, load_model, load_photos
from natix_hf.inference import feature_store
from natix_hf.inference import features as module
from natix_hf.inference.batches import client_pixels
from natix_hf.inference.features import FixedView, cache_key, frozen_features, pooled, weights_fingerprint
from natix_hf.photos.geometry import Squash
from natix_hf.training.training_photos import Collator, TrainingPhotos


@pytest.fixture
def probe(tiny_backbone):
    return load_model(str(tiny_backbone), ["None", "Roadwork"], method="probe", image_size=32)


@pytest.fixture
def rows(photo_folder):
    return load_photos(photo_folder).rows("training", step="frozen features")


@pytest.fixture
def passes(monkeypatch):
    """How many photos went through the backbone."""
    counted = []

    def count(model):
        original = model.backbone.forward

        def forward(pixels, *args, **kwargs):
            counted.append(len(pixels))
            return original(pixels, *args, **kwargs)

        monkeypatch.setattr(model.backbone, "forward", forward)
        return counted

    return count


def table(rows):
    return np.stack([rows[i]["features"].numpy() for i in range(len(rows))])


def test_features_equal_the_model_on_the_clients_path(probe, rows, tmp_path):
    model, processor = probe
    model.train()  # the cache must not care
    cached = frozen_features(model, rows, processor, cache_dir=tmp_path)
    assert model.training
    model.eval()
    from transformers.image_utils import load_image

    for i in (0, 7, len(rows) - 1):
        pixels = processor(images=load_image(rows[i]["image"]["path"]), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            expected = model.extract_features(pixels)[0]
        torch.testing.assert_close(cached[i]["features"], expected, rtol=1e-5, atol=1e-6)
        assert cached[i]["labels"] == rows[i]["label"]
        assert torch.equal(cached[(3, i)]["features"], cached[i]["features"])


def test_a_second_pass_computes_nothing(probe, rows, tmp_path, passes):
    model, processor = probe
    counted = passes(model)
    first = table(frozen_features(model, rows, processor, cache_dir=tmp_path))
    assert sum(counted) == len(rows)
    again = frozen_features(model, rows, processor, cache_dir=tmp_path)
    assert sum(counted) == len(rows)
    np.testing.assert_array_equal(table(again), first)
    assert isinstance(again.records[0][0], np.memmap)


def test_a_changed_photo_is_computed_anew_and_no_other(probe, photo_folder, tmp_path, passes):
    model, processor = probe
    counted = passes(model)
    rows = load_photos(photo_folder).rows("training", step="train")
    frozen_features(model, rows, processor, cache_dir=tmp_path)
    path, other = rows[0]["image"]["path"], rows[1]["image"]["path"]
    shutil.copy(other, path)
    with open(path, "ab") as file:
        file.write(b"\0")  # other bytes, hence another photo
    changed = load_photos(photo_folder).rows("training", step="train")
    counted.clear()
    frozen_features(model, changed, processor, cache_dir=tmp_path)
    assert sum(counted) == 1


def test_other_weights_preprocessing_or_views_have_their_own_records(probe, tiny_backbone):
    model, processor = probe
    key = cache_key(model, processor)
    small, small_processor = load_model(str(tiny_backbone), ["None", "Roadwork"], method="probe", image_size=16)
    assert cache_key(small, small_processor) != key
    keys = {cache_key(model, processor, FixedView("basic", seed, n)) for seed in (0, 1) for n in (0, 1)}
    assert len(keys | {key, cache_key(model, processor, FixedView("rand", 0, 0))}) == 6
    with torch.no_grad():
        next(model.backbone.parameters()).view(-1)[0] += 1e-3
    assert cache_key(model, processor) != key
    assert weights_fingerprint(model.head) != weights_fingerprint(model.backbone)


def test_features_of_a_wide_view_are_those_of_the_model_and_no_square_s(probe, rows, tiny_backbone, tmp_path):
    square = table(frozen_features(probe[0], rows, probe[1], cache_dir=tmp_path))
    found = {}
    for size in ([32, 64], [64, 32]):
        model, processor = load_model(str(tiny_backbone), ["None", "Roadwork"], method="probe", image_size=size)
        pixels = torch.stack([client_pixels(row["image"], processor) for row in rows.select(range(4))])
        with torch.inference_mode():
            expected = model.eval().extract_features(pixels).numpy()
        found[size[0]] = table(frozen_features(model, rows, processor, cache_dir=tmp_path))
        np.testing.assert_allclose(found[size[0]][:4], expected, atol=1e-5)
    for one, other in ((found[32], square), (found[64], square), (found[32], found[64])):
        assert np.abs(one - other).max() > 1e-3


def test_a_photo_with_tiles_counts_as_many_views_in_a_pass(rows, tiny_backbone, tmp_path, passes):
    model, processor = load_model(
        str(tiny_backbone), ["None", "Roadwork"], method="probe", image_size=32, views="tiles", views_grid=2
    )
    counted = passes(model)
    frozen_features(model, rows, processor, cache_dir=tmp_path / "few", batch_size=12)
    assert counted[0] == max(counted) == 10  # two photos of five views, not twelve
    assert sum(counted) == 5 * len(rows)
    counted.clear()
    frozen_features(model, rows, processor, cache_dir=tmp_path / "one", batch_size=1)
    assert set(counted) == {5}


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls_mean"])
def test_every_pooling_is_served_by_one_pass_and_equals_the_model(
    probe, rows, tiny_backbone, tmp_path, passes, pooling
):
    counted = passes(probe[0])
    frozen_features(probe[0], rows, probe[1], cache_dir=tmp_path, layers=2)
    assert sum(counted) == len(rows)
    for layers in (1, 2):
        model, processor = load_model(
            str(tiny_backbone),
            ["None", "Roadwork"],
            method="probe",
            image_size=32,
            pooling=pooling,
            feature_layers=layers,
        )
        counted = passes(model)
        counted.clear()
        kept = frozen_features(model, rows, processor, cache_dir=tmp_path)
        assert not counted
        model.eval()
        from transformers.image_utils import load_image

        pixels = processor(images=[load_image(rows[i]["image"]["path"]) for i in (1, 5)], return_tensors="pt")
        with torch.inference_mode():
            expected = model.extract_features(pixels["pixel_values"])
        for i, row in ((1, 0), (5, 1)):
            torch.testing.assert_close(kept[i]["features"], expected[row], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(kept.table()[5], kept[5]["features"].numpy())
        np.testing.assert_array_equal(pooled(kept.parts(layers)[0], pooling, layers), kept.table())


def test_a_fixed_view_is_the_training_view_of_its_number_and_is_computed_once(probe, rows, tmp_path, passes):
    model, processor = probe
    views = [FixedView("basic", 3, number) for number in range(2)]
    counted = passes(model)
    kept = frozen_features(model, rows, processor, cache_dir=tmp_path, views=views)
    assert sum(counted) == 3 * len(rows)
    frozen_features(model, rows, processor, cache_dir=tmp_path, views=views, num_workers=1)
    assert sum(counted) == 3 * len(rows)
    model.eval()
    collate = Collator(processor)
    for epoch, number in ((1, 0), (2, 1), (4, 0)):
        photos = TrainingPhotos(rows, augment="basic", geometry=Squash(32), seed=3)
        batch = collate([photos[number, 4]])
        with torch.inference_mode():
            expected = model.extract_features(batch["pixel_values"])[0]
        torch.testing.assert_close(kept[epoch, 4]["features"], expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(kept[1, 4]["features"], kept[2, 4]["features"])
    assert torch.equal(kept[0, 4]["features"], kept[3, 4]["features"])


def test_an_interrupted_pass_goes_on_behind_its_last_shard(probe, rows, tmp_path, monkeypatch, passes):
    model, processor = probe
    monkeypatch.setattr(module, "SHARD_ROWS", 8)
    real, calls = np.save, []

    def save(*arguments, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **kwargs)

    monkeypatch.setattr(feature_store.np, "save", save)
    with pytest.raises(KeyboardInterrupt):
        frozen_features(model, rows, processor, cache_dir=tmp_path, batch_size=8)
    assert not list(tmp_path.rglob("*.tmp*"))
    monkeypatch.setattr(feature_store.np, "save", real)
    counted = passes(model)
    resumed = table(frozen_features(model, rows, processor, cache_dir=tmp_path))
    assert sum(counted) == len(rows) - 16
    np.testing.assert_array_equal(
        resumed, table(frozen_features(model, rows, processor, cache_dir=tmp_path / "fresh", batch_size=8))
    )


def test_a_shard_cut_short_is_computed_again(probe, rows, tmp_path, passes):
    model, processor = probe
    first = table(frozen_features(model, rows, processor, cache_dir=tmp_path))
    (shard,) = tmp_path.rglob("*.npy")
    shard.write_bytes(shard.read_bytes()[:-50])
    counted = passes(model)
    again = table(frozen_features(model, rows, processor, cache_dir=tmp_path))
    assert sum(counted) == len(rows)
    np.testing.assert_array_equal(again, first)


def test_a_folder_that_cannot_be_made_is_named(probe, rows, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cache_dir"):
        frozen_features(*[probe[0], rows, probe[1]], cache_dir=tmp_path / "file")


def test_a_corrupt_record_is_computed_again_and_never_served(probe, rows, tmp_path, passes):
    model, processor = probe
    first = table(frozen_features(model, rows, processor, cache_dir=tmp_path))
    (shard,) = tmp_path.rglob("*.npy")
    content = bytearray(shard.read_bytes())
    content[-3] ^= 0x40
    shard.write_bytes(content)
    counted = passes(model)
    again = table(frozen_features(model, rows, processor, cache_dir=tmp_path))
    assert sum(counted) == 1
    np.testing.assert_allclose(again, first, rtol=1e-5, atol=1e-6)  # a batch of one sums in another order


def test_names_that_were_exchanged_hand_no_photo_the_features_of_another(probe, rows, tmp_path, passes):
    model, processor = probe
    first = table(frozen_features(model, rows, processor, cache_dir=tmp_path))
    listing = next(path for path in tmp_path.rglob("*.json"))
    document = json.loads(listing.read_text())
    document["names"][:2] = document["names"][1::-1]
    listing.write_text(json.dumps(document))
    counted = passes(model)
    np.testing.assert_array_equal(table(frozen_features(model, rows, processor, cache_dir=tmp_path)), first)
    assert sum(counted) == 2


def test_records_of_another_version_are_left_alone_and_not_read(probe, rows, tmp_path, passes):
    model, processor = probe
    frozen_features(model, rows, processor, cache_dir=tmp_path)
    (folder,) = (tmp_path / "features").iterdir()
    folder.rename(
        folder.with_name(folder.name.replace(f"v{feature_store.VERSION}-", f"v{feature_store.VERSION - 1}-"))
    )
    counted = passes(model)
    frozen_features(model, rows, processor, cache_dir=tmp_path)
    assert sum(counted) == len(rows)
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_a_full_disk_is_one_line_and_what_was_computed_is_kept(probe, rows, tmp_path, monkeypatch, passes):
    model, processor = probe
    monkeypatch.setattr(module, "SHARD_ROWS", 8)
    real, calls = np.save, []

    def save(*arguments, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(*arguments, **kwargs)

    monkeypatch.setattr(feature_store.np, "save", save)
    with pytest.raises(UserError, match="cannot store features: the disk is full"):
        frozen_features(model, rows, processor, cache_dir=tmp_path, batch_size=8)
    assert not list(tmp_path.rglob("*.tmp*"))
    counted = passes(model)
    frozen_features(model, rows, processor, cache_dir=tmp_path, batch_size=8)
    assert sum(counted) == len(rows) - 8


def test_two_runs_at_once_compute_each_photo_once(probe, rows, tmp_path, passes):
    model, processor = probe
    counted = passes(model)
    tables = [None, None]

    def run(number):
        tables[number] = table(frozen_features(model, rows, processor, cache_dir=tmp_path, batch_size=4))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counted) == len(rows)
    np.testing.assert_array_equal(*tables)


def test_the_budget_drops_what_was_not_asked_for_longest_and_refuses_what_never_fits(probe, rows, tmp_path):
    model, processor = probe

    def place(number):
        views = [FixedView("basic", 0, number)] if number else []
        return frozen_features(model, rows, processor, cache_dir=tmp_path, views=views, budget_gb=budget)

    budget = None
    place(0), place(1), place(2)
    folders = list((tmp_path / "features").iterdir())
    size = sum(path.stat().st_size for path in folders[0].iterdir()) / 1e9
    assert len(folders) == 3
    place(1)  # asked for again: the second view is now the one that waited longest
    stale = (
        tmp_path / "features" / f"v{feature_store.VERSION}-{cache_key(model, processor, FixedView('basic', 0, 1))}-1"
    )
    budget = 3.5 * size
    place(3)
    left = set((tmp_path / "features").iterdir())
    assert len(left) == 3
    assert stale in left
    assert (
        tmp_path / "features" / f"v{feature_store.VERSION}-{cache_key(model, processor, FixedView('basic', 0, 2))}-1"
        not in left
    )
    budget = 0.5 * size
    with pytest.raises(UserError, match="cache_gb: the features of this run need"):
        place(4)


def test_views_of_one_run_that_do_not_fit_together_are_refused_and_never_drive_each_other_out(probe, rows, tmp_path):
    model, processor = probe
    frozen_features(model, rows, processor, cache_dir=tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.glob("features/*/*")) / 1e9
    views = [FixedView("basic", 0, number) for number in range(3)]
    with pytest.raises(UserError, match="cache_gb: the features of this run need"):
        frozen_features(model, rows, processor, cache_dir=tmp_path, views=views, budget_gb=2.5 * size)
    assert len(list(tmp_path.rglob("*.npy"))) == 2
    frozen_features(model, rows, processor, cache_dir=tmp_path, views=views, budget_gb=4.5 * size)
    assert len(list(tmp_path.rglob("*.npy"))) == 4
