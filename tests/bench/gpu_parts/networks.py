"""Random DINOv3 classifiers of the published shapes, made on the device, and trainers for them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor

from natix_hf import NatixTrainer, NatixTrainingArguments, load_photos
from natix_hf.inference.load_model import tile_views
from natix_hf.modeling.adapters import add_lora, freeze_for_probe
from natix_hf.modeling.configuration_natix_dinov3 import NatixDinov3Config
from natix_hf.modeling.image_processing_natix_dinov3 import NatixDinov3ImageProcessor
from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification
from natix_hf.photos.geometry import Geometry, Squash
from natix_hf.scenes.photos import LABELS

from .place import Place

GATED = {"use_gated_mlp": True, "hidden_act": "silu"}
SHAPES: dict[str, dict[str, Any]] = {
    "ViT-S": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536},
    "ViT-L": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "ViT-H+": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "intermediate_size": 5120,
        **GATED,
    },
}
TINY = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 1, "intermediate_size": 128}


def backbone_config(place: Place, shape: str) -> DINOv3ViTConfig:
    """Of `shape`, or of a tiny model with the same kind of MLP."""
    sizes = SHAPES[shape]
    if place.tiny:
        sizes = {**sizes, **TINY}
    return DINOv3ViTConfig(**sizes, num_register_tokens=4, pos_embed_rescale=None)


def network(
    place: Place,
    shape: str,
    geometry: Geometry,
    *,
    method: str = "lora",
    attention: str = "sdpa",
    lora: dict[str, Any] | None = None,
) -> torch.nn.Module:
    """A classifier with random weights in float32, ready to train."""
    torch.manual_seed(0)
    names, views = dict(enumerate(LABELS)), tile_views(geometry, 2, "top_k")
    config = NatixDinov3Config(backbone_config=backbone_config(place, shape), id2label=names, views=views)
    with torch.device(place.device):
        model = NatixDinov3ForImageClassification._from_config(config, attn_implementation=attention)
    model.backbone.embeddings.mask_token.requires_grad_(False)
    model.name_or_path = model.config.name_or_path = f"random {shape}"
    if method == "probe":
        freeze_for_probe(model)
    return add_lora(model, **(lora or {})) if method == "lora" else model


def processor_of(geometry: Geometry) -> DINOv3ViTImageProcessor:
    """The image processor that sees a photo as the geometry says."""
    settings = geometry.processor_settings() | {"do_convert_rgb": True}
    return (NatixDinov3ImageProcessor if "views_grid" in settings else DINOv3ViTImageProcessor)(**settings)


@lru_cache(maxsize=1)
def splits_of(place: Place) -> Any:
    """The drawn photos in four splits."""
    return load_photos(place.photos, group_column=["group"])


class InMemory(Dataset):
    """Views without chance as training gets them: item `(epoch, i)` is uint8 pixels and a label."""

    def __init__(self, views: torch.Tensor) -> None:
        self.views = views  # (photos, [views,] 3, H, W)

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return {"pixel_values": self.views[key[1]], "labels": key[1] % 2, "seed": 0}


def trainer_for(
    place: Place,
    model: torch.nn.Module,
    geometry: Geometry | None = None,
    *,
    views: torch.Tensor | None = None,
    callbacks: Sequence[Any] = (),
    speed: dict[str, Any] | None = None,
    augment: str = "basic",
    **arguments: Any,
) -> NatixTrainer:
    """A trainer in bf16 that neither scores nor saves.

    Args:
        views: what it trains on in place of the drawn photos, in memory.
        speed: `cache_dir`, `prefix_cache_gb`, ... of `NatixTrainer`.
        arguments: of `NatixTrainingArguments`.
    """
    settings = {"eval_strategy": "no", "save_strategy": "no", "logging_steps": 1000, "bf16": True}
    settings |= {"disable_tqdm": True, "use_cpu": place.device == "cpu", "dataloader_num_workers": place.workers}
    args = NatixTrainingArguments(output_dir=str(place.folder / "run"), **settings | arguments)
    trainer = NatixTrainer(
        model,
        args,
        splits=splits_of(place),
        processing_class=processor_of(geometry or Squash(place.side)),
        callbacks=list(callbacks),
        augment=augment,
        **{"cache_dir": place.folder / "cache", **(speed or {})},
    )
    if views is not None:
        trainer.train_dataset = InMemory(views)
        trainer.sampler.count = len(views)
    return trainer
