"""A backbone rounded to int8 under a head in fp32: its logits beside those of the model, for plain and tiled views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from natix_hf.inference.batches import logits_of
from natix_hf.modeling.checkpoints import build_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

NAMES = ["a", "b", "c"]
PHOTOS = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(5))
TILED = torch.randn(12, 5, 3, 32, 32, generator=torch.Generator().manual_seed(6))
CASES = {"plain": ({}, PHOTOS), "tiles": ({"views": {"tiles": 4, "aggregate": "top_k", "top_k": 2}}, TILED)}


@pytest.fixture(scope="module", params=CASES)
def rounded(request, tiny_backbone, tmp_path_factory):
    """A calibrated model of three classes, photos as it sees them, and the folder of its rounded backbone."""
    from natix_hf.modeling.exports.int8 import quantised_backbone

    options, photos = CASES[request.param]
    model = build_model(str(tiny_backbone), NAMES, **options).eval()
    model.set_calibration([1.5, 0.8, 1.2], [0.3, -0.2, 0.1])
    folder = tmp_path_factory.mktemp("rounded")
    batches = (photos[i : i + 4].numpy() for i in range(0, len(photos), 4))
    quantised_backbone(model, tuple(photos.shape[1:]), batches, folder)
    return model, photos, folder


@pytest.mark.slow
def test_the_logits_are_near_those_in_fp32_and_the_head_adds_its_calibration(rounded, tmp_path):
    from natix_hf.modeling.exports.int8 import add_head, logits_by
    from natix_hf.modeling.exports.onnx import session

    model, photos, backbone = rounded
    expected, found = logits_of(model, photos), logits_by(backbone)(model, photos)
    distance, spread = np.sqrt(((found - expected) ** 2).mean()), (expected - expected.mean(axis=0)).std()
    assert 0 < distance < 0.15 * spread  # not the same numbers, and no other model
    graph = onnx.load(str(backbone / "model.onnx")).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    rounded = [node for node in graph.node if node.input[0] in stored and node.op_type == "DequantizeLinear"]
    matrices = [stored[node.input[0]] for node in rounded]
    assert len(matrices) == 2 * 6  # of each layer q, k, v, o, up, down
    assert {tensor.data_type for tensor in matrices} == {onnx.TensorProto.INT8}
    assert [list(stored[node.input[1]].dims) for node in rounded] == [[tensor.dims[1]] for tensor in matrices]

    model.set_calibration([2.0, 1.0, 0.5], [0.0, 1.0, -1.0])  # of the rounded model, fitted after it was rounded
    assert add_head(model, backbone, tmp_path / "model.onnx") == 20
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    assert b"site-packages" not in (tmp_path / "model.onnx").read_bytes()  # no path of this machine goes to clients
    answer = session(str(tmp_path))
    np.testing.assert_allclose(answer(photos.numpy()), logits_by(backbone)(model, photos), atol=2e-6)
    np.testing.assert_allclose(answer(photos[3:4].numpy()), logits_by(backbone)(model, photos[3:4]), atol=2e-6)


@pytest.mark.slow
def test_an_isotonic_calibration_is_held_too(tiny_backbone, tmp_path):
    from natix_hf.modeling.exports.int8 import add_head, logits_by, quantised_backbone
    from natix_hf.modeling.exports.onnx import session

    model = build_model(str(tiny_backbone), NAMES[:2]).eval()
    backbone = Path(tmp_path / "backbone")
    backbone.mkdir()
    quantised_backbone(model, (3, 32, 32), [PHOTOS.numpy()], backbone)
    knots = [[[0.0, 0.4, 1.0], [0.1, 0.3, 0.9]], [[0.0, 0.6, 1.0], [0.1, 0.7, 0.9]]]
    model.set_calibration(1.0, 0.0, isotonic=knots)
    add_head(model, backbone, tmp_path / "model.onnx")
    expected = logits_by(backbone)(model, PHOTOS)
    np.testing.assert_allclose(session(str(tmp_path))(PHOTOS.numpy()), expected, atol=1e-5)
