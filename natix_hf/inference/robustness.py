"""Photos as challenge profiles send them, on the client's path: their logits, and how long a client waits for them.

What validators do to a photo comes from `streetvision.profiles`, here a function of profile, row and view: all levels
and distortions of a photo share its rotation, crop and noise, so that they differ in nothing else. Behind it the photo
goes to the model as a client's photo does. Labels are carried along and not looked at.
"""

from __future__ import annotations

import copy
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from natix_hf.inference.batches import client_pixels, logits_of
from natix_hf.modeling.packed_linear import packed_linears
from natix_hf.streetvision.distortions import SEVERITIES
from natix_hf.streetvision.profiles import PROFILES, apply_challenge, cached_photo, check_profile, draw_challenge

LIMIT = 9.0  # seconds that a client has for a photo
CLEAN_SIDES = "challenge@2026-05"  # sends photos of their own size, and distorts none


@dataclass(frozen=True)
class Case:
    """One way in which every photo is sent.

    Args:
        profile: a key of `streetvision.profiles.PROFILES`.
        level: of the profile; None: drawn for each photo as validators draw it.
        distortion: with `level` 0 alone: this one is put on the frame, at `severity` 1 or 2.
        severity: of the distortion.
        view: another draw for the same photo.
    """

    profile: str
    level: int | None = None
    distortion: str | None = None
    severity: int | None = None
    view: int = 0


def cases_of(profile: str) -> list[Case]:
    """Every level of a profile, then every distortion by itself at severity 1 and 2 (at 0 it is level 0).

    Raises:
        UserError: no such profile.
    """
    check_profile(profile)
    levels = [Case(profile, level) for level in range(PROFILES[profile])]
    if profile == CLEAN_SIDES:
        return levels
    return levels + [Case(profile, 0, name, severity) for name in SEVERITIES for severity in (1, 2)]


def photo_seed(profile: str, row_id: str, view: int = 0) -> int:
    """The seed of what is drawn for one photo, 63 bits."""
    digest = hashlib.blake2b(f"{profile}\0{row_id}\0{view}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def sent_photo(image: Image.Image, case: Case, row_id: str) -> Image.Image:
    """A photo as it is sent.

    Args:
        image: as `streetvision.profiles.cached_photo` gives it.
        case: the way.
        row_id: of the photo.
    """
    seed = photo_seed(case.profile, row_id, case.view)
    challenge = draw_challenge(case.profile, image.size, level=case.level, seed=seed)
    if case.distortion is not None:
        challenge = replace(challenge, severities={case.distortion: case.severity}, noise_seed=seed)
    return apply_challenge(image, challenge)


class SentPhotos(Dataset):
    """Labelled rows in several ways: item `i * cases + c` is row i in way c, `{"pixel_values", "labels"}`.

    The photo read last is kept, so that read in order each is decoded about once.
    """

    def __init__(self, rows: Any, processor: Any, cases: Sequence[Case]) -> None:
        self.rows, self.processor, self.cases = rows, processor, list(cases)
        self._last: tuple[int, Any, Image.Image] | None = None

    def __len__(self) -> int:
        return len(self.rows) * len(self.cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, case = divmod(index, len(self.cases))
        if self._last is None or self._last[0] != number:
            row = self.rows[number]
            self._last = (number, row, cached_photo(row["image"]))
        _, row, image = self._last
        pixels = client_pixels(sent_photo(image, self.cases[case], row["id"]), self.processor)
        return {"pixel_values": pixels, "labels": row["label"]}


def _threads(_: int) -> None:
    torch.set_num_threads(1)  # of a worker, as in `batches`


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
        processor: the checkpoint's image processor.
        cases: the ways.

    Returns:
        `(n, cases, classes)` float32.
    """
    photos = SentPhotos(rows, processor, cases)
    loader = DataLoader(photos, batch_size=batch_size, num_workers=num_workers, worker_init_fn=_threads)
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
        processor: the checkpoint's image processor.
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
