"""The backbone that ships with the package: small, whole, what its README says, and loadable by transformers alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoModel, DINOv3ViTConfig, DINOv3ViTModel

import natix_hf
from natix_hf.scenes.world import CLASSES
from tests.assets.make_demo_backbone import MEAN, SHAPE, STD, batch, patch_targets

FOLDER = Path(natix_hf.__file__).parent / "assets" / "demo-backbone"


def test_the_folder_holds_four_files_of_at_most_four_megabytes():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert set(files) == {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    assert sum(files.values()) <= 4_000_000


def test_automodel_loads_every_tensor_of_a_dinov3_with_four_registers():
    model, report = AutoModel.from_pretrained(FOLDER, dtype=torch.float32, output_loading_info=True)
    assert type(model) is DINOv3ViTModel
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.num_register_tokens == 4
    assert model.config.pos_embed_rescale is None
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118


def test_the_processor_squashes_to_the_size_of_pretraining():
    processor = AutoImageProcessor.from_pretrained(FOLDER)
    pixels = processor(np.zeros((90, 160, 3), np.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224)
    assert torch.allclose(pixels[0, :, 0, 0], -torch.tensor(MEAN) / torch.tensor(STD), atol=1e-5)


def test_the_config_on_disk_is_the_one_that_the_script_makes():
    config = json.loads((FOLDER / "config.json").read_text())
    made = DINOv3ViTConfig(**SHAPE).to_dict()
    assert {key: config[key] for key in SHAPE} == {key: made[key] for key in SHAPE}


def test_features_are_finite_and_differ_from_a_random_backbone():
    model = AutoModel.from_pretrained(FOLDER, dtype=torch.float32).eval()
    with torch.no_grad():
        features = model(torch.randn(2, 3, 224, 224)).pooler_output
    assert features.shape == (2, SHAPE["hidden_size"])
    assert torch.isfinite(features).all()
    assert not torch.allclose(features[0], features[1])


@pytest.mark.parametrize(
    ("box", "cells"),
    [
        ((0, 0, 32, 32), {(0, 0), (0, 1), (1, 0), (1, 1)}),
        ((2, 2, 6, 10), {(0, 0)}),  # smaller than a patch
        ((14, 20, 18, 28), {(1, 0), (1, 1)}),  # half of it in either
        ((0, 0, 17, 16), {(0, 0)}),  # a sliver of the second
    ],
)
def test_patch_targets_by_hand(box, cells):
    objects = np.full((3, 5), -1, np.float32)
    objects[1] = (CLASSES.index("barrel"), *box)
    found = patch_targets(objects[objects[:, 0] >= 0], 0, 0, 48)
    assert found.shape == (3, 3, len(CLASSES))
    assert {(int(r), int(c)) for r, c in np.argwhere(found[:, :, CLASSES.index("barrel")])} == cells
    assert found.sum() == len(cells)


def test_batches_are_the_same_for_the_same_seed():
    pixels = np.random.default_rng(0).integers(0, 255, (4, 224, 224, 3)).astype(np.uint8)
    objects = np.full((4, 64, 5), -1, np.float32)
    objects[:, 0] = (2, 100, 100, 140, 150)
    first, second = (batch(pixels, objects, 6, 112, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert first[0].shape == (6, 3, 112, 112)
    assert first[1].shape == (6, 49, len(CLASSES))
