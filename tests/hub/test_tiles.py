"""A run that sees tiles in every form that can hold them: the same pixels and logits here and in clients."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from finished_run import card_of, write_finished_run
from PIL import Image

from natix_hf.decision.calibration import Calibration
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.cascade import Cascade, EarlyExit, StageCalibration
from natix_hf.documents.export import Export
from natix_hf.errors import UserError
from natix_hf.files import read_json
from natix_hf.hub.export_forms import export_run
from natix_hf.hub.proof import WITH, WITHOUT, prove
from natix_hf.inference.batches import client_pixels, logits_by_stage, logits_of, staged_logits_of
from natix_hf.inference.classify import load_classifier
from natix_hf.inference.uncalibrated_logits import uncalibrated_logits
from natix_hf.runs.assemble_model import write_into_weights
from natix_hf.scenes.photos import encode, scene

PHOTOS = [encode(scene(5, index, (160, 90))) for index in range(4)]
VIEWS = torch.randn(3, 7, 3, 32, 48, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def tiled(make_base, make_run, tmp_path_factory):
    """A function that gives a LoRA run on rectangles in 2 x 3 tiles, by the way in which these are put together."""
    folder = tmp_path_factory.mktemp("tiles")
    base, runs = make_base(folder / "base"), {}

    def run(aggregate: str) -> Path:
        if aggregate not in runs:
            options = {"views": "tiles", "views_grid": [2, 3], "views_aggregate": aggregate, "pooling": "cls_mean"}
            runs[aggregate] = make_run(folder / aggregate, base, image_size=[32, 48], **options)
        return runs[aggregate]

    return run


def logits(folder: Path) -> np.ndarray:
    return logits_of(load_classifier(str(folder))[0], VIEWS)


@pytest.mark.parametrize("aggregate", ["top_k", "attention"])
def test_merged_and_adapter_give_the_bits_of_the_run(aggregate, tiled, tmp_path):
    run = tiled(aggregate)
    about = export_run(run, "merged", tmp_path / "merged")
    export_run(run, "adapter", tmp_path / "adapter", base_output=tmp_path / "base")
    for form in ("merged", "adapter"):
        assert (logits(tmp_path / form) == logits(run)).all()
    assert (about.image_size, about.resize, about.tiles) == ([32, 48], "squash", [2, 3])
    Export.check(read_json(tmp_path / "merged" / "export.json"))


@pytest.mark.slow
def test_clients_with_and_without_the_package_see_the_same_tiles_and_answer_alike(tiled, tmp_path):
    export_run(tiled("top_k"), "merged", tmp_path / "merged")
    proof = prove(tiled("top_k"), tmp_path / "merged", photos=PHOTOS, clients=(WITH, WITHOUT))
    assert [client.pixels for client in proof.clients] == [0.0, 0.0, 0.0]
    export_run(tiled("top_k"), "adapter", tmp_path / "adapter", base_output=tmp_path / "base")
    prove(tiled("top_k"), tmp_path / "adapter", photos=PHOTOS[:2], base=tmp_path / "base", clients=(WITHOUT,))


@pytest.mark.slow
def test_a_graph_holds_tiles_and_its_client_cuts_them_with_numpy_and_pillow(tiled, tmp_path):
    pytest.importorskip("onnxruntime")
    for aggregate in ("top_k", "attention"):
        run, out = tiled(aggregate), tmp_path / aggregate
        export_run(run, "onnx", out)
        np.testing.assert_allclose(logits(out), logits(run), atol=2e-5)
        assert logits_of(load_classifier(str(out))[0], VIEWS[:1]).shape == (1, 2)  # any number of photos
    proof = prove(tiled("top_k"), tmp_path / "top_k", photos=PHOTOS, clients=(WITHOUT,))
    assert proof.clients[1].pixels < 5e-6  # without torch, the same pixels


def leaving(run: Path) -> Path:
    """The same run with a band that some of `VIEWS` leave by."""
    model, _ = load_classifier(str(run))
    whole = logits_by_stage(model, VIEWS)[:, 0]
    score = np.sort(1 / (1 + np.exp(whole[:, 0] - whole[:, 1])))
    stage = StageCalibration(calibrator="temperature", temperature=[1.0, 1.0], bias=[0.0, 0.0], isotonic=None)
    exits = EarlyExit(
        asked="band", low=score[0] / 2, high=score[1:].mean(), alpha=None, delta=None, certified=False, reason="given",
        smallest_alpha=None, candidates=1, fitted_on="val_calib/control", n=3, groups=3, largest=1, effective=3.0,
        early=0.5, loss=0.0, loss_of_early=0.0, cost=[1.0, 6.0], cost_in="views", mean_cost=4.0,
    )  # fmt: skip
    second = stage.model_copy(update={"temperature": [2.0, 2.0]})
    cascade = Cascade(exit=exits, stages=[stage, second])
    document = CalibrationFile.read(run).model_copy(update={"cascade": cascade})
    document.write(run)
    write_into_weights(run, document)
    return run


@pytest.mark.slow
def test_every_form_lets_the_same_photos_leave_early_and_a_graph_answers_alike(make_base, make_run, tmp_path):
    base = make_base(tmp_path / "base")
    options = {"views": "tiles", "views_grid": [2, 3], "image_size": [32, 48]}
    run = leaving(make_run(tmp_path / "run", base, **options))
    model, processor = load_classifier(str(run))
    expected, stage = staged_logits_of(model, VIEWS)
    assert set(stage) == {1, 2}
    calibration = Calibration.from_document(CalibrationFile.read(run))
    pixels = torch.stack([client_pixels(photo, processor) for photo in PHOTOS])
    before = (staged_logits_of(model, pixels).logits - calibration.logit_bias) * calibration.temperature
    bare, _ = load_classifier(str(run))  # which loses its own calibration, and keeps that of the stages
    np.testing.assert_allclose(uncalibrated_logits(bare, processor, PHOTOS, calibration), before, atol=1e-5)
    export_run(run, "merged", tmp_path / "merged")
    export_run(run, "adapter", tmp_path / "adapter", base_output=tmp_path / "exported-base")
    for form in ("merged", "adapter"):
        found = staged_logits_of(load_classifier(str(tmp_path / form))[0], VIEWS)
        assert (found.logits == expected).all()
        assert (found.stage == stage).all()
    prove(run, tmp_path / "merged", photos=PHOTOS, clients=(WITHOUT,))
    pytest.importorskip("onnxruntime")
    export_run(run, "onnx", tmp_path / "onnx")
    np.testing.assert_allclose(logits(tmp_path / "onnx"), expected, atol=2e-5)


SIZES = [(960, 540), (160, 90), (320, 32), (32, 320), (20, 9), (1, 1), (61, 97)]


def test_the_script_beside_a_graph_makes_the_processors_pixels_of_photos_of_all_shapes(tiled, tmp_path):
    from natix_hf.modeling.exports.export_form import FinishedModel
    from natix_hf.modeling.exports.graph_files import write_beside_graph

    model, processor = load_classifier(str(tiled("top_k")))
    write_beside_graph(FinishedModel(tmp_path, model, processor, None), tmp_path)
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
        subprocess.run(
            [sys.executable, "-I", tmp_path / "views.py", tmp_path / "photo.png", tmp_path / "x.npy"], check=True
        )
        expected = client_pixels(tmp_path / "photo.png", processor).numpy()
        found = np.load(tmp_path / "x.npy")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[0], expected, atol=5e-6)  # a proof allows 1e-5
    assert "import natix_hf" not in (tmp_path / "views.py").read_text()


def test_stock_cannot_hold_tiles_and_says_what_can(tiled, tmp_path):
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=r"sees a photo and its 6 tiles, and .* --format merged .* or --format onnx"):
        export_run(tiled("top_k"), "stock", tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


def test_a_card_says_what_the_model_sees_and_how_a_client_cuts_a_photo(tmp_path):
    run = write_finished_run(tmp_path / "run", views="tiles", views_grid=[2, 3])
    text = card_of(run, model_id="me/streets", form="onnx")
    assert "224 x 224 pixels, once as a whole and once for each of 2 x 3 tiles" in text
    assert 'snapshot_download("me/streets")' in text
    assert "from views import pixel_values" in text
    whole = card_of(write_finished_run(tmp_path / "whole"), form="onnx")
    assert "tiles" not in whole
    assert "from views" not in whole
