"""Test-time augmentation: averages equal those by hand, and a calibration counts only for the views of its fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from photo_files import encoded
from PIL import Image, ImageOps

from natix_hf import UserError, load_model
from natix_hf.decision.calibration import Calibration
from natix_hf.errors import CommandParser
from natix_hf.inference.averaged_views import asked_views, view_batches
from natix_hf.inference.batches import client_pixels, logits_of
from natix_hf.inference.classify import load_classifier, predict_photos
from natix_hf.inference.photo_size import at_size
from natix_hf.inference.uncalibrated_logits import uncalibrated_logits
from natix_hf.inference.view_options import add_views_option
from natix_hf.photos.geometry import Squash
from natix_hf.scenes.photos import scene

BOTH = ("flip", "scales")


@pytest.fixture(scope="module")
def network(tiny_backbone, tmp_path_factory):
    """A calibrated model of 64 x 96 px and its image processor, as a run leaves them."""
    folder = tmp_path_factory.mktemp("model")
    model, processor = load_model(str(tiny_backbone), ["None", "Roadwork"], method="full", image_size=[64, 96])
    with torch.no_grad():
        model.head.linear.weight.copy_(torch.randn(2, 32, generator=torch.Generator().manual_seed(0)))
    model.set_calibration(8.0, [0.2, -0.1])  # no probability is so near to 1 that views could not move it
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return load_classifier(str(folder))


@pytest.fixture(scope="module")
def photos():
    """Street photos as PNG, which keeps every pixel, and their mirror images."""
    streets = [scene(5, index, (160, 90)).image for index in range(3)]
    return [encoded(photo) for photo in [*streets, *map(ImageOps.mirror, streets)]]


def probabilities(network, photos, views=()):
    names = [str(number) for number in range(len(photos))]
    return np.array([one.probabilities for one in predict_photos(*network, names, photos, batch_size=2, views=views)])


@pytest.mark.parametrize("views", [("flip",), ("scales",), BOTH])
def test_the_probabilities_are_those_of_logits_that_are_averaged_by_hand(network, photos, views):
    model, processor = network
    seen = [processor]
    if "scales" in views:  # 3/4 and 5/4 of 4 x 6 patches: 3 x 4.5, of which the even number is taken, and 5 x 7.5
        seen += [at_size(processor, Squash(*size)) for size in ((48, 64), (80, 128))]
    expected = []
    for photo in photos:
        pixels = [client_pixels(photo, one)[None] for one in seen]
        if "flip" in views:
            pixels += [torch.flip(one, dims=[3]) for one in pixels]
        expected.append(np.mean([logits_of(model, one)[0] for one in pixels], axis=0))
    expected = torch.tensor(np.array(expected)).softmax(dim=1).numpy()
    found = probabilities(network, photos, views)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - probabilities(network, photos)).max() > 1e-3


@pytest.mark.parametrize("views", [("flip",), BOTH])
def test_with_flip_a_photo_and_its_mirror_image_are_one(network, photos, views):
    found = probabilities(network, photos, views)
    np.testing.assert_allclose(found[:3], found[3:], atol=1e-5)
    single = probabilities(network, photos)
    assert np.abs(single[:3] - single[3:]).max() > 1e-3


def test_unreadable_photos_stop_no_view_and_keep_their_reason(network, photos):
    mixed = [photos[0], b"no photo", photos[1], b""]
    names = ["a", "b", "c", "d"]
    found = list(predict_photos(*network, names, mixed, batch_size=2, views=BOTH))
    assert [one.probabilities is None for one in found] == [False, True, False, True]
    np.testing.assert_allclose(found[2].probabilities, probabilities(network, photos[1:2], BOTH)[0], atol=1e-6)


def test_the_photo_itself_comes_first_and_is_what_a_client_sees(network, photos):
    model, processor = network
    ((batch, pixels),) = view_batches(model, processor, photos[:1], BOTH)
    assert [tuple(one.shape[-2:]) for one in pixels] == [(64, 96), (48, 64), (80, 128)] * 2
    assert torch.equal(pixels[0], batch.pixels)
    assert torch.equal(pixels[0][0], client_pixels(photos[0], processor))


def test_logits_for_a_calibration_are_averaged_before_it(tiny_backbone, photos):
    model, processor = load_model(str(tiny_backbone), ["None", "Roadwork"], method="full", image_size=[64, 96])
    model.eval().set_calibration(1.7, [0.2, -0.1])
    zeros = np.zeros(2)
    calibration = Calibration("temperature", np.full(2, 1.7), zeros, zeros, zeros)
    found = uncalibrated_logits(model, processor, photos, calibration, views=("flip",))
    pixels = torch.stack([client_pixels(photo, processor) for photo in photos])
    expected = (logits_of(model, pixels) + logits_of(model, pixels.flip(-1))) / 2  # it has lost its calibration
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_the_calibration_was_fitted_with_is_asked_for():
    assert asked_views("run", None, None) == ((), None)
    assert asked_views("run", {}, ()) == ((), None)
    fitted = {"views": ["flip"]}
    assert asked_views("run", fitted, ("flip",)) == (("flip",), None)
    with pytest.raises(UserError, match="add --tta flip, or --tta none to predict without them, uncalibrated"):
        asked_views("run", fitted, None)
    views, note = asked_views("run", fitted, ())
    assert views == ()
    assert note == "--tta none: the calibration was fitted with --tta flip and is not valid here"
    for rule in ({}, fitted):
        views, note = asked_views("run", rule, BOTH)
        assert views == BOTH
        assert "was not fitted with these views and is not valid here" in note
        assert "fit one with natix_hf.recalibrate run --tta flip,scales --output FOLDER" in note


def test_view_names_on_the_command_line_are_checked():
    parser = CommandParser()
    add_views_option(parser)
    for words, expected in (
        ([], None),
        (["--tta", "none"], ()),
        (["--tta", "flip"], ("flip",)),
        (["--tta", "scales,flip"], BOTH),
    ):
        assert parser.parse_args(words).tta == expected
    for word in ("sideways", "flip,none", "", "flip,"):
        with pytest.raises(
            UserError, match=f"--tta: expected flip, scales, both with a comma between them, or none; found '{word}'"
        ):
            parser.parse_args(["--tta", word])


def test_a_photo_that_is_smaller_than_a_view_is_averaged_too(network):
    found = probabilities(network, [encoded(Image.new("RGB", (3, 2), (90, 80, 70)))], BOTH)
    assert found.sum() == pytest.approx(1)
