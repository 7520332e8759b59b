"""A cascade of two models: its answers, which photos the dear model sees, and how a user may ask it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from finished_run import calibration_document
from two_stages import cascade_documents

from natix_hf import UserError, load_model
from natix_hf.decision.cascade import TwoStages
from natix_hf.decision.temperature import softmax
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.cascade import Cascade
from natix_hf.inference.averaged_views import check_views
from natix_hf.inference.batches import client_pixels, logits_of, photo_batches, staged_logits_of
from natix_hf.inference.cascade_classifier import CascadeClassifier, StageProcessors, dearest
from natix_hf.inference.classify import Written, left_early_line, predict_photos
from natix_hf.inference.photo_size import processor_at


@pytest.fixture(scope="module")
def photos(make_photos, tmp_path_factory) -> list[str]:
    folder = make_photos(tmp_path_factory.mktemp("street") / "photos", {"a": (60, 80, 60), "b": (190, 170, 150)}, 6)
    return sorted(map(str, folder.rglob("*.jpg")))


TEMPERATURE, BIAS = 3.0, np.array([0.5, -0.5])  # of each model alone


@pytest.fixture
def models(tiny_backbone):
    """Two models with a calibration of their own, and their image processors: squares, and rectangles."""
    found = []
    for seed, size in enumerate((32, [64, 96])):
        torch.manual_seed(seed)
        model, processor = load_model(str(tiny_backbone), ["None", "Roadwork"], method="full", image_size=size)
        torch.nn.init.normal_(model.head.linear.weight, std=0.1)
        model.eval().set_calibration(TEMPERATURE, BIAS)
        found.append((model, processor))
    return found


def cascade_of(models, photos, share: float) -> tuple[CascadeClassifier, StageProcessors, np.ndarray, np.ndarray]:
    """A cascade in which that share of the photos leaves, and the raw logits of each of its models."""
    (first, one), (second, two) = models
    early, full = (
        (logits_of(model, torch.stack([client_pixels(photo, processor) for photo in photos])) - BIAS) * TEMPERATURE
        for model, processor in models
    )
    fitted = cascade_documents()[0].plain()
    p = softmax(TwoStages.from_document(Cascade.check(fitted, "")).first.calibrated(early))[:, 1]
    confidence = np.sort(np.maximum(p, 1 - p))
    leaving = round(share * len(photos))
    ends = [0.5, *confidence, 1.5]
    high = (ends[len(photos) - leaving] + ends[len(photos) - leaving + 1]) / 2
    exits = fitted["exit"] | {"high": float(high), "low": float(1 - high), "cost": [0.25, 4.0]}
    exits |= {"cost_in": "GFLOP"}
    cascade = Cascade.check(fitted | {"exit": exits}, "").plain()
    document = CalibrationFile.check(calibration_document(cascade=cascade, temperature=[2.0, 2.0]))
    return CascadeClassifier(first, second, document), StageProcessors(one, two), early, full


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_the_second_model_sees_only_photos_that_do_not_leave_early(models, photos, share):
    model, processors, early, full = cascade_of(models, photos, share)
    seen = []
    hook = model.second.register_forward_hook(lambda module, inputs, output: seen.append(len(output.logits)))
    try:
        rows = list(predict_photos(model.eval(), processors, photos, photos, batch_size=5))
    finally:
        hook.remove()
    stage = np.array([row.stage for row in rows])
    assert (stage == 1).sum() == round(share * len(photos))
    assert sum(seen) == (stage == 2).sum()
    one, two = model.stages.first.calibrated(early), model.stages.second.calibrated(full)
    expected = softmax(model.calibration.calibrated(np.where((stage == 1)[:, None], one, two)))
    np.testing.assert_allclose([row.probabilities for row in rows], expected, atol=1e-5)


def test_the_own_calibration_of_each_model_is_removed(models, photos):
    model, _, early, _ = cascade_of(models, photos, 0.5)
    pixels = torch.stack([client_pixels(photo, models[0][1]) for photo in photos])
    np.testing.assert_allclose(logits_of(model.first, pixels), early, atol=1e-5)


def test_a_photo_is_decoded_once_for_both_models(models, photos, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    processors = [processor for _, processor in models]
    (batch,) = photo_batches([photos[0], str(tmp_path / "broken.jpg"), photos[1]], *processors)
    assert (batch.indices, [index for index, _ in batch.broken]) == ([0, 2], [1])
    for pixels, processor in zip([batch.pixels, *batch.beside], processors, strict=True):
        assert torch.equal(pixels, torch.stack([client_pixels(photo, processor) for photo in photos[:2]]))
    (batch,) = photo_batches([str(tmp_path / "broken.jpg")], *processors)
    assert (batch.indices, len(batch.broken)) == ([], 1)


def test_the_line_about_early_exits_is_in_gflop(models, photos):
    model, *_ = cascade_of(models, photos, 0.5)
    told = left_early_line(model, Written(good=8, early=6))
    assert told == "6 photos left early (75.0%): 1.25 of 4.25 GFLOP per photo"


def test_a_batch_is_measured_on_the_second_model(models, photos):
    model, processors, *_ = cascade_of(models, photos, 0.5)
    assert dearest(model, processors) == (model.second, processors.second)
    assert dearest(model.second, processors.second) == (model.second, processors.second)


def test_views_and_sizes_are_refused(models, photos, tmp_path):
    model, processors, *_ = cascade_of(models, photos, 0.5)
    with pytest.raises(
        UserError, match=r"--tta flip: the band of this cascade was fitted .* or give one of its two runs"
    ):
        check_views(model, ("flip",))
    with pytest.raises(UserError, match="--image_size 64 96: runs/c holds two models, and each has its own size"):
        processor_at("runs/c", model, processors, [64, 96])
    for stage, size in (("first", "32"), ("second", "[64, 96]")):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "recipe.yaml").write_text(f"image_size: {size}\n")
    assert processor_at(str(tmp_path), model, processors) == (processors, None)
    (tmp_path / "second" / "recipe.yaml").write_text("image_size: 64\n")  # another one's file
    with pytest.raises(UserError, match=r"second: preprocessor_config\.json says 64 x 96"):
        processor_at(str(tmp_path), model, processors)


def test_logits_and_stage_come_as_arrays(models, photos):
    model, processors, *_ = cascade_of(models, photos, 0.5)
    pixels = [torch.stack([client_pixels(photo, one) for photo in photos]) for one in processors]
    found = staged_logits_of(model, *pixels)
    assert (found.logits.shape, found.logits.dtype, found.stage.shape) == ((12, 2), np.float32, (12,))
