"""A run in four forms, loaded again in this process; what cannot be exported or loaded is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished_run import calibration_document
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

from natix_hf.documents.export import Export
from natix_hf.errors import UserError
from natix_hf.files import read_json, write_json
from natix_hf.hub.export_forms import export_run
from natix_hf.hub.proof import WITHOUT, prove
from natix_hf.inference.batches import client_pixels, logits_of
from natix_hf.inference.classify import load_classifier
from natix_hf.inference.geojson import model_fingerprint
from natix_hf.photos.geometry import Geometry, Squash
from natix_hf.scenes.photos import encode, scene

PHOTOS = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module", params=["s", "h_plus"])
def run(request, make_base, make_run, tmp_path_factory) -> Path:
    """A LoRA run on a backbone with a plain, or a gated, MLP."""
    folder = tmp_path_factory.mktemp(f"export-{request.param}")
    return make_run(folder / "run", make_base(folder / "base", request.param))


@pytest.fixture(scope="module")
def s_run(make_base, make_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    return make_run(folder / "run", make_base(folder / "base"))


def logits(folder: Path | str) -> np.ndarray:
    return logits_of(load_classifier(str(folder))[0], PHOTOS)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def copied(run: Path, target: Path, **config: Any) -> Path:
    shutil.copytree(run, target)
    if config:
        write_json(target / "config.json", read_json(target / "config.json") | config)
    return target


def test_merged_and_adapter_give_the_bits_of_the_run(run, tmp_path):
    expected = logits(run)
    merged = export_run(run, "merged", tmp_path / "merged", max_shard_size="60KB")
    assert len(list((tmp_path / "merged").glob("model-*.safetensors"))) > 1
    assert (logits(tmp_path / "merged") == expected).all()
    adapter = export_run(run, "adapter", tmp_path / "adapter", base_output=tmp_path / "base")
    assert (logits(tmp_path / "adapter") == expected).all()
    assert adapter.bytes < merged.bytes / 3
    # Without AutoModel's help, and as a fingerprint of the same weights.
    from natix_hf import NatixDinov3ForImageClassification

    direct = NatixDinov3ForImageClassification.from_pretrained(tmp_path / "adapter")
    assert model_fingerprint(direct) == merged.model == adapter.model
    for form in ("merged", "adapter"):
        Export.check(read_json(tmp_path / form / "export.json"))


def test_an_adapter_on_raw_dinov3_loads_after_importing_the_package(run, tmp_path):
    """As from the Hub: the base is looked for by its name, and transformers knows no classifier for it."""
    from natix_hf.modeling.adapter_natix_dinov3 import AdapterOnDinov3

    base = str(run.parent / "base")
    export_run(run, "adapter", tmp_path / "adapter", base_id=base)
    assert (logits(tmp_path / "adapter") == logits(run)).all()
    kwargs = {"adapter_kwargs": {"_adapter_model_path": str(tmp_path / "adapter")}}
    model = AdapterOnDinov3.from_pretrained(base, **kwargs)
    assert (logits_of(model, PHOTOS) == logits(run)).all()
    with pytest.raises(ValueError, match="a DINOv3 backbone without classes"):
        AutoModelForImageClassification.from_pretrained(base)


@pytest.mark.parametrize(
    ("lora", "head"),
    [
        ({"use_dora": True}, "mlp"),
        ({"use_doran": True, "doran_share": "block"}, "residual"),
        ({"lora_init": "pissa"}, "mlp"),
        ({"unfreeze_last_blocks": 1}, "mlp"),
    ],
)
def test_every_kind_of_adapter_gives_the_run_s_logits(lora, head, make_run, s_run, tmp_path):
    run = make_run(tmp_path / "run", s_run.parent / "base", lora=lora, pooling="cls_mean", head=head)
    export_run(run, "adapter", tmp_path / "adapter", base_output=tmp_path / "base")
    np.testing.assert_allclose(logits(tmp_path / "adapter"), logits(run), atol=2e-6)


def test_stock_gives_the_run_s_logits_and_its_pixels(run, tmp_path):
    pytest.importorskip("timm")
    export_run(run, "stock", tmp_path / "stock")
    model, processor = load_classifier(str(tmp_path / "stock"))
    assert type(model).__module__.startswith("transformers.")
    np.testing.assert_allclose(logits_of(model, PHOTOS), logits(run), atol=2e-6)
    assert type(processor).__name__ == "DINOv3ViTImageProcessor"
    assert not [name for name in names(tmp_path / "stock") if name.endswith(".py")]


def test_a_stock_export_can_be_trained_on(s_run, tmp_path):
    pytest.importorskip("timm")
    from natix_hf.modeling.checkpoints import build_model, load_processor

    export_run(s_run, "stock", tmp_path / "stock")
    model = build_model(str(tmp_path / "stock"), ["a", "b"])
    expected = load_classifier(str(s_run))[0].extract_features(PHOTOS)
    torch.testing.assert_close(model.extract_features(PHOTOS), expected, atol=2e-6, rtol=1e-5)
    assert load_processor(str(tmp_path / "stock"), Squash(48)).size["height"] == 48


@pytest.mark.parametrize("form", ["merged", "stock"])
def test_weights_stored_in_bf16_are_half_as_large_and_computed_with_in_fp32(form, s_run, tmp_path):
    pytest.importorskip("timm")
    export_run(s_run, form, tmp_path / "half", dtype="bf16")
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {t.dtype for name, t in stored.items() if "head" not in name} == {torch.bfloat16}
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "half").eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    rounded, _ = load_classifier(str(s_run))
    assert not np.array_equal(logits_of(model, PHOTOS), logits_of(rounded, PHOTOS))
    for name, tensor in rounded.state_dict().items():
        if not name.startswith("head."):
            tensor.copy_(tensor.bfloat16().float())
    np.testing.assert_allclose(logits_of(model, PHOTOS), logits_of(rounded, PHOTOS), atol=2e-6)


@pytest.mark.slow
def test_onnx_gives_the_run_s_logits_for_any_number_of_photos(s_run, tmp_path):
    pytest.importorskip("onnxruntime")
    document = export_run(s_run, "onnx", tmp_path / "onnx")
    import onnx

    graph = onnx.load(tmp_path / "onnx" / "model.onnx")
    assert {o.domain: o.version for o in graph.opset_import}[""] == document.opset == 20
    assert b"site-packages" not in (tmp_path / "onnx" / "model.onnx").read_bytes()  # no path of this machine
    assert read_json(tmp_path / "onnx" / "labels.json") == ["None", "Roadwork"]
    model, processor = load_classifier(str(tmp_path / "onnx"))
    reference, expected = load_classifier(str(s_run))
    assert {**processor.to_dict(), "image_processor_type": ""} == {**expected.to_dict(), "image_processor_type": ""}
    for count in (1, 2, 5):
        np.testing.assert_allclose(logits_of(model, PHOTOS[:count]), logits_of(reference, PHOTOS[:count]), atol=2e-6)
    assert model.config.id2label == {0: "None", 1: "Roadwork"}
    assert len(model_fingerprint(model)) == 32
    (client,) = prove(s_run, tmp_path / "onnx", photos=[encode(scene(5, 0, (160, 90)))], clients=(WITHOUT,)).clients[
        1:
    ]
    assert client.class_ == "onnxruntime"


@pytest.fixture(scope="module")
def wide_run(make_base, make_run, tmp_path_factory) -> Path:
    """A run that was trained on photos of 32 x 64 pixels, on a backbone of 32 x 32."""
    folder = tmp_path_factory.mktemp("wide")
    return make_run(folder / "run", make_base(folder / "base"), image_size=[32, 64])


@pytest.mark.parametrize("form", ["merged", "adapter", "stock", pytest.param("onnx", marks=pytest.mark.slow)])
def test_every_form_of_a_wide_run_sees_its_pixels_and_gives_its_logits(form, wide_run, tmp_path):
    pytest.importorskip({"stock": "timm", "onnx": "onnxruntime"}.get(form, "torch"))
    options = {"base_output": tmp_path / "base"} if form == "adapter" else {}
    document = export_run(wide_run, form, tmp_path / form, **options)
    assert Export.read(tmp_path / form).image_size == document.image_size == [32, 64]
    photos = [encode(scene(5, index, size)) for index, size in enumerate([(160, 90), (90, 160), (64, 32)])]
    (expected_model, expected_processor), (model, processor) = (
        load_classifier(str(folder)) for folder in (wide_run, tmp_path / form)
    )
    assert Geometry.of(processor) == Squash(32, 64)
    pixels = torch.stack([client_pixels(photo, expected_processor) for photo in photos])
    assert pixels.shape == (3, 3, 32, 64)
    assert torch.equal(torch.stack([client_pixels(photo, processor) for photo in photos]), pixels)
    expected = logits_of(expected_model, pixels)
    np.testing.assert_allclose(logits_of(model, pixels), expected, atol=2e-6)
    # The same photos squashed into a square are others to the model: width and height are not mixed up.
    assert np.abs(logits_of(expected_model, pixels.transpose(-1, -2)) - expected).max() > 1e-3


def test_nothing_of_this_machine_and_nothing_pickled_leaves_with_an_export(s_run, tmp_path):
    (s_run / "checkpoints").mkdir(exist_ok=True)
    (s_run / "checkpoints" / "training_args.bin").write_bytes(b"x")
    export_run(s_run, "merged", tmp_path / "merged")
    export_run(s_run, "adapter", tmp_path / "adapter", base_id="me/base", base_output=tmp_path / "base")
    code = {f"{name}_natix_dinov3.py" for name in ("adapter", "configuration", "modeling")}
    common = {"config.json", "preprocessor_config.json", "calibration.json", "export.json", *code}
    assert names(tmp_path / "merged") == common | {"model.safetensors"}
    assert names(tmp_path / "adapter") == common | {"adapter_config.json", "adapter_model.safetensors"}
    for folder in ("merged", "adapter", "base"):
        for name in names(tmp_path / folder):
            if name.endswith(".json"):
                text = (tmp_path / folder / name).read_text()
                assert str(tmp_path) not in text
                assert str(s_run.parent) not in text
    assert read_json(tmp_path / "adapter" / "adapter_config.json")["base_model_name_or_path"] == "me/base"


def refused(message: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        export_run(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_incomplete_runs_are_refused_in_one_line(s_run, make_run, tmp_path):
    out = tmp_path / "out"
    headless = copied(s_run, tmp_path / "headless", model_type="dinov3_vit")
    refused("expected model_type natix_dinov3, found dinov3_vit", headless, "merged", out)
    twice = copied(s_run, tmp_path / "twice", id2label={"0": "Roadwork", "1": "Roadwork"})
    refused("two classes are called 'Roadwork'", twice, "merged", out)
    raw = copied(s_run, tmp_path / "raw")
    (raw / "calibration.json").unlink()
    refused("no calibration.json: run `python -m natix_hf.calibrate", raw, "merged", out)
    other = copied(s_run, tmp_path / "other")
    write_json(other / "calibration.json", read_json(s_run / "calibration.json") | {"temperature": [2.0, 2.0]})
    refused("calibration.json says temperature", other, "merged", out)
    interrupted = copied(s_run, tmp_path / "interrupted")
    write_json(interrupted / "run.json", {"version": 2, "status": "training"})
    refused("not finished", interrupted, "merged", out)
    probe = make_run(tmp_path / "probe", s_run.parent / "base", method="probe")
    refused("only LoRA runs have one", probe, "adapter", out)
    concatenated = make_run(tmp_path / "both", s_run.parent / "base", pooling="cls_mean")
    refused("cannot hold this model: pooling cls_mean.*--format merged", concatenated, "stock", out)
    assert not out.exists()


def test_options_that_do_not_fit_are_refused_in_a_line(s_run, tmp_path):
    out = tmp_path / "out"
    refused("expected one of merged, adapter, stock, onnx", s_run, "gguf", out)
    refused("fp32", s_run, "merged", out, dtype="int4")
    refused("expected fp32 or int8 with --format onnx, found bf16", s_run, "onnx", out, dtype="bf16")
    refused("leave it out, or use --format adapter", s_run, "stock", out, base_id="me/base")
    refused("does not cut its weights", s_run, "adapter", out, max_shard_size="1MB")
    refused("a size such as 5GB", s_run, "merged", out, max_shard_size="much")
    refused("not a Hub repository, so clients cannot find it: add --base_output", s_run, "adapter", out)
    assert not any(path.name.startswith((".", "out")) for path in tmp_path.iterdir())
    out.mkdir()
    (out / "x").write_text("")
    refused("exists and is not empty", s_run, "merged", out)


def test_an_adapter_whose_base_has_changed_is_refused(make_base, make_run, tmp_path):
    base = make_base(tmp_path / "base")
    run = make_run(tmp_path / "run", base)
    export_run(run, "adapter", tmp_path / "adapter", base_id=str(base))
    weights = load_file(base / "model.safetensors")
    weights["layer.1.mlp.up_proj.weight"] += 0.01
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"expected the fingerprint \w+, found \w+, because the adapter"):
        load_classifier(str(tmp_path / "adapter"))
    refused("its base has changed since training", run, "adapter", tmp_path / "again", base_id=str(base))


def test_pickled_weights_are_refused(s_run, tmp_path):
    pickled = copied(s_run, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"only pickled weights \(pytorch_model\.bin\)"):
        load_classifier(str(pickled))
    refused("only pickled weights", pickled, "merged", tmp_path / "out")
    export_run(s_run, "adapter", tmp_path / "adapter", base_output=tmp_path / "base")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(UserError, match="only pickled weights"):
        load_classifier(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match="pickled weights are not read"):
        AutoModelForImageClassification.from_pretrained(tmp_path / "adapter")


def test_the_order_of_classes_survives_more_than_ten_of_them(tmp_path, s_run, make_run, monkeypatch):
    """JSON sorts "10" before "2"."""
    pytest.importorskip("timm")
    labels = [f"class {i}" for i in range(12)]
    run = copied(s_run, tmp_path / "run")
    weights = load_file(run / "model.safetensors")
    weights["head.linear.weight"] = torch.randn(12, 32)
    weights["head.linear.bias"] = torch.randn(12)
    weights["head.temperature"], weights["head.logit_bias"] = torch.ones(12), torch.zeros(12)
    save_file(weights, run / "model.safetensors", metadata={"format": "pt"})
    config = read_json(run / "config.json")
    config |= {"id2label": {str(i): label for i, label in enumerate(labels)}, "temperature": None, "logit_bias": None}
    config |= {"label2id": {label: i for i, label in enumerate(labels)}}
    (run / "config.json").write_text(json.dumps(config, sort_keys=True))
    write_json(run / "calibration.json", calibration_document(12, calibrator="none", temperature=[1.0] * 12))
    for form in ("merged", "stock"):
        assert export_run(run, form, tmp_path / form).labels == labels
        model, _ = load_classifier(str(tmp_path / form))
        assert [model.config.id2label[i] for i in range(12)] == labels
        np.testing.assert_allclose(logits_of(model, PHOTOS), logits(run), atol=5e-6)
