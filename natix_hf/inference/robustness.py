"""Logits for photos as StreetVision sends them, and the latency of a client.

`streetvision` transforms each photo; the model then gets it like any photo of a client. Labels are passed through and
not used.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from natix_hf.inference.batches import Example, client_pixels, logits_of, worker_threads
from natix_hf.modeling.evaluation_mode import evaluating
from natix_hf.modeling.packed_linear import packed_linears
from natix_hf.streetvision.profiles import cached_photo
from natix_hf.streetvision.sent_photos import Case, sent_photo


class SentPhotos(Dataset):
    """Labelled rows in several cases: item `i * cases + c` is row i in case c, `{"pixel_values", "labels"}`.

    The last photo is cached, so each photo is decoded about once when items are read in order.
    """

    def __init__(self, rows: Any, processor: Any, cases: Sequence[Case]) -> None:
        self.rows, self.processor, self.cases = rows, processor, list(cases)
        self._last: tuple[int, Any, Image.Image] | None = None

    def __len__(self) -> int:
        return len(self.rows) * len(self.cases)

    def __getitem__(self, index: int) -> Example:
        number, case = divmod(index, len(self.cases))
        if self._last is None or self._last[0] != number:
            row = self.rows[number]
            self._last = (number, row, cached_photo(row["image"]))
        _, row, image = self._last
        pixels = client_pixels(sent_photo(image, self.cases[case], row["id"]), self.processor)
        return {"pixel_values": pixels, "labels": row["label"]}


def sent_logits(
    model: torch.nn.Module,
    rows: Any,
    processor: Any,
    cases: Sequence[Case],
    *,
    batch_size: int = 16,
    num_workers: int = 0,
) -> np.ndarray:
    """Logits for every row in every case, with a progress bar; only the logits grow with n in memory.

    Args:
        model: in eval mode.
        rows: rows with `id`, `image` and `label`.

    Returns:
        `(n, cases, classes)` float32.
    """
    photos = SentPhotos(rows, processor, cases)
    loader = DataLoader(photos, batch_size=batch_size, num_workers=num_workers, worker_init_fn=worker_threads)
    parts = []
    with packed_linears(model), tqdm(total=len(photos), desc=cases[0].profile, unit="photo") as bar:
        for batch in loader:
            parts.append(logits_of(model, batch["pixel_values"]))
            bar.update(len(parts[-1]))
    return np.concatenate(parts).reshape(len(rows), len(cases), -1)


def measure_latency(
    model: torch.nn.Module, processor: Any, photos: Sequence[Any], *, warm_up: int = 2, seconds: float = 60.0
) -> dict[str, int | list[float]]:
    """Seconds from a photo's bytes to its logits, one photo at a time, on this machine's CPU in fp32 like a client.

    Args:
        model: not changed; if it is on another device or in another dtype, a copy is measured.
        photos: photos as `client_pixels` takes them, of the size that clients get.
        warm_up: uncounted runs on the first photo.
        seconds: no photo is started after this time, but at least one is counted.

    Returns:
        `seconds`: a list with one value per photo; `cores` of the machine; `threads` that torch uses.
    """
    parameter = next(model.parameters())
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        model = copy.deepcopy(model).to("cpu", torch.float32)
    latencies, begin = [], time.perf_counter()
    with evaluating(model):
        for number, photo in enumerate([photos[0]] * warm_up + list(photos)):
            if len(latencies) and time.perf_counter() - begin > seconds:
                break
            start = time.perf_counter()
            logits_of(model, client_pixels(photo, processor)[None])
            if number >= warm_up:
                latencies.append(round(time.perf_counter() - start, 6))
    return {"seconds": latencies, "cores": os.cpu_count() or 1, "threads": torch.get_num_threads()}
