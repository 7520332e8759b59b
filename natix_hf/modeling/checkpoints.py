"""Loads networks by the name of a checkpoint: DINOv3 in transformers' or timm's layout, or a run folder of ours.

Checkpoints come from a folder or the Hub. Only safetensors are read, and weights are returned in float32. A missing or
unexpected tensor is an error that names it, so a backbone with random weights is never trained by mistake.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel, PreTrainedModel
from transformers.integrations.hub_kernels import allow_all_hub_kernels

from natix_hf.errors import UserError, few
from natix_hf.files import only_a_path
from natix_hf.modeling import timm_keys
from natix_hf.modeling.configuration_natix_dinov3 import NatixDinov3Config
from natix_hf.modeling.image_processing_natix_dinov3 import NatixDinov3ImageProcessor
from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification, NatixDinov3Head

BUILTIN = {"builtin:demo-backbone": Path(__file__).parents[1] / "assets" / "demo-backbone"}
SETTINGS = ("config.json", "preprocessor_config.json")
WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def local_folder(name_or_path: str, files: Sequence[str] = SETTINGS, revision: str | None = None) -> Path:
    """The folder with a checkpoint's files; a Hub repository is downloaded to the Hub's cache if needed.

    Args:
        name_or_path: a folder, a Hub id, or `builtin:demo-backbone`.
        files: names or patterns of the files to download.
        revision: branch, tag or commit on the Hub.

    Raises:
        UserError: there is no such folder or repository, no access to it, or no network.
    """
    path = BUILTIN.get(name_or_path, Path(name_or_path).expanduser())
    if path.is_dir():
        return path
    where = f"model_name_or_path {name_or_path!r}"
    if path.exists():
        raise UserError(f"{where} is a file: give the folder that holds config.json and model.safetensors")
    if only_a_path(name_or_path) or name_or_path.startswith("builtin:"):
        raise UserError(f"{where}: no such file or folder: give a folder with config.json or a Hub id (owner/name)")
    page = f"{constants.ENDPOINT}/{name_or_path}"
    try:
        return Path(snapshot_download(name_or_path, revision=revision, allow_patterns=list(files)))
    except GatedRepoError:
        raise UserError(
            f"{where} is gated and you have no access to it: accept its licence at {page}, "
            "then run `hf auth login` or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise UserError(
            f"{where} has no revision {revision!r}: see the branches and tags at {page}/tree/main"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"{where}: neither a folder here nor a model on the Hub: check the spelling; "
            "for a private model run `hf auth login` or set HF_TOKEN"
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"{where}: no such folder here, not in the Hub's cache, and {constants.ENDPOINT} can't be reached "
            f"({type(error).__name__}): connect (and unset HF_HUB_OFFLINE), or give a local folder"
        ) from None


def base_place(name_or_path: str) -> str:
    """The name of a base in the configuration of an adapter: the absolute path of a folder, or the Hub id."""
    path = BUILTIN.get(name_or_path, Path(name_or_path).expanduser())
    return str(path.absolute()) if path.is_dir() else name_or_path


def read_config(name_or_path: str, revision: str | None = None) -> dict[str, Any]:
    """The checkpoint's `config.json`, checked to be one of a DINOv3 ViT.

    Raises:
        UserError: the file does not exist, cannot be read, or does not describe a DINOv3 ViT.
    """
    file = local_folder(name_or_path, SETTINGS, revision) / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"model_name_or_path {name_or_path!r} has no config.json: give a model folder") from None
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}): download the checkpoint again") from None
    kind = config.get("model_type", config.get("architecture", "unnamed"))
    known = kind in (DINOv3ViTConfig.model_type, NatixDinov3Config.model_type)
    if not known and not timm_keys.is_timm_dinov3(config):
        kind = config.get("architecture", kind)
        raise UserError(
            f"model_name_or_path {name_or_path!r} is of type {kind!r}, not a DINOv3 ViT: give a dinov3_vit checkpoint "
            "(facebook/dinov3-vit*), a timm one (timm/vit_*_patch16_dinov3*) or a run folder of natix_hf"
        )
    return config


def _weights_folder(name_or_path: str, revision: str | None) -> Path:
    folder = local_folder(name_or_path, (*SETTINGS, *WEIGHTS), revision)
    where = f"model_name_or_path {name_or_path!r}"
    if not any(folder.glob("model*.safetensors")):
        refuse_pickles(where, folder)
        raise UserError(
            f"{where}: expected model.safetensors, found no weights: give a folder or a Hub id that has them"
        )
    return folder


def refuse_pickles(where: str, folder: Path) -> None:
    """Raise `UserError` if the only weights in a folder are pickled; `where` names it in the message."""
    pickles = [file.name for pattern in PICKLES for file in folder.glob(pattern)]
    if pickles and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{where}: expected model.safetensors, found only pickled weights ({few(sorted(pickles))}), which can run "
            "code when read: convert the weights with `save_pretrained` on a machine where you trust the file"
        )


def _strictly(model_class: type[PreTrainedModel], name: str, path: Path | None, **kwargs: Any) -> PreTrainedModel:
    """`model_class.from_pretrained`, with an error if the tensors do not match exactly.

    Args:
        name: name of the checkpoint in error messages.
    """
    try:
        model, report = model_class.from_pretrained(
            path,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are reported and refused below, with missing and unexpected ones
            output_loading_info=True,
            **kwargs,
        )
    except (SafetensorError, EOFError) as error:
        raise UserError(f"{name}: model.safetensors can't be read ({error}): download the checkpoint again") from None
    faults = []
    for fault in ("missing", "unexpected", "mismatched"):
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report[f"{fault}_keys"])
        if keys:
            faults.append(f"{len(keys)} {fault} ({few(keys, 8)})")
    if faults:
        raise UserError(
            f"model_name_or_path {name!r}: its weights don't fit its config.json: {'; '.join(faults)}: "
            "take both files from the same checkpoint"
        )
    check_finite(f"model_name_or_path {name!r}", model)
    return model


def check_finite(where: str, model: torch.nn.Module) -> None:
    """Raise `UserError` if a weight is NaN or infinite, because then every output is NaN."""
    bad = {name: int((~p.isfinite()).sum()) for name, p in model.named_parameters() if not p.isfinite().all()}
    bad = {name: count for name, count in bad.items() if not name.endswith("mask_token")}
    if bad:
        name, count = next(iter(bad.items()))
        more = f" and {len(bad) - 1} other tensors" if len(bad) > 1 else ""
        raise UserError(
            f"{where}: its weights hold NaN or infinite values ({count} in {name}{more}): download the checkpoint "
            "again, or use one from before its training diverged"
        )


def load_backbone(
    name_or_path: str,
    *,
    attn_implementation: str = "sdpa",
    trust_remote_code: bool = False,
    revision: str | None = None,
    rope_augmentation: bool = False,
) -> DINOv3ViTModel:
    """A DINOv3 backbone in float32 and eval mode.

    Args:
        name_or_path: folder or Hub id of a DINOv3 ViT (transformers or timm) or of a run of ours, whose backbone is
            then used; or `builtin:demo-backbone`.
        attn_implementation: passed to transformers unchanged.
        trust_remote_code: also run attention kernels of the Hub from outside `kernels-community`.
        revision: branch, tag or commit on the Hub.
        rope_augmentation: keep the random rescaling of positions in train mode, which transformers applies even to a
            frozen backbone.

    Raises:
        UserError: the checkpoint does not exist, cannot be reached, is not a DINOv3, is pickled, or its tensors do not
            fit.
    """
    config = read_config(name_or_path, revision)
    folder = _weights_folder(name_or_path, revision)
    options = {"attn_implementation": attn_implementation, "allow_all_kernels": trust_remote_code}
    if config.get("model_type") == NatixDinov3Config.model_type:
        backbone = _strictly(NatixDinov3ForImageClassification, name_or_path, folder, **options).backbone
        _set_rope_noise(backbone.config, rope_augmentation)
        return backbone
    if timm_keys.is_timm_dinov3(config):
        weights = timm_keys.backbone_weights(
            {
                name: tensor
                for file in sorted(folder.glob("model*.safetensors"))
                for name, tensor in load_file(file).items()
            }
        )
        backbone_config = DINOv3ViTConfig(**timm_keys.backbone_config(config, weights))
        options["state_dict"], folder = weights, None
    else:
        backbone_config = DINOv3ViTConfig.from_dict(config)
    _set_rope_noise(backbone_config, rope_augmentation)
    return _strictly(DINOv3ViTModel, name_or_path, folder, config=backbone_config, **options)


def _set_rope_noise(config: DINOv3ViTConfig, wanted: bool) -> None:
    if not wanted:
        config.pos_embed_rescale = config.pos_embed_shift = config.pos_embed_jitter = None


def load_processor(name_or_path: str, geometry: Any, revision: str | None = None) -> DINOv3ViTImageProcessor:
    """The image processor for a geometry, with the mean and std of a checkpoint.

    Args:
        name_or_path, revision: as in `load_backbone`.
        geometry: its `processor_settings()` are saved with the processor, so a client's `pipeline` does the same.

    Raises:
        UserError: the checkpoint does not state the mean and std of its photos.
    """
    config = read_config(name_or_path, revision)
    # `pipeline` converts photos to RGB, but a direct call on a photo with transparency needs this.
    settings = geometry.processor_settings() | {"do_convert_rgb": True}
    kind = NatixDinov3ImageProcessor if "views_grid" in settings else DINOv3ViTImageProcessor
    if "pretrained_cfg" in config and timm_keys.is_timm_dinov3(config):  # a stock export has no pretrained_cfg
        source = config["pretrained_cfg"]
        return kind(**settings, image_mean=list(source["mean"]), image_std=list(source["std"]))
    folder = local_folder(name_or_path, SETTINGS, revision)
    if not (folder / "preprocessor_config.json").exists():
        raise UserError(
            f"model_name_or_path {name_or_path!r} has no preprocessor_config.json, so the mean and std of its photos "
            "are unknown: copy that file from the original checkpoint"
        )
    return kind.from_pretrained(folder, **settings)


def build_model(
    name_or_path: str,
    label_names: Sequence[str],
    *,
    pooling: str = "cls",
    feature_layers: int = 1,
    head: str = "linear",
    head_hidden_size: int | None = None,
    head_dropout: float = 0.0,
    views: dict[str, Any] | None = None,
    reuse_head: bool = False,
    attn_implementation: str = "sdpa",
    trust_remote_code: bool = False,
    revision: str | None = None,
    rope_augmentation: bool = False,
    seed: int = 0,
) -> NatixDinov3ForImageClassification:
    """An uncalibrated classifier for `label_names`. A run of ours keeps its head; any other checkpoint gets a new one.

    Args:
        name_or_path: as in `load_backbone`.
        label_names: one name per class id, in order.
        pooling, feature_layers, head, head_hidden_size, head_dropout, views: as in `NatixDinov3Config`.
        reuse_head: also keep a run's head if its classes have other names; class ids are kept.
        attn_implementation, trust_remote_code, revision, rope_augmentation: as in `load_backbone`.
        seed: seed for the weights of a new head; the global random state does not change.

    Raises:
        UserError: as in `load_backbone`, or a run's head does not fit the classes or the options.
    """
    options = {
        "pooling": pooling,
        "feature_layers": feature_layers,
        "head": head,
        "head_hidden_size": head_hidden_size,
        "views": views,
    }
    loading = {"attn_implementation": attn_implementation, "trust_remote_code": trust_remote_code}
    if read_config(name_or_path, revision).get("model_type") == NatixDinov3Config.model_type:
        folder = _weights_folder(name_or_path, revision)
        model = _continued(name_or_path, folder, list(label_names), options, reuse_head=reuse_head, **loading)
        model.config.head_dropout = head_dropout
        for dropout in (module for module in model.head.modules() if isinstance(module, torch.nn.Dropout)):
            dropout.p = head_dropout
        _set_rope_noise(model.config.backbone_config, rope_augmentation)
    else:
        backbone = load_backbone(name_or_path, revision=revision, rope_augmentation=rope_augmentation, **loading)
        try:
            config = NatixDinov3Config(
                backbone_config=backbone.config,
                id2label=dict(enumerate(label_names)),
                head_dropout=head_dropout,
                **options,
            )
        except ValueError as error:
            raise UserError(f"model options: {error}") from None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = on_backbone(backbone, config, **loading)
            model.head.reset_parameters()
    # peft saves this name as the base of an adapter.
    model.name_or_path = model.config.name_or_path = name_or_path
    return model.eval()


def on_backbone(
    backbone: DINOv3ViTModel,
    config: NatixDinov3Config,
    *,
    attn_implementation: str = "sdpa",
    trust_remote_code: bool = False,
) -> NatixDinov3ForImageClassification:
    """A classifier on a loaded backbone, with a head that the caller initialises; arguments as in `load_backbone`."""
    # The backbone made here is replaced below. On the meta device it takes no memory (3.4 GB for a ViT-H/16+).
    with torch.device("meta"), allow_all_hub_kernels() if trust_remote_code else nullcontext():
        model = NatixDinov3ForImageClassification._from_config(config, attn_implementation=attn_implementation)
    backbone.config.name_or_path = ""  # otherwise the path on this machine is saved with the model
    model.backbone = backbone
    model.backbone.embeddings.mask_token.requires_grad_(False)
    model.head = NatixDinov3Head(config)
    return model


def views_text(views: dict[str, Any] | None) -> str:
    """A description of the `views` of a model's configuration, for messages."""
    if views is None:
        return "the whole photo alone"
    how = f"top {views['top_k']}" if views["aggregate"] == "top_k" else views["aggregate"]
    return f"the whole photo and {views['tiles']} tiles ({how})"


