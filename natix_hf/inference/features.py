"""Features of a frozen backbone, computed once per photo and cached on disk.

A record holds the class token and the mean of the patch tokens of the last layers, so every pooling can be computed
without another pass. Its key is made from the backbone's weights, the preprocessing, the photo's bytes and, for an
augmented view, the view. If one of these changes, the key changes too, so no stale feature is used. The model is in
eval mode throughout, because DINOv3 rescales RoPE at random in training mode. `feature_store` stores the records.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from natix_hf.files import fingerprint_bytes
from natix_hf.inference.augment import photo_for_view, training_view
from natix_hf.inference.batches import ClientPhotos, Example, Normalised, worker_threads
from natix_hf.inference.feature_store import FeatureStore, Record
from natix_hf.inference.pass_costs import Passes
from natix_hf.modeling.evaluation_mode import evaluating
from natix_hf.modeling.packed_linear import packed_linears
from natix_hf.photos.geometry import Geometry

SHARD_ROWS = 512
POOLINGS = ("cls", "mean", "cls_mean")


class FixedView(NamedTuple):
    """An augmented view that is the same in every epoch: number `number` of `augment` with the run's seed."""

    augment: str
    seed: int
    number: int
    challenge_levels: tuple[float, ...] | None = None


def weights_fingerprint(module: torch.nn.Module) -> str:
    """blake2b-128 (hex) over names, types, shapes and bytes of all parameters and buffers.

    LoRA adapters that have no effect yet (all B are zero) do not change the fingerprint.
    """
    state = module.state_dict()
    if not any(bool(tensor.any()) for name, tensor in state.items() if ".lora_B." in name):
        state = {name.replace(".base_layer.", "."): t for name, t in state.items() if ".lora_" not in name}
    return digest_of(state).hexdigest()


