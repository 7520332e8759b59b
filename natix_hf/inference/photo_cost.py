"""Measures the cost of one photo: views, tokens, operations and seconds."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from PIL import Image

from natix_hf.documents.photo_cost import PhotoCost
from natix_hf.inference.batches import logits_of, pixels_of
from natix_hf.inference.measured_pace import photo_rate
from natix_hf.inference.pass_costs import operations
from natix_hf.modeling.evaluation_mode import evaluating
from natix_hf.modeling.packed_linear import packed_linears
from natix_hf.photos.geometry import Geometry

GPU_BATCH = 16  # photos; on a CPU a batch gives no gain


def photo_cost(model: torch.nn.Module, processor: Any) -> PhotoCost:
    """Count and time one plain picture with all its views; without early exits every photo costs the same.

    Args:
        model: the served model on its device; its mode does not change.
        processor: its image processor, which sets the number and size of the views.
    """
    geometry, backbone = Geometry.of(processor), model.config.backbone_config
    views, _, height, width = geometry.shape
    photo = pixels_of(Image.new("RGB", (width, height)), processor)[None]
    device = next(model.parameters()).device
    exits, model.early_exits = model.early_exits, False
    batch = 1 if device.type == "cpu" else GPU_BATCH
    with evaluating(model):
        with operations() as counter:
            logits_of(model, photo)
        with packed_linears(model):  # as `predict` runs it
            rate = photo_rate(partial(logits_of, model), photo, batch)
    model.early_exits = exits
    return PhotoCost(
        views=views,
        height=height,
        width=width,
        tokens=geometry.tokens(backbone.patch_size, beside=1 + backbone.num_register_tokens),
        flop=counter.get_total_flops(),
        seconds=round(1 / rate, 6),
        batch=batch,
        device=device_name(device),
    )


def device_name(device: torch.device) -> str:
    """The device of a timing: the GPU's name, or the number of CPU threads."""
    return torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