def _continued(
    name: str,
    folder: Path,
    label_names: list[str],
    options: dict[str, Any],
    *,
    reuse_head: bool,
    attn_implementation: str,
    trust_remote_code: bool,
) -> NatixDinov3ForImageClassification:
    """A run's model with its head, for further training: classes named as in the data, calibration removed."""
    _check_continued(name, NatixDinov3Config.from_pretrained(folder), label_names, options, reuse_head)
    kernels = {"attn_implementation": attn_implementation, "allow_all_kernels": trust_remote_code}
    model = _strictly(NatixDinov3ForImageClassification, name, folder, **kernels)
    model.config.id2label = dict(enumerate(label_names))
    model.config.label2id = {label: index for index, label in enumerate(label_names)}
    model.set_calibration(1.0, 0.0)
    return model


def _check_continued(
    name: str, config: NatixDinov3Config, label_names: list[str], options: dict[str, Any], reuse_head: bool
) -> None:
    """Raise `UserError` if a run's head does not fit the classes of the data or the options of the recipe."""
    known = list(config.id2label.values())
    where = f"model_name_or_path {name!r}"
    if len(known) != len(label_names):
        raise UserError(
            f"{where}: the model has {len(known)} classes ({', '.join(known)}), the data has {len(label_names)} "
            f"({', '.join(label_names)}): use data with the model's classes, or start from a backbone"
        )
    if set(known) == set(label_names) and known != label_names:
        raise UserError(
            f"{where}: the model's classes are {', '.join(known)}, the data has them in another order "
            f"({', '.join(label_names)}): set label_names to the model's order (--label_names {' '.join(known)})"
        )
    if known != label_names and not reuse_head:
        pairs = ", ".join(f"{old} -> {new}" for old, new in zip(known, label_names) if old != new)
        raise UserError(
            f"{where}: the model's classes are {', '.join(known)}, the data's {', '.join(label_names)}: its head "
            f"would be used under other names ({pairs}): add --reuse_head true if you want that, give the data's "
            "classes the model's names, or start from a backbone"
        )
    if options["views"] != config.views:
        raise UserError(
            f"{where}: it was trained on {views_text(config.views)}, the recipe asks for "
            f"{views_text(options['views'])}: set views, views_grid, views_top_k and views_aggregate as in training, "
            "or start from a backbone"
        )
    for option, value in options.items():
        if value != getattr(config, option):
            raise UserError(
                f"{where}: it was trained with {option} {getattr(config, option)!r}, the recipe says {value!r}: "
                f"set {option} to {getattr(config, option)!r}, or start from a backbone"
            )
