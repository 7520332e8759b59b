"""A model sees photos at the size of its training; another one has to be insisted on, and promises nothing."""

from __future__ import annotations

import json

import pytest
import torch

from natix_hf import UserError, load_model
from natix_hf.files import read_json, write_json, write_text
from natix_hf.inference.batches import client_pixels
from natix_hf.inference.classify import load_classifier
from natix_hf.inference.photo_size import calibrated_size, processor_at
from natix_hf.photos.geometry import Geometry, Squash
from natix_hf.scenes.photos import encode, scene

SIZE = "the model was trained with 32 x 32 px"


@pytest.fixture
def run(tiny_backbone, tmp_path):
    """The folder of a model that was trained with squares of 32 px, and its recipe."""
    model, processor = load_model(str(tiny_backbone), ["None", "Roadwork"], method="full", image_size=32)
    model.save_pretrained(tmp_path / "run")
    processor.save_pretrained(tmp_path / "run")
    write_text(tmp_path / "run" / "recipe.yaml", "image_size: 32\n")
    return tmp_path / "run"


def at(run, *size: int, force: bool = False):
    return processor_at(str(run), *load_classifier(str(run)), list(size) or None, force=force)


def edited(run, height: int, width: int) -> None:
    path = run / "preprocessor_config.json"
    write_json(path, read_json(path) | {"size": {"height": height, "width": width}})


@pytest.mark.parametrize("size", [(), (32,), (32, 32)])
def test_the_size_of_the_training_needs_no_word_and_may_be_said(run, size):
    processor, note = at(run, *size)
    assert Geometry.of(processor) == Squash(32)
    assert note is None


def test_another_size_is_refused_with_the_reason(run):
    for size in ((64,), (32, 64), (16,)):
        with pytest.raises(UserError, match="was trained with 32 x 32 px: a head gets worse at a larger size") as told:
            at(run, *size)
        line = str(told.value)
        assert line.startswith(f"--image_size {' '.join(map(str, size))}: {run} ")
        assert line.endswith("train with this --image_size, or add --force")
        assert "\n" not in line


def test_by_force_the_pixels_are_those_of_a_processor_of_that_size(run, tiny_backbone):
    processor, note = at(run, 32, 64, force=True)
    assert note == f"photos are prepared at 32 x 64 px, but {SIZE}: its calibration is not valid here"
    _, expected = load_model(str(tiny_backbone), ["None", "Roadwork"], method="full", image_size=[32, 64])
    photo = encode(scene(5, 0, (160, 90)))
    assert torch.equal(client_pixels(photo, processor), client_pixels(photo, expected))


def test_a_size_that_no_model_can_have_is_refused_also_by_force(run):
    with pytest.raises(UserError, match="image_size 40: expected a multiple of the checkpoint's patch size 16"):
        at(run, 32, 40, force=True)
    with pytest.raises(UserError, match=r"image_size: expected one number .*, found 32 64 3"):
        at(run, 32, 64, 3, force=True)
    with pytest.raises(UserError, match=r"image_size: expected one number .*, found 0"):
        at(run, 0, force=True)


def test_a_changed_image_processor_is_refused(run):
    edited(run, 32, 64)
    with pytest.raises(UserError) as told:
        at(run)
    assert str(told.value) == (
        f"{run}: preprocessor_config.json says 32 x 64 px, but the model was trained with 32 x 32 px: restore the "
        "file, or choose: --image_size 32, or --image_size 32 64 --force"
    )
    processor, note = at(run, 32)
    assert (Geometry.of(processor), note) == (Squash(32), None)
    processor, note = at(run, 32, 64, force=True)
    assert Geometry.of(processor) == Squash(32, 64)
    assert SIZE in note


def test_a_model_that_does_not_say_its_size_has_that_of_its_image_processor(run):
    (run / "recipe.yaml").unlink()
    assert calibrated_size(run) is None
    edited(run, 32, 64)
    assert at(run)[1] is None
    with pytest.raises(UserError, match="was trained with 32 x 64 px"):
        at(run, 32)


def test_a_recalibrated_copy_says_the_size_that_its_calibration_is_for(run, tmp_path):
    report = {"version": 1, "source": "run", "labelled": False, "classes": ["a", "b"], "positive": 1, "seed": 0}
    report |= {"photos": {"n": 3, "groups": 3, "broken": [], "known": {}, "ties": {}}}
    (run / "recalibration.json").write_text(json.dumps(report))
    assert calibrated_size(run) == 32
    (run / "recalibration.json").write_text(json.dumps(report | {"image_size": [32, 64]}))
    assert calibrated_size(run) == [32, 64]
