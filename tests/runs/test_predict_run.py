"""What is saved beside the logits of a run: the kinds of photos that its figures are broken down by."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from transformers import DINOv3ViTImageProcessor

from natix_hf import load_photos
from natix_hf.documents.run_record import RunRecord
from natix_hf.photos.geometry import Crop, Squash
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.predict_run import predict_run
from natix_hf.runs.saved_logits import read_predictions


@pytest.fixture
def turned(photo_folder):
    """Photos of which each third stands upright, also by its EXIF tag alone."""
    for number, path in enumerate(sorted(photo_folder.rglob("*.jpg"))):
        if number % 3 == 0:
            image, exif = Image.open(path), Image.Exif()
            if number % 2:
                exif[0x0112] = 6
            else:
                image = image.transpose(Image.Transpose.ROTATE_90)
            image.save(path, quality=95, exif=exif)
    return photo_folder


@pytest.mark.parametrize(
    ("geometry", "slices", "found"),
    [
        (Squash(32), [], False),
        (Crop(32), [], False),
        (Squash(32, 64), [], True),
        (Squash(32), ["orientation"], True),
        (Squash(32, 64), ["resolution"], False),
    ],
    ids=str,
)
def test_a_run_on_rectangles_tells_portraits_from_landscapes(turned, tmp_path, geometry, slices, found):
    splits, run = load_photos(turned), tmp_path / "run"
    run.mkdir()
    RunRecord(status="finished").write(run)
    splits.description.write(run)
    network = SimpleNamespace(
        processing_class=DINOv3ViTImageProcessor(**geometry.processor_settings()),
        logits=lambda rows: np.zeros((len(rows), 2), dtype=np.float32),
        logits_of_photos=None,  # no challenge profile is asked for
        probe_predictions=dict,
    )
    predict_run(run, splits, network, DecisionOptions(slices=slices))
    for split in ("val_select", "val_calib"):
        kinds = read_predictions(run, split).slices
        assert ("orientation" in kinds) == found
    if found:
        assert set(kinds["orientation"]) == {"landscape", "portrait"}
