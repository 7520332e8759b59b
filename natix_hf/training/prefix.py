"""Computes the frozen part of a backbone once and caches its output, the token activations at the cut.

With adapters in the last k blocks only, the blocks below them give the same activations for the same pixels in every
epoch. So each photo gets a fixed number of augmented views, their activations at the cut are cached on disk, and a
training step runs the last blocks only. Evaluation during training does the same with the photo as prepared for
inference; predictions after training run the whole model. `inference.feature_store` stores the records.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from natix_hf.errors import UserError
from natix_hf.inference.augment import view_seed
from natix_hf.inference.batches import Example, client_pixels
from natix_hf.inference.feature_store import FeatureStore, Record
from natix_hf.inference.features import FixedView, digest_of, kept_records
from natix_hf.inference.pass_costs import Passes
from natix_hf.modeling.adapters import plain_model
from natix_hf.modeling.evaluation_mode import evaluating
from natix_hf.photos.geometry import Geometry

SHARD_BYTES = 32_000_000
LISTS = 1.1  # factor for names, checksums and file headers, which matter for small records
MOST_VIEWS = 8  # per photo, unless the recipe sets the number
PRECISIONS = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.int16)}  # numpy has no bfloat16: store its bits


@dataclass(frozen=True)
class PrefixPlan:
    """What the prefix cache holds.

    Args:
        blocks: k, the number of last blocks, which run in every step.
        views: augmented views of each training photo.
        precision: `float32` or `bfloat16`.
        gigabytes: total size in 10^9 bytes.
    """

    blocks: int
    views: int
    precision: str
    gigabytes: float

    def line(self, budget_gb: float) -> str:
        """One line on the plan."""
        return (
            f"prefix cache: activations below the last {self.blocks} blocks, {self.views} fixed "
            f"view{'s' * (self.views > 1)} per photo, {self.precision}, {self.gigabytes:.2g} of {budget_gb:g} GB"
        )


def trained_blocks(model: Any) -> int:
    """Number of last blocks that contain all trained weights of the backbone; 0 if it is frozen.

    Raises:
        UserError: the embeddings, below all blocks, are trained.
    """
    plain = plain_model(model)
    layers = plain.config.backbone_config.num_hidden_layers
    first = layers
    for name, parameter in plain.backbone.named_parameters():
        if not parameter.requires_grad:
            continue
        if (block := _block(name)) >= 0:
            first = min(first, block)
        elif "embeddings" in name.split("."):
            raise UserError(
                "prefix_cache_gb: the embeddings are trained, so no activations can be cached: leave it out with "
                "--prefix_cache_gb null"
            )
    return layers - first


def plan_prefix(
    budget_gb: float,
    *,
    blocks: int,
    layers: int,
    values: int,
    photos: int,
    scored: int,
    epochs: float,
    views: int = 0,
    augmented: bool = True,
) -> PrefixPlan:
    """Choose the number of views and the precision.

    One view per epoch (at most `MOST_VIEWS`), or the number in the recipe; in fp32 if this fits the budget, else in
    bf16, else fewer views in bf16.

    Args:
        budget_gb: size limit in 10^9 bytes.
        blocks: number of last blocks that are trained.
        layers: number of blocks of the backbone.
        values: numbers in the activations of one view, tokens x width.
        photos: training photos.
        scored: photos of the evaluation during training, one view each.
        epochs: of the training.
        views: number of views in the recipe; 0 lets this function choose.
        augmented: False if all views of a photo are the same.

    Raises:
        UserError: no block is frozen, or the views do not fit the budget in bf16.
    """
    if blocks >= layers:
        raise UserError(
            f"prefix_cache_gb: all {layers} blocks are trained, so no activations can be cached: add, for example, "
            f"--lora_last_blocks {max(1, layers // 2)}, or leave it out with --prefix_cache_gb null"
        )
    wanted = views or (min(MOST_VIEWS, math.ceil(epochs)) if augmented else 1)

    def size(count: int, precision: str) -> float:
        return (count * photos + scored) * values * PRECISIONS[precision].itemsize / 1e9

    for precision in PRECISIONS:
        if size(wanted, precision) <= budget_gb:
            return PrefixPlan(blocks, wanted, precision, size(wanted, precision))
    fewer = int((budget_gb * 1e9 / (2 * values) - scored) / photos)
    if views or fewer < 1:
        least = views or 1
        raise UserError(
            f"prefix_cache_gb: expected at least {size(least, 'bfloat16'):.2g}, found {budget_gb:g}, "
            f"for {least} view(s) of {photos} photos in bf16 and {scored} evaluation photos"
        )
    return PrefixPlan(blocks, fewer, "bfloat16", size(fewer, "bfloat16"))


def prefix_states(model: Any, pixel_values: torch.Tensor, blocks: int) -> torch.Tensor:
    """Token activations `(batch, tokens, hidden)` below the last `blocks` blocks, which do not run."""
    backbone = model.backbone
    states = backbone.embeddings(pixel_values)
    positions = backbone.rope_embeddings(pixel_values)
    layers = backbone.model.layer
    for layer in layers[: len(layers) - blocks]:
        states = layer(states, position_embeddings=positions)
    return states


def _block(name: str) -> int:
    """Number of the block that a backbone tensor belongs to; -1 if it is in no block."""
    parts = name.split(".")
    return int(parts[parts.index("layer") + 1]) if "layer" in parts else -1


def _key(model: Any, processor: Any, plan: PrefixPlan, view: FixedView | None) -> str:
    """Hash (hex) of the weights below the cut, the preprocessing, the view and the precision."""
    cut = len(model.backbone.model.layer) - plan.blocks
    weights = model.backbone.state_dict()
    digest = digest_of({n: t for n, t in weights.items() if not n.startswith("norm") and _block(n) < cut})
    facts = {"cut": cut, "backbone": model.config.backbone_config.to_dict(), "processor": processor.to_dict()}
    digest.update(json.dumps([facts, view, plan.precision], sort_keys=True, default=str).encode())
    return digest.hexdigest()


class PrefixRows(Dataset):
    """Cached activations: item `i` or `(epoch, i)` is `{"prefix_states": (tokens, hidden) float32, "labels": int}`.

    Args:
        records: for each view, the records of all rows; epoch `e` reads view `e % len(records)`.
        labels: `(rows,)` class ids.
        precision: a key of `PRECISIONS`.
        seeds: `(run seed, row ids)` for training rows; their items then have a `seed`, as training views do.
    """

    def __init__(
        self,
        records: Sequence[list[Record]],
        labels: list[int],
        *,
        precision: str,
        seeds: tuple[int, list[str]] | None = None,
    ) -> None:
        self.views, self.labels, self.precision, self.seeds = list(records), labels, precision, seeds

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int | tuple[int, int]) -> Example:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        number = epoch % len(self.views)
        shard, row = self.views[number][index]
        states = torch.from_numpy(np.array(shard[row]))
        if self.precision == "bfloat16":
            states = states.view(torch.bfloat16).float()
        item = {"prefix_states": states, "labels": self.labels[index]}
        if self.seeds is not None:
            item["seed"] = view_seed(self.seeds[0], number, self.seeds[1][index])
        return item


def prefix_rows(
    model: Any,
    rows: Any,
    processor: Any,
    plan: PrefixPlan,
    *,
    views: Sequence[FixedView | None],
    cache_dir: Path,
    seeds: tuple[int, list[str]] | None = None,
    batch_size: int = 16,
    num_workers: int = 0,
    budget_gb: float | None = None,
    passes: Passes | None = None,
) -> PrefixRows:
    """The activations of every photo in every view; computes those that are not cached yet.

    Args:
        model: the classifier, wrapped for LoRA or not.
        rows: with `id`, `image`, `label`, `fingerprint`.
        views: None is the photo as prepared for inference.
        seeds: see `PrefixRows`.
        budget_gb: size limit of the cache over all runs; the least recently used activations are removed.
        passes: adds up the cost of the passes.
    """
    plain = plain_model(model)
    config = plain.config.backbone_config
    tokens = Geometry.of(processor).tokens(config.patch_size, beside=1 + config.num_register_tokens)
    dtype, passes = PRECISIONS[plan.precision], passes or Passes()

    def compute(pixels: torch.Tensor) -> np.ndarray:
        states = prefix_states(plain, pixels, plan.blocks).float()
        if plan.precision == "bfloat16":
            states = states.bfloat16().view(torch.int16)
        return states.cpu().numpy()

    records = []
    for view in views:
        store = FeatureStore(
            cache_dir,
            _key(plain, processor, plan, view),
            shape=(tokens, config.hidden_size),
            dtype=dtype,
            kind="prefixes",
            budget_gb=budget_gb and max(budget_gb, LISTS * plan.gigabytes),
            budget_name="prefix_cache_gb",
            ours=passes.shards,
        )
        of_view = kept_records(
            plain,
            rows,
            processor,
            store,
            compute,
            view=view,
            shard_rows=max(1, SHARD_BYTES // (tokens * config.hidden_size * dtype.itemsize)),
            batch_size=batch_size,
            num_workers=num_workers,
            what="activations at the cut",
            passes=passes,
        )
        records.append(of_view)
    return PrefixRows(records, rows["label"][:], precision=plan.precision, seeds=seeds)


@torch.inference_mode()
def prefix_drift(model: Any, rows: Any, processor: Any, blocks: int, photos: int = 16) -> float:
    """Relative change of the features if the activations at the cut are rounded to bf16.

    Returns:
        root mean square of the change, divided by that of the features around their mean, on the first photos.
    """
    plain = plain_model(model)
    device = next(plain.parameters()).device
    with evaluating(plain):
        few = rows.select(range(min(photos, len(rows))))
        pixels = torch.stack([client_pixels(row["image"], processor) for row in few]).to(device)
        states = prefix_states(plain, pixels, blocks)
        exact = plain(prefix_states=states, output_features=True).features
        rounded = plain(prefix_states=states.bfloat16().float(), output_features=True).features
    spread = (exact - exact.mean(dim=0)).square().mean().sqrt()
    return float((rounded - exact).square().mean().sqrt() / spread.clamp_min(1e-12))
