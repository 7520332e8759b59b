"""Writes the export format `adapter` of a LoRA run: adapter, head and configuration, and on request their base.

A client loads the adapter, and transformers finds the base by the name in `adapter_config.json`. That name must lead
to weights that `AutoModelForImageClassification` accepts: raw DINOv3 after `import natix_hf`, otherwise a base of our
class, which `--base_output` writes. The adapter's `config.json` holds the fingerprint of the base, which is checked
when the adapter is loaded.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers.dynamic_module_utils import custom_object_save

from natix_hf.errors import UserError
from natix_hf.files import check_new_folder, hub_id, new_folder, read_json, read_recipe, write_json
from natix_hf.modeling.adapter_natix_dinov3 import fingerprint
from natix_hf.modeling.adapters import load_adapter, merge_lora
from natix_hf.modeling.checkpoints import (
    SETTINGS,
    WEIGHTS,
    load_backbone,
    load_processor,
    local_folder,
    on_backbone,
    read_config,
)
from natix_hf.modeling.exports.export_form import FinishedModel
from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification

# Two machines round a merged weight differently in its last bits; another base differs far more.
SAME = {"rtol": 1e-3, "atol": 1e-5}


def write_adapter(
    finished: FinishedModel, folder: Path, *, base_id: str | None = None, base_output: str | Path | None = None
) -> None:
    """Write the adapter of a run to `folder`, and its base to `base_output`.

    Args:
        finished: a LoRA run.
        base_id: the base's id on the Hub.
        base_output: folder for the base as a checkpoint of our class; None to write no base.

    Raises:
        UserError: the run has no adapter, its base cannot be loaded or has changed, or clients could not find the
            base.
    """
    run, model, processor, geometry = finished
    if not (run / "adapter" / "adapter_config.json").is_file():
        raise UserError(f"{run}: no adapter/ folder, because only LoRA runs have one: use --format merged or stock")
    recipe = read_recipe(run)
    adapter = read_json(run / "adapter" / "adapter_config.json")
    name = recipe.get("model_name_or_path") or adapter["base_model_name_or_path"]
    revision = recipe.get("model_revision")
    base_name = base_id or (str(Path(base_output).expanduser().absolute()) if base_output else None)
    if base_name is None:
        base_name = _raw_hub_base(name, revision, geometry)
    base = _base(model, name, revision)
    base_fingerprint = fingerprint(base.backbone.state_dict())
    if base_output:
        _write_base(base, processor, base_output)
    _check_base(run, model, base)

    describe_adapter(model, processor, base_fingerprint, folder)
    shutil.copyfile(run / "adapter" / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", adapter | {"base_model_name_or_path": base_name, "revision": None})


def describe_adapter(model: NatixDinov3ForImageClassification, processor: Any, base: str, folder: str | Path) -> None:
    """Write the files that turn an adapter and its base into a model.

    These are the configuration with the calibration, the image processor, and the code for `trust_remote_code`.

    Args:
        base: fingerprint of the backbone that the adapter was trained on.
        folder: folder of the adapter.
    """
    config = copy.deepcopy(model.config)
    config.adapter_base, config.merged_adapter = base, None
    custom_object_save(model, folder, config=config)  # the code, for trust_remote_code
    config.save_pretrained(folder)
    processor.save_pretrained(folder)


def base_folder(adapter: str | Path) -> Path:
    """The folder of an exported adapter's base, downloaded from the Hub if needed.

    Raises:
        UserError: the base does not exist or cannot be downloaded.
    """
    name = read_json(Path(adapter) / "adapter_config.json")["base_model_name_or_path"]
    return local_folder(name, (*SETTINGS, *WEIGHTS))


def _raw_hub_base(name: str, revision: str | None, geometry: Any) -> str:
    """The Hub id of the run's base; raises `UserError` if clients cannot use that repository unchanged."""
    way = "add --base_output FOLDER (and --base_id OWNER/NAME, the Hub id under which you push that folder)"
    if hub_id(name) is None:
        raise UserError(f"--format adapter: the base {name} is not a Hub repository, so clients cannot find it: {way}")
    if "model_type" not in read_config(name, revision):
        raise UserError(
            f"--format adapter: the base {name} is in timm's layout, onto which clients cannot load an adapter: {way}"
        )
    # A pipeline takes the image processor from the base's repository.
    ours = load_processor(name, geometry, revision)
    theirs = type(ours).from_pretrained(name, revision=revision)
    if theirs.to_dict() != ours.to_dict():
        raise UserError(
            f"--format adapter: the image processor at {name} does not prepare photos as this run does ({geometry}), "
            f"and a pipeline would use that one: {way}"
        )
    return name


def _base(
    model: NatixDinov3ForImageClassification, name: str, revision: str | None
) -> NatixDinov3ForImageClassification:
    """The run's base as a model of our class: backbone, a head of zeros with the run's shapes, no calibration."""
    backbone = load_backbone(name, revision=revision)
    config = copy.deepcopy(model.config)
    config.temperature = config.logit_bias = config.isotonic = config.decision = None
    config.views_exit = config.merged_adapter = None
    base = on_backbone(backbone, config)
    for parameter in base.head.parameters():
        torch.nn.init.zeros_(parameter)
    return base.eval()


def _write_base(base: NatixDinov3ForImageClassification, processor: Any, output: str | Path) -> None:
    output = Path(output).expanduser()
    check_new_folder(output, "--base_output")
    with new_folder(output) as stage:
        base.save_pretrained(stage)
        processor.save_pretrained(stage)
        for path in stage.glob("*.safetensors"):
            path.chmod(0o644)


def _check_base(run: Path, model: NatixDinov3ForImageClassification, base: NatixDinov3ForImageClassification) -> None:
    """Raise `UserError` unless base and adapter give the run's weights; the adapter is merged into `base`."""
    merged = merge_lora(load_adapter(base, run / "adapter")).state_dict()
    for name, expected in model.state_dict().items():
        if not name.endswith("mask_token") and not torch.allclose(merged[name], expected, **SAME):
            raise UserError(
                f"{run}: its base has changed since training: with the adapter it does not give the run's {name}: "
                "restore the base, or use --format merged"
            )
