"""The frozen part of a backbone, computed once: token activations at the cut, from which only the last blocks run.

With adapters in the last k blocks alone, everything below them gives the same activations for the same pixels in every
epoch. So each photo gets a fixed number of augmented views, the activations at the cut are kept on disk, and a step of
training begins there. Scores while training begin there too, from the photo on the client's path; what is predicted
after training runs the whole model. How records are kept is `inference.feature_store`'s business.
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
from natix_hf.photos.geometry import Geometry

SHARD_BYTES = 32_000_000
LISTS = 1.1  # what names, checksums and heads of files may add to a plan of small records
MOST_VIEWS = 8  # of a photo, where the recipe leaves their number open
PRECISIONS = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.int16)}  # numpy has no bfloat16: its bits


@dataclass(frozen=True)
class PrefixPlan:
    """What is kept of each photo.

    Args:
        blocks: k, the last blocks that are trained and run in every step.
        views: augmented views of each training photo.
        precision: `float32` or `bfloat16`.
        gigabytes: what all of it takes, in 10^9 bytes.
    """

    blocks: int
    views: int
    precision: str
    gigabytes: float

    def told(self, budget_gb: float) -> str:
        """One line of what was chosen."""
        return (
            f"prefix cache: activations below the last {self.blocks} blocks, {self.views} fixed "
            f"view{'s' * (self.views > 1)} a photo, {self.precision}, {self.gigabytes:.2g} of {budget_gb:g} GB"
        )


def trained_blocks(model: Any) -> int:
    """How many last blocks of the backbone hold everything that is trained in it, 0 where it is frozen.

    Raises:
        UserError: something below the blocks is trained (embeddings).
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
                "prefix_cache_gb: the embeddings are trained, nothing below them can be kept: leave it out with "
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
    """Choose views and precision.

    As many views as there are epochs (at most `MOST_VIEWS`), or as the recipe says; in fp32 where that fits the
    budget, else in bf16; else fewer views in bf16.

    Args:
        budget_gb: what may be kept, in 10^9 bytes.
        blocks: the last blocks that are trained.
        values: numbers in the activations of one view, tokens x width.
        scored: photos that are scored while training, one view each.
        views: asked for; 0 leaves it open.
        augmented: False where every view of a photo is the same.

    Raises:
        UserError: nothing is frozen, or one view of each photo does not fit in bf16.
    """
    if blocks >= layers:
        raise UserError(
            f"prefix_cache_gb: all {layers} blocks are trained, so no activation stays the same: add "
            f"--lora_last_blocks {max(1, layers // 2)}, say, or leave it out with --prefix_cache_gb null"
        )
    wanted = views or (min(MOST_VIEWS, math.ceil(epochs)) if augmented else 1)

    def size(count: int, precision: str) -> float:
        return (count * photos + scored) * values * PRECISIONS[precision].itemsize / 1e9

    for precision in PRECISIONS:
        if size(wanted, precision) <= budget_gb:
            return PrefixPlan(blocks, wanted, precision, size(wanted, precision))
    fewer = int((budget_gb * 1e9 / (2 * values) - scored) / photos)
    if views or fewer < 1:
        raise UserError(
            f"prefix_cache_gb: {budget_gb:g} given, {size(wanted if views else 1, 'bfloat16'):.2g} expected for "
            f"{wanted if views else 1} view(s) of {photos} photos in bf16 and {scored} that are scored"
        )
    return PrefixPlan(blocks, fewer, "bfloat16", size(fewer, "bfloat16"))


def prefix_states(model: Any, pixel_values: torch.Tensor, blocks: int) -> torch.Tensor:
    """Token activations `(batch, tokens, hidden)` below the last `blocks` blocks; adapters in them are not run."""
    backbone = model.backbone
    states = backbone.embeddings(pixel_values)
    positions = backbone.rope_embeddings(pixel_values)
    layers = backbone.model.layer
    for layer in layers[: len(layers) - blocks]:
        states = layer(states, position_embeddings=positions)
    return states


def _block(name: str) -> int:
    """The number of the block that a tensor of the backbone is in; -1 for those beside the blocks."""
    parts = name.split(".")
    return int(parts[parts.index("layer") + 1]) if "layer" in parts else -1


def _key(model: Any, processor: Any, plan: PrefixPlan, view: FixedView | None) -> str:
    """Of everything below the cut, the preprocessing, the view and the precision (hex)."""
    backbone = model.backbone
    cut = len(backbone.model.layer) - plan.blocks
    below = {
        name: tensor
        for name, tensor in backbone.state_dict().items()
        if not name.startswith("norm") and _block(name) < cut
    }
    digest = digest_of(below)
    facts = {"cut": cut, "backbone": model.config.backbone_config.to_dict(), "processor": processor.to_dict()}
    digest.update(json.dumps([facts, view, plan.precision], sort_keys=True, default=str).encode())
    return digest.hexdigest()


class PrefixRows(Dataset):
    """Kept activations: item `i`, or `(epoch, i)`, is `{"prefix_states": (tokens, hidden) float32, "labels": int}`.

    Args:
        records: for each view, those of all rows; epoch `e` reads view `e` modulo their number.
        labels: `(rows,)`.
        precision: a key of `PRECISIONS`.
        seeds: for training rows `(run seed, row ids)`, from which each item gets its `seed` as a view has it.
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
    """The activations of every row's photo in every view, from the cache where they are there.

    Args:
        model: the classifier, wrapped for LoRA or not.
        rows: with `id`, `image`, `label`, `fingerprint`.
        views: None stands for the photo on the client's path.
        seeds: see `PrefixRows`.
        budget_gb: the most that activations of all runs may take; those not asked for longest make room.
        passes: of the run, where somebody wants to know what its passes cost.
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

    records = [
        kept_records(
            plain,
            rows,
            processor,
            FeatureStore(
                cache_dir,
                _key(plain, processor, plan, view),
                shape=(tokens, config.hidden_size),
                dtype=dtype,
                kind="prefixes",
                budget_gb=budget_gb and max(budget_gb, LISTS * plan.gigabytes),
                budget_name="prefix_cache_gb",
                ours=passes.shards,
            ),
            compute,
            view=view,
            shard_rows=max(1, SHARD_BYTES // (tokens * config.hidden_size * dtype.itemsize)),
            batch_size=batch_size,
            num_workers=num_workers,
            what="activations at the cut",
            passes=passes,
        )
        for view in views
    ]
    return PrefixRows(records, rows["label"][:], precision=plan.precision, seeds=seeds)


@torch.inference_mode()
def prefix_drift(model: Any, rows: Any, processor: Any, blocks: int, photos: int = 16) -> float:
    """How far features move when the activations at the cut are rounded to bf16.

    Returns:
        root mean square of the differences over that of the features around their mean, on the first photos.
    """
    plain = plain_model(model)
    device = next(plain.parameters()).device
    was_training = plain.training
    plain.eval()
    try:
        few = rows.select(range(min(photos, len(rows))))
        pixels = torch.stack([client_pixels(row["image"], processor) for row in few]).to(device)
        states = prefix_states(plain, pixels, blocks)
        exact, rounded = (
            plain(prefix_states=given, output_features=True).features for given in (states, states.bfloat16().float())
        )
    finally:
        plain.train(was_training)
    spread = (exact - exact.mean(dim=0)).square().mean().sqrt()
    return float((rounded - exact).square().mean().sqrt() / spread.clamp_min(1e-12))
