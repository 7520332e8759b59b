"""A finished run as a folder that clients load: merged, adapter, stock or onnx.

Every form holds the calibrated model, its image processor, `calibration.json` and `export.json` (what it is and what
it needs), safetensors or ONNX, never a pickled file, a checkpoint or a prediction. The folder appears when it is
whole. This file knows the files of a run; that a form answers like the run is for `proof.py` to show.
"""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from natix_hf.decision.calibration import Calibration
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.export import Export
from natix_hf.errors import UserError
from natix_hf.files import check_new_folder, new_folder, read_json, write_json
from natix_hf.hub.adapter_export import write_adapter
from natix_hf.inference.classify import labels_of, load_classifier
from natix_hf.modeling.adapter_natix_dinov3 import fingerprint
from natix_hf.modeling.configuration_natix_dinov3 import NatixDinov3Config
from natix_hf.modeling.onnx_graph import export_onnx
from natix_hf.modeling.stock import stock_model
from natix_hf.photos.geometry import Geometry

# What a client installs beside torchvision, which the image processor needs.
NEEDS = {
    "merged": ["transformers>=5.23", "torch>=2.6", "natix_hf, or trust_remote_code=True"],
    "adapter": [
        "transformers>=5.23",
        "torch>=2.6",
        "peft",
        "natix_hf, or trust_remote_code=True and a base of our class",
    ],
    "stock": ["transformers>=4.56", "torch>=2.6", "timm>=1.0.22, with transformers 5 timm>=1.0.31"],
    "onnx": ["onnxruntime>=1.17"],
}
FORMATS = tuple(NEEDS)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MAX_SHARD_SIZE = "5GB"


def export_run(
    run: str | Path,
    form: str,
    output: str | Path,
    *,
    dtype: str = "fp32",
    max_shard_size: str = MAX_SHARD_SIZE,
    base_id: str | None = None,
    base_output: str | Path | None = None,
) -> Export:
    """Write one form of a finished run.

    Args:
        run: the folder; that its training is finished is the caller's to check.
        form: one of `FORMATS`.
        output: a folder that is absent or empty.
        dtype: how weights are stored, `fp32` or `bf16` (merged and stock; the head stays in fp32). Clients compute
            in fp32 either way.
        max_shard_size: weights are cut into files of at most this size.
        base_id: adapter: the Hub id under which the base is, or will be, found.
        base_output: adapter: also write the base, as a checkpoint of our class, into this folder.

    Raises:
        UserError: the run lacks a head, its calibration or distinct labels, or the form cannot hold the model.
    """
    run = Path(run)
    if form not in FORMATS:
        raise UserError(f"--format {form}: one of {', '.join(FORMATS)} expected")
    if dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: one of {', '.join(DTYPES)} expected")
    if dtype != "fp32" and form in ("adapter", "onnx"):
        raise UserError(f"--dtype {dtype}: --format {form} is written in fp32: leave it out")
    if form != "adapter" and (base_id or base_output):
        raise UserError(f"--base_id, --base_output: --format {form} holds all its weights: they go with adapter")
    model, processor = load_run(run)
    geometry, opset = Geometry.of(processor), None
    output = Path(output).expanduser()
    check_new_folder(output, "--output")
    with new_folder(output) as stage:
        if form == "merged":
            _store(model, model.head, stage, dtype, max_shard_size)
            processor.save_pretrained(stage)
        elif form == "stock":
            stock = stock_model(model)
            _store(stock, stock.timm_model.head, stage, dtype, max_shard_size)
            write_processor(processor, stage)
        elif form == "onnx":
            opset = export_onnx(model, stage / "model.onnx", geometry.shape[1:])
            write_json(stage / "labels.json", labels_of(model))
            if model.config.decision is not None:
                write_json(stage / "decision.json", model.config.decision)
            write_processor(processor, stage)
        else:
            write_adapter(run, model, processor, stage, base_id=base_id, base_output=base_output)
        for path in stage.rglob("*.safetensors"):
            path.chmod(0o644)  # safetensors makes them readable for their owner alone
        shutil.copyfile(run / "calibration.json", stage / "calibration.json")
        document = Export(
            format=form,
            dtype=dtype,
            labels=labels_of(model),
            image_size=geometry.side,
            resize=geometry.kind,
            parameters=sum(p.numel() for p in model.parameters()),
            bytes=sum(path.stat().st_size for path in stage.rglob("*") if path.is_file()),
            model=fingerprint(model.state_dict()),
            opset=opset,
            needs=NEEDS[form],
            made_with={name: version(name) for name in ("natix_hf", "torch", "transformers", "peft")},
        )
        document.write(stage)
    return document


def load_run(run: Path) -> tuple[Any, Any]:
    """The merged model of a run, calibrated, fp32, in eval mode, and its image processor.

    Raises:
        UserError: no head, no calibration or another one than in the weights, labels that are not distinct.
    """
    if not (run / "config.json").is_file():
        raise UserError(f"{run}: no config.json, so there is no model in this run: train it to the end")
    config = read_json(run / "config.json")
    if config.get("model_type") != NatixDinov3Config.model_type:
        raise UserError(
            f"{run}: config.json is of a {config.get('model_type')}, a backbone without a head of ours: export the "
            "folder of a finished run"
        )
    labels = list(config["id2label"].values())
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UserError(
            f"{run}: two classes are called {twice[0]!r}, and a pipeline tells classes apart by name: give each its "
            "own in id2label of config.json"
        )
    if not (run / "calibration.json").is_file():
        raise UserError(f"{run}: no calibration.json: run `python -m natix_hf.calibrate {run}` first")
    model, processor = load_classifier(str(run))
    calibration = Calibration.from_document(CalibrationFile.read(run))
    for name in ("temperature", "logit_bias"):
        expected, found = getattr(calibration, name), getattr(model.head, name).double().numpy()
        if expected.shape != found.shape or not np.allclose(found, expected, rtol=1e-5, atol=1e-6):
            raise UserError(
                f"{run}: calibration.json says {name} {expected.tolist()}, the weights hold {found.tolist()}: run "
                f"`python -m natix_hf.calibrate {run}`, which writes both"
            )
    return model, processor


def write_processor(processor: Any, folder: Path) -> None:
    """`preprocessor_config.json` under the one class name that transformers 4.56 and 5 both know."""
    processor.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    document = read_json(path)
    write_json(path, document | {"image_processor_type": "DINOv3ViTImageProcessorFast"})


def _store(model: Any, head: torch.nn.Module, folder: Path, dtype: str, max_shard_size: str) -> None:
    """`save_pretrained` with weights stored in `dtype`, the head in fp32, and the configuration asking for fp32."""
    state = model.state_dict()
    if dtype != "fp32":
        kept = {id(tensor) for tensor in (*head.parameters(), *head.buffers())}
        kept = {name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in kept}
        state = {name: tensor if name in kept else tensor.to(DTYPES[dtype]) for name, tensor in state.items()}
    try:
        model.save_pretrained(folder, state_dict=state, max_shard_size=max_shard_size)
    except ValueError as error:
        raise UserError(f"--max_shard_size {max_shard_size}: a size such as 5GB or 500MB expected ({error})") from None
