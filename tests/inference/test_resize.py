"""`resize: squash | crop`: training, scoring, `predict` and a `pipeline` see the same square of a wide photo."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from natix_hf import load_model, load_photos
from natix_hf.inference.augment import training_view
from natix_hf.inference.batches import client_pixels, photo_batches
from natix_hf.inference.classify import load_classifier
from natix_hf.inference.features import cache_key
from natix_hf.modeling.checkpoints import load_processor
from natix_hf.photos.decode import open_photo
from natix_hf.photos.geometry import GEOMETRIES, Geometry
from natix_hf.training.training_photos import Collator, TrainingPhotos

LABELS = ["None", "Roadwork"]


@pytest.fixture(params=["squash", "crop"])
def resize(request) -> str:
    return request.param


@pytest.fixture
def wide(tmp_path):
    """A photo of 101 x 34: the shorter side becomes 32, the longer 95, and the crop starts at 31.5 cut to 31."""
    pixels = np.random.default_rng(0).integers(0, 256, (34, 101, 3), dtype=np.uint8)
    path = tmp_path / "wide.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def saved(tiny_backbone, tmp_path, resize):
    """The folder of an untrained classifier as a run saves it."""
    model, processor = load_model(str(tiny_backbone), LABELS, method="full", image_size=32, resize=resize)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_training_scoring_predict_and_pipeline_see_the_same_pixels_of_a_wide_photo(saved, wide, resize):
    client = pipeline("image-classification", model=str(saved), device="cpu")
    theirs = client.preprocess(str(wide))["pixel_values"][0]
    model, processor = load_classifier(str(saved))
    assert torch.equal(client_pixels(wide, processor), theirs)
    ((_, (predicted,), broken, *_),) = photo_batches([wide], processor)
    assert torch.equal(predicted, theirs)
    assert not broken
    view = training_view(
        open_photo(wide), augment="none", geometry=GEOMETRIES[resize](32), seed=0, epoch=0, row_id="a"
    )
    trained = Collator(processor)([{"pixel_values": view, "labels": 0}])["pixel_values"][0]
    one_level = 1 / 255 / min(processor.image_std)  # training rounds to 8 bits
    assert (trained - theirs).abs().max() <= 1.01 * one_level
    with torch.inference_mode():
        expected = model(pixel_values=theirs[None]).logits.softmax(dim=1)[0]
    scores = {entry["label"]: entry["score"] for entry in client(str(wide))}
    assert [scores[name] for name in LABELS] == pytest.approx(expected.tolist(), abs=1e-6)


def test_squash_shows_the_whole_photo_and_crop_the_square_in_its_middle(saved, resize):
    _, processor = load_classifier(str(saved))
    across = np.linspace(0, 255, 192, dtype=np.uint8)
    image = Image.fromarray(np.repeat(across[None, :, None], 96, 0).repeat(3, 2))
    pixels = client_pixels(image, processor)[0] * processor.image_std[0] + processor.image_mean[0]
    low, high = float(pixels.min()), float(pixels.max())
    assert (low, high) == pytest.approx((0.0, 1.0) if resize == "squash" else (0.25, 0.75), abs=0.02)
    assert pixels.shape == (32, 32)
    assert Geometry.of(processor) == GEOMETRIES[resize](32)


def test_the_policy_is_in_preprocessor_config(saved, resize):
    written = json.loads((saved / "preprocessor_config.json").read_text())
    square = {"height": 32, "width": 32}
    if resize == "squash":
        assert written["size"] == square
        assert not written["do_center_crop"]
    else:
        assert written["size"] == {"shortest_edge": 32}
        assert written["do_center_crop"]
        assert written["crop_size"] == square


def test_a_run_that_goes_on_from_another_policy_takes_its_own(saved, resize):
    other = "crop" if resize == "squash" else "squash"
    fresh = load_processor(str(saved), GEOMETRIES[other](64))
    assert Geometry.of(fresh) == GEOMETRIES[other](64)
    same = load_processor(str(saved), GEOMETRIES[resize](32))
    assert same.to_dict() == load_classifier(str(saved))[1].to_dict()


def test_cached_features_of_one_policy_are_not_served_to_the_other(tiny_backbone):
    keys = set()
    for policy in ("squash", "crop"):
        model, processor = load_model(str(tiny_backbone), LABELS, method="probe", image_size=32, resize=policy)
        keys.add(cache_key(model, processor))
    assert len(keys) == 2


def test_a_trainer_makes_its_views_as_its_image_processor_does(tiny_backbone, photo_folder, tmp_path, resize):
    from natix_hf import NatixTrainer, NatixTrainingArguments

    splits = load_photos(photo_folder)
    model, processor = load_model(str(tiny_backbone), splits.label_names, method="full", image_size=32, resize=resize)
    trainer = NatixTrainer(
        model,
        NatixTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, dataloader_num_workers=0),
        splits=splits,
        processing_class=processor,
        augment="none",
    )
    photos = trainer.train_dataset
    assert isinstance(photos, TrainingPhotos)
    view = trainer.data_collator([photos[(0, 0)]])["pixel_values"][0]
    scored = client_pixels(photos.rows[0]["image"], processor)
    assert (view - scored).abs().max() <= 1.01 / 255 / min(processor.image_std)