def digest_of(state: Mapping[str, torch.Tensor]) -> hashlib.blake2b:
    """A blake2b-128 object, updated with names, types, shapes and bytes of the tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(state.items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest


def cache_key(model: Any, processor: Any, view: FixedView | None = None, *, weights: str | None = None) -> str:
    """Cache key (hex) of this backbone, preprocessing and view; head and pooling do not matter.

    `weights` is the fingerprint of the backbone's weights, if already known.
    """
    facts = {
        "weights": weights or weights_fingerprint(model.backbone),
        "backbone": model.config.backbone_config.to_dict(),
        "processor": processor.to_dict(),
        "view": view,
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    return fingerprint_bytes(text.encode())


def pooled(parts: Any, pooling: str, layers: int) -> Any:
    """The features that a model with this pooling reads, `(rows, [views,] dim)`.

    Args:
        parts: array or tensor `(rows, L, [views,] 2, hidden)`: class token and mean of the patch tokens of the last L
            layers, in order.
        pooling: `cls`, `mean` or `cls_mean`.
        layers: how many of the last layers to use, at most L.
    """
    parts = parts[:, parts.shape[1] - layers :]
    if pooling != "cls_mean":
        parts = parts[..., POOLINGS.index(pooling), :]
    if parts.ndim == (5 if pooling == "cls_mean" else 4):  # with views
        return parts.swapaxes(1, 2).reshape(len(parts), parts.shape[2], -1)
    return parts.reshape(len(parts), -1)


def token_parts(model: Any, pixel_values: torch.Tensor, layers: int) -> torch.Tensor:
    """The input of `pooled`, `(batch, layers, [views,] 2, hidden)`, from one pass of the backbone.

    Args:
        pixel_values: `(batch, [views,] 3, H, W)`.
    """
    backbone, views = model.backbone, pixel_values.shape[1:-3]
    pixel_values = pixel_values.flatten(0, -4)
    outputs = backbone(pixel_values, output_hidden_states=layers > 1, return_dict=True)
    states = [outputs.last_hidden_state]  # after the final norm; hidden_states are before it
    if layers > 1:
        states = [backbone.norm(state) for state in outputs.hidden_states[-layers:-1]] + states
    first_patch = 1 + model.config.backbone_config.num_register_tokens
    parts = torch.stack([torch.stack([s[:, 0], s[:, first_patch:].mean(dim=1)], dim=1) for s in states], dim=1)
    return parts.unflatten(0, (-1, *views)).swapaxes(1, 2) if views else parts


class FeatureRows(Dataset):
    """Cached features with labels: item `i`, or item `(epoch, i)`, is `{"features": ([views,] dim), "labels": int}`.

    Args:
        records: for each view the records of all rows; epoch `e` reads view `e` modulo the number of views.
        labels: `(rows,)`.
        pooling, layers: which part of a record to use, see `pooled`.
    """

    def __init__(self, records: Sequence[list[Record]], labels: list[int], *, pooling: str, layers: int) -> None:
        self.views, self.labels, self.pooling, self.layers = list(records), labels, pooling, layers

    @property
    def records(self) -> list[Record]:
        """The records of the photos without augmentation."""
        return self.views[0]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int | tuple[int, int]) -> Example:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        shard, row = self.views[epoch % len(self.views)][index]
        features = pooled(np.array(shard[row])[None], self.pooling, self.layers)[0]
        return {"features": torch.from_numpy(features), "labels": self.labels[index]}

    def table(self) -> np.ndarray:
        """The features of the photos without augmentation, `(rows, [views,] dim)` float32."""
        return np.stack([pooled(s[row][None], self.pooling, self.layers)[0] for s, row in self.records])

    def parts(self, layers: int) -> list[np.ndarray]:
        """For each augmented view `(rows, layers, [views,] 2, hidden)` float32, see `pooled`."""
        return [np.stack([shard[row][-layers:] for shard, row in records]) for records in self.views]


class FixedViewPhotos(Dataset):
    """Augmented views, prepared as in training: item `i` is `{"pixel_values": ([views,] 3, H, W) float}`."""

    def __init__(self, rows: Any, processor: Any, view: FixedView) -> None:
        self.rows, self.view = rows, view
        self.geometry, self.normalised = Geometry.of(processor), Normalised(processor)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row, view = self.rows[index], self.view
        pixels = training_view(
            photo_for_view(row["image"], view.augment, self.geometry),
            augment=view.augment,
            geometry=self.geometry,
            seed=view.seed,
            epoch=view.number,
            row_id=row["id"],
            challenge_levels=view.challenge_levels,
        )
        return {"pixel_values": self.normalised(pixels)}


def frozen_features(
    model: Any,
    rows: Any,
    processor: Any,
    *,
    cache_dir: Path,
    layers: int | None = None,
    views: Sequence[FixedView] = (),
    weights: str | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    budget_gb: float | None = None,
    passes: Passes | None = None,
) -> FeatureRows:
    """Features of every row's photo, from the cache if present.

    Args:
        model: a `NatixDinov3ForImageClassification`; its backbone is used in eval mode and its mode restored.
        rows: `datasets.Dataset` with `image`, `label` and `fingerprint` (of the photo's bytes).
        layers: number of last layers in a record; by default as many as the model pools.
        views: augmented views, in addition to the unchanged photos.
        weights: fingerprint of the backbone's weights, if already known.
        batch_size: views per pass; a photo with tiles counts as many.
        passes: counts what the passes of this run cost.

    Returns:
        A data set over the memory-mapped records in the order of `rows`, with the pooling of the model.

    Raises:
        UserError: the folder cannot be written, the disk is full, or the budget is too small.
        PhotoError: a photo cannot be read.
    """
    passes = passes or Passes()
    pooling, wanted = model.config.pooling, model.config.feature_layers
    layers = max(layers or 1, wanted)
    views_of_photo = Geometry.of(processor).input_shape[:-3]
    shape = (layers, *views_of_photo, 2, model.config.backbone_config.hidden_size)
    batch_size = max(1, batch_size // math.prod(views_of_photo))  # memory goes with the views, not with the photos
    key = partial(cache_key, model, processor, weights=weights or weights_fingerprint(model.backbone))

    def parts(pixels: torch.Tensor) -> np.ndarray:
        return token_parts(model, pixels, layers).float().cpu().numpy()

    records = [
        kept_records(
            model,
            rows,
            processor,
            FeatureStore(cache_dir, key(view), shape=shape, budget_gb=budget_gb, ours=passes.shards),
            parts,
            view=view,
            shard_rows=SHARD_ROWS,
            batch_size=batch_size,
            num_workers=num_workers,
            what="frozen features",
            passes=passes,
        )
        for view in (None, *views)
    ]
    return FeatureRows(records, rows["label"][:], pooling=pooling, layers=wanted)


def kept_records(
    model: Any,
    rows: Any,
    processor: Any,
    store: FeatureStore,
    compute: Callable[[torch.Tensor], np.ndarray],
    *,
    view: FixedView | None,
    shard_rows: int,
    batch_size: int,
    num_workers: int,
    what: str,
    passes: Passes,
) -> list[Record]:
    """The records of some rows' photos, in order; missing ones are computed in eval mode and stored.

    Args:
        model: runs on its device; its mode is restored afterwards.
        store: where records are read and stored.
        compute: `(batch, [views,] 3, H, W)` pixels to `(batch, *store.shape)`.
        view: an augmented view, or None to prepare photos like a client.
        shard_rows: records per file.
        what: name of the pass for its progress bar.
        passes: counts what passes cost.
    """
    fingerprints: list[str] = rows["fingerprint"][:]
    # The random draws of a view depend on the row id.
    names = fingerprints if view is None else [f"{f}-{i}" for f, i in zip(fingerprints, rows["id"][:])]
    records = store.find(set(names))
    missing: list[int] = []
    if len(records) < len(set(names)):
        with store.writing():
            records |= store.find(set(names) - records.keys())  # another run may have computed them meanwhile
            first_of = {name: i for i, name in reversed(list(enumerate(names)))}
            missing = sorted(i for name, i in first_of.items() if name not in records)
            store.make_room(len(missing))
            if missing:
                part = rows.select(missing)
                photos = ClientPhotos(part, processor) if view is None else FixedViewPhotos(part, processor, view)
                loader = DataLoader(
                    photos, batch_size=batch_size, num_workers=num_workers, worker_init_fn=worker_threads
                )
                description = what if view is None else f"{what}, view {view.number + 1}"
                batches, counted = passes.over(loader), passes.counting(compute)
                _keep(model, batches, counted, [names[i] for i in missing], store, shard_rows, description)
            records |= store.find(set(names) - records.keys())
    passes.asked(store.key, set(names), [names[i] for i in missing])
    store.touch()
    return [records[name] for name in names]


@torch.inference_mode()
def _keep(
    model: Any, batches: Iterable, compute: Callable, names: list[str], store: FeatureStore, shard_rows: int, what: str
) -> None:
    """One pass over batches of photos that writes the store shard by shard."""
    device = next(model.parameters()).device
    waiting: list[np.ndarray] = []
    stored = 0
    with evaluating(model), packed_linears(model), tqdm(total=len(names), desc=what, unit="photo") as progress:
        for batch in batches:
            waiting.append(compute(batch["pixel_values"].to(device, non_blocking=True)))
            progress.update(len(waiting[-1]))
            count = sum(map(len, waiting))
            if count >= shard_rows or stored + count == len(names):
                store.add(names[stored : stored + count], np.concatenate(waiting))
                stored, waiting = stored + count, []
