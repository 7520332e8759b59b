"""Saves the model of a run as it is published: the trained weights with the calibration in the head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from natix_hf.documents.calibration import CalibrationFile
from natix_hf.files import read_json, replacing, staging, write_json
from natix_hf.runs.calibrate_run import carried
from natix_hf.runs.steps import ASSEMBLE, carried_out

if TYPE_CHECKING:
    from natix_hf.training.trainer import NatixTrainer


def save_model(trainer: NatixTrainer, run: Path, calibration: CalibrationFile) -> None:
    """Save the adapter (LoRA), the merged model with its code and image processor, and its cost per photo.

    The trainer keeps the merged model. The cost of a sharded model is not measured, because this needs all processes.

    Args:
        trainer: after training.
        run: the run folder.
        calibration: calibration of the run.
    """
    from peft import PeftModel

    from natix_hf.inference.photo_cost import photo_cost
    from natix_hf.modeling.adapters import merge_lora, save_adapter
    from natix_hf.modeling.checkpoints import base_place
    from natix_hf.modeling.exports.adapter_folder import describe_adapter

    model = trainer.accelerator.unwrap_model(trainer.model)
    plain = trainer.plain_model()
    plain.set_calibration(**carried(calibration)._asdict())
    with carried_out(run, ASSEMBLE, purpose=trainer.splits.purpose), staging(run) as stage:
        if isinstance(model, PeftModel):
            for config in model.peft_config.values():
                # May be a path on this machine; an export has its own name for the base
                # (modeling/exports/adapter_folder.py).
                config.base_model_name_or_path = base_place(config.base_model_name_or_path)
            save_adapter(model, stage / "adapter")
            (stage / "adapter" / "README.md").unlink(missing_ok=True)  # peft's empty card; the run's own is beside it
            base, plain = model.base_fingerprint, merge_lora(model)
            if base is not None:
                describe_adapter(plain, trainer.processing_class, base, stage / "adapter")
            trainer.model = trainer.model_wrapped = plain
        plain.save_pretrained(stage)
        if not trainer.is_fsdp_enabled:
            photo_cost(plain, trainer.processing_class).write(stage)
        trainer.processing_class.save_pretrained(stage)
        for path in stage.rglob("*.safetensors"):
            path.chmod(0o644)  # safetensors makes files that only their owner can read


def recalibrate_weights(run: Path, calibration: CalibrationFile) -> None:
    """Write another calibration into the saved model of a finished run, without loading the model."""
    with carried_out(run, ASSEMBLE):
        write_into_weights(run, calibration)


def write_into_weights(folder: Path, calibration: CalibrationFile, views: Sequence[str] = ()) -> None:
    """Write a calibration into the heads (of model and adapter) and the configs of a saved model, without loading it.

    Args:
        folder: folder of the model.
        calibration: the new calibration.
        views: the views whose averaged logits it was fitted on.
    """
    import torch
    from safetensors.torch import load_file, save_file

    config, whole = read_json(folder / "config.json"), carried(calibration, views).entries()
    # float32, as the head holds them
    values = {name: torch.tensor(whole[name]).tolist() for name in ("temperature", "logit_bias")}
    for path in [*folder.glob("*.safetensors"), *(folder / "adapter").glob("*.safetensors")]:
        tensors = load_file(path)
        names = {name: tensors[name] for name in tensors if name.rpartition(".")[2] in values and "head" in name}
        if names:
            for name, old in names.items():
                tensors[name] = torch.tensor(values[name.rpartition(".")[2]], dtype=old.dtype)
            with replacing(path) as temporary:
                save_file(tensors, temporary, metadata={"format": "pt"})
                temporary.chmod(0o644)
    config.pop("views_exit", None)  # of the previous calibration
    write_json(folder / "config.json", {**config, **whole, **values})
    adapter = folder / "adapter" / "config.json"
    if adapter.is_file():
        config = read_json(adapter)
        config.pop("views_exit", None)
        write_json(adapter, {**config, **whole, **values})
