import shutil

import numpy as np
import pytest
import torch

from natix_hf import UserError, load_model, load_photos
from natix_hf.inference import features as module
from natix_hf.inference.features import cache_key, frozen_features, weights_fingerprint


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
        original = model.extract_features

        def extract(pixels):
            counted.append(len(pixels))
            return original(pixels)

        monkeypatch.setattr(model, "extract_features", extract)
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


def test_other_weights_preprocessing_or_pooling_have_their_own_records(probe, tiny_backbone):
    model, processor = probe
    key = cache_key(model, processor)
    small, small_processor = load_model(str(tiny_backbone), ["None", "Roadwork"], method="probe", image_size=16)
    assert cache_key(small, small_processor) != key
    mean, mean_processor = load_model(
        str(tiny_backbone), ["None", "Roadwork"], method="probe", image_size=32, pooling="mean"
    )
    assert cache_key(mean, mean_processor) != key
    with torch.no_grad():
        next(model.backbone.parameters()).view(-1)[0] += 1e-3
    assert cache_key(model, processor) != key
    assert weights_fingerprint(model.head) != weights_fingerprint(model.backbone)


def test_an_interrupted_pass_goes_on_behind_its_last_shard(probe, rows, tmp_path, monkeypatch, passes):
    model, processor = probe
    monkeypatch.setattr(module, "SHARD_ROWS", 8)
    real, calls = np.save, []

    def save(*arguments, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **kwargs)

    monkeypatch.setattr(module.np, "save", save)
    with pytest.raises(KeyboardInterrupt):
        frozen_features(model, rows, processor, cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.tmp*"))
    monkeypatch.setattr(module.np, "save", real)
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
