"""Exports a finished run to a folder that clients load, in one of the forms of `modeling/exports`.

Every form holds the calibrated model (safetensors or ONNX), its image processor, `calibration.json`, and `export.json`
with its description and requirements. It never holds pickled files, checkpoints or predictions. The folder appears
only when it is complete. `proof.py` verifies that an export gives the same outputs as its run.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from natix_hf.decision.calibration import Calibration
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.export import Export
from natix_hf.errors import UserError
from natix_hf.files import check_new_folder, new_folder, read_json
from natix_hf.inference.classify import load_classifier
from natix_hf.inference.photo_size import calibrated_size, processor_at
from natix_hf.modeling.adapter_natix_dinov3 import fingerprint
from natix_hf.modeling.configuration_natix_dinov3 import NatixDinov3Config
from natix_hf.modeling.exports import FORMS
from natix_hf.modeling.exports.export_form import FinishedModel, chosen_form, labels_of
from natix_hf.photos.geometry import Geometry, Tiles


def export_run(
    run: str | Path,
    form: str,
    output: str | Path,
    *,
    image_size: Sequence[int] | None = None,
    force: bool = False,
    **options: Any,
) -> Export:
    """Export a finished run in one form.

    Args:
        run: the run folder; the caller checks that training has finished.
        form: one of `exports.FORMS`.
        output: a folder that does not exist or is empty.
        image_size, force: see `photo_size.processor_at`.
        options: fields of the form's dataclass: `dtype`, `base_output`, ...

    Raises:
        UserError: the run has no head, no calibration or duplicate labels; the form cannot hold the model; or the
            calibration is for another image size or for views that clients do not make.
    """
    run, chosen, output = Path(run), chosen_form(FORMS, form, **options), Path(output).expanduser()
    finished, other_size = open_run(run, image_size, force=force)
    check_new_folder(output, "--output")
    with new_folder(output) as stage:
        opset = chosen.write(finished, stage)
        for path in stage.rglob("*.safetensors"):
            path.chmod(0o644)  # safetensors makes them readable only for their owner
        shutil.copyfile(run / "calibration.json", stage / "calibration.json")
        fields = {"calibrated_at": calibrated_size(run)} if other_size else {}
        fields |= {"model": fingerprint(finished.model.state_dict())}
        return describe_export(finished, stage, form, options.get("dtype", "fp32"), opset=opset, **fields)


def open_run(
    run: Path, image_size: Sequence[int] | None = None, *, force: bool = False
) -> tuple[FinishedModel, str | None]:
    """The model of a run, and the reason why its calibration does not hold at `image_size` (None if it does).

    Raises:
        UserError: like `export_run`, except that the form is not checked.
    """
    model, processor = load_run(run)
    if views := (model.config.decision or {}).get("views"):
        raise UserError(
            f"{run}: its calibration was fitted on averages over views (--tta {','.join(views)}), but clients give "
            "the model one view: export the run that it was recalibrated from"
        )
    processor, other_size = processor_at(str(run), model, processor, image_size, force=force)
    return FinishedModel(run, model, processor, Geometry.of(processor)), other_size


def describe_export(
    finished: FinishedModel, folder: Path, form: str, dtype: str, *, model: str, opset: int | None, **more: Any
) -> Export:
    """Write `export.json` into a folder that is otherwise complete.

    Args:
        finished: the exported model.
        folder: the folder of the export.
        form, dtype: form and weight type of the export.
        model: fingerprint of the run's merged weights.
        opset: ONNX opset of a graph, else None.
        more: other fields of `Export`.
    """
    geometry = finished.geometry
    makers = ("natix_hf", "torch", "transformers", "peft", *(["onnxruntime"] if dtype == "int8" else []))
    document = Export(
        format=form,
        dtype=dtype,
        labels=labels_of(finished.model),
        image_size=geometry.image_size,
        resize=geometry.kind,
        **({"tiles": list(geometry.grid)} if isinstance(geometry, Tiles) else {}),
        parameters=sum(p.numel() for p in finished.model.parameters()),
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        model=model,
        opset=opset,
        needs=list(FORMS[form].needs),
        made_with={name: version(name) for name in makers},
        **more,
    )
    document.write(folder)
    return document


def load_run(run: Path) -> tuple[Any, Any]:
    """The merged, calibrated model of a run (fp32, eval mode) and its image processor.

    Raises:
        UserError: the run has no head, no calibration, a calibration that differs from the weights, or duplicate
            labels.
    """
    if not (run / "config.json").is_file():
        raise UserError(f"{run}: no config.json, so this run has no model: train it to the end")
    config = read_json(run / "config.json")
    if config.get("model_type") != NatixDinov3Config.model_type:
        raise UserError(
            f"{run}: config.json: expected model_type {NatixDinov3Config.model_type}, found {config.get('model_type')}"
            ": export the folder of a finished run"
        )
    labels = list(config["id2label"].values())
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UserError(
            f"{run}: two classes are called {twice[0]!r}, and a pipeline identifies classes by name: give each class "
            "a different name in id2label of config.json"
        )
    if not (run / "calibration.json").is_file():
        raise UserError(f"{run}: no calibration.json: run `python -m natix_hf.calibrate {run}` first")
    model, processor = load_classifier(str(run))
    calibration = Calibration.from_document(CalibrationFile.read(run))
    for name in ("temperature", "logit_bias"):
        expected, actual = getattr(calibration, name), getattr(model.head, name).double().numpy()
        if expected.shape != actual.shape or not np.allclose(actual, expected, rtol=1e-5, atol=1e-6):
            raise UserError(
                f"{run}: calibration.json says {name} {expected.tolist()}, but the weights hold {actual.tolist()}: "
                f"run `python -m natix_hf.calibrate {run}`, which writes both"
            )
    return model, processor
