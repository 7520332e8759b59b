"""Features of a frozen backbone, computed once a photo and kept on disk.

A record is keyed by the backbone's weights, the preprocessing, what is pooled, and the photo's bytes; whatever of
these changes gets a record of its own, so a stale feature cannot be served. Records stand in shards `(rows, dim)`
float32 `.npy` that are memory-mapped; a shard is renamed into place when it is whole, so an interrupted pass goes on
behind its last shard, and two runs may fill one folder. The model is in eval mode throughout (DINOv3 rescales RoPE at
random in training mode).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from natix_hf.errors import UserError
from natix_hf.files import replacing
from natix_hf.inference.batches import ClientPhotos

SHARD_ROWS = 512


def weights_fingerprint(module: torch.nn.Module) -> str:
    """blake2b-128 (hex) over names, types, shapes and bytes of all parameters and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cache_key(model: Any, processor: Any) -> str:
    """The folder name for features of this backbone, pooling and preprocessing (hex)."""
    config = model.config
    facts = {
        "weights": weights_fingerprint(model.backbone),
        "backbone": config.backbone_config.to_dict(),
        "pooling": config.pooling,
        "feature_layers": config.feature_layers,
        "processor": processor.to_dict(),
    }
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class FeatureRows(Dataset):
    """Cached features with labels: item `i`, or item `(epoch, i)`, is `{"features": (dim,), "labels": int}`."""

    def __init__(self, records: list[tuple[np.ndarray, int]], labels: list[int]) -> None:
        self.records, self.labels = records, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index = key[1] if isinstance(key, tuple) else key
        shard, row = self.records[index]
        return {"features": torch.from_numpy(np.array(shard[row])), "labels": self.labels[index]}


def _read_index(folder: Path, dim: int) -> dict[str, tuple[np.ndarray, int]]:
    """Photo fingerprint -> (memory-mapped shard, row), over the whole shards in `folder`."""
    index: dict[str, tuple[np.ndarray, int]] = {}
    for names in sorted(folder.glob("*.json")):
        fingerprints = json.loads(names.read_text())
        try:
            shard = np.load(names.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            continue  # a shard cut short by a crash: its rows are computed again
        if shard.shape == (len(fingerprints), dim) and shard.dtype == np.float32:
            index.update((fingerprint, (shard, row)) for row, fingerprint in enumerate(fingerprints))
    return index


@torch.inference_mode()
def frozen_features(
    model: Any, rows: Any, processor: Any, *, cache_dir: Path, batch_size: int = 32, num_workers: int = 0
) -> FeatureRows:
    """Pooled features of every row's photo, from the cache where they are there.

    Args:
        model: a `NatixDinov3ForImageClassification`; its backbone is used in eval mode and its mode restored.
        rows: `datasets.Dataset` with `image`, `label` and `fingerprint` (of the photo's bytes).
        processor: the image processor of the client's path.
        cache_dir: the cache's root; a folder per (weights, preprocessing, pooling) is made in it.

    Returns:
        a data set over the memory-mapped records, `(dim,)` float32 each, in the order of `rows`.

    Raises:
        UserError: the folder cannot be written.
        PhotoError: a photo cannot be read.
    """
    folder = Path(cache_dir) / "features" / cache_key(model, processor)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cache_dir {cache_dir}: {error.strerror or error}: choose another folder") from None
    index = _read_index(folder, model.feature_size)
    fingerprints: list[str] = rows["fingerprint"][:]
    first_of = {fingerprint: i for i, fingerprint in reversed(list(enumerate(fingerprints)))}
    missing = sorted(i for fingerprint, i in first_of.items() if fingerprint not in index)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with tqdm(total=len(missing), desc="frozen features", unit="photo", disable=not missing) as progress:
        for start in range(0, len(missing), SHARD_ROWS):
            part = missing[start : start + SHARD_ROWS]
            loader = DataLoader(
                ClientPhotos(rows.select(part), processor), batch_size=batch_size, num_workers=num_workers
            )
            batches = []
            for batch in loader:
                batches.append(model.extract_features(batch["pixel_values"].to(device)).float().cpu().numpy())
                progress.update(len(batches[-1]))
            name = folder / uuid.uuid4().hex
            with replacing(name.with_suffix(".npy")) as temporary:
                np.save(temporary, np.concatenate(batches))
            # The names come last: a shard without names does not exist.
            with replacing(name.with_suffix(".json")) as temporary:
                temporary.write_text(json.dumps([fingerprints[i] for i in part]))
    model.train(was_training)
    if missing:
        index = _read_index(folder, model.feature_size)
    return FeatureRows([index[fingerprint] for fingerprint in fingerprints], rows["label"][:])
