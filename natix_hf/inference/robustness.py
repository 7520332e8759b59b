"""Photos as they are sent to a client, on the client's path: their logits, and how long a client waits for them.

`streetvision` says what becomes of a photo on its way; behind that it goes to the model as a client's photo does.
Labels are carried along and not looked at.
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
from natix_hf.modeling.packed_linear import packed_linears
from natix_hf.streetvision.profiles import cached_photo
from natix_hf.streetvision.sent_photos import Case, sent_photo


class SentPhotos(Dataset):
    """Labelled rows in several ways: item `i * cases + c` is row i in way c, `{"pixel_values", "labels"}`.

    The photo read last is kept, so that read in order each is decoded about once.
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
    """What the model says of every row in every way, with a bar that shows the rate; memory does not grow with n.

    Args:
        model: in eval mode.
        rows: with `id`, `image` and `label`.

    Returns:
        `(n, cases, classes)` float32.
    """
    photos = SentPhotos(rows, processor, cases)
    loader = DataLoader(photos, batch_size=batch_size, num_workers=num_workers, worker_init_fn=worker_threads)
    found = []
    with packed_linears(model), tqdm(total=len(photos), desc=cases[0].profile, unit="photo") as bar:
        for batch in loader:
            found.append(logits_of(model, batch["pixel_values"]))
            bar.update(len(found[-1]))
    return np.concatenate(found).reshape(len(rows), len(cases), -1)


def measure_latency(
    model: torch.nn.Module, processor: Any, photos: Sequence[Any], *, warm_up: int = 2, seconds: float = 60.0
) -> dict[str, int | list[float]]:
    """Seconds from a photo's bytes to its logits, one photo at a time on this machine's CPU, in fp32 as a client does.

    Args:
        model: left as it is; a copy is measured where it is on another device or of another type.
        photos: what `client_pixels` takes, of the size that clients get; the first `warm_up` are not counted.
        seconds: no further photo is begun after this time, once one was counted.

    Returns:
        `seconds`: a list, one a photo; `cores` of the machine, `threads` that the model used.
    """
    parameter = next(model.parameters())
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        model = copy.deepcopy(model).to("cpu", torch.float32)
    training, taken, begin = model.training, [], time.perf_counter()
    model.eval()
    for number, photo in enumerate([photos[0]] * warm_up + list(photos)):
        if len(taken) and time.perf_counter() - begin > seconds:
            break
        start = time.perf_counter()
        logits_of(model, client_pixels(photo, processor)[None])
        if number >= warm_up:
            taken.append(round(time.perf_counter() - start, 6))
    model.train(training)
    return {"seconds": taken, "cores": os.cpu_count() or 1, "threads": torch.get_num_threads()}
