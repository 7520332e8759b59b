"""Chooses batch size, precision and compilation for many photos by measuring on this device.

The default is fp32, which gives the same scores as a client's pipeline. With precision `auto`, bf16 and
`torch.compile` are tried on the first photos of the job, and used only if they are faster and decide all of these
photos in the same way. A model with a guarantee or with early exits stays in fp32, in which it was calibrated.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from natix_hf.errors import PhotoError
from natix_hf.inference.batches import client_pixels, logits_of
from natix_hf.logits import softmax
from natix_hf.modeling.packed_linear import packed_linears

CPU_BATCH = 16
SMALLEST, LARGEST = 16, 1024
WORTH_DOUBLING = 1.05  # gain in rate that justifies a batch twice as large
WORTH_CHANGING = 1.1  # gain in rate that justifies another precision or compilation
MOST_MOVED = 0.01  # largest accepted change of a probability
WORTH_COMPILING = 300.0  # expected seconds of the job without compilation
SAMPLE = 64

Run = Callable[[torch.Tensor], np.ndarray]


class Pace(NamedTuple):
    """The choice: `run` gives the logits of a batch; `line` is the printed line about the measurement, or None."""

    run: Run
    batch_size: int
    line: str | None


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def decoding_workers(device: torch.device) -> int:
    """Number of processes that decode photos; only two on a CPU, where the model needs the cores."""
    return 2 if device.type == "cpu" else min(16, os.cpu_count() or 1)


def first_pixels(photos: Sequence[Any], processor: Any) -> torch.Tensor:
    """Pixels `(n, 3, H, W)` of the first readable photos, at most `SAMPLE`; empty if none can be read."""
    pixels = []
    for index in range(min(len(photos), SAMPLE)):
        try:
            pixels.append(client_pixels(photos[index], processor))
        except PhotoError:
            continue
    return torch.stack(pixels) if pixels else torch.empty(0)


def photo_rate(run: Run, sample: torch.Tensor, size: int) -> float:
    """Photos per second in batches of `size`: the best of three after one warm-up."""
    batch = sample.repeat(-(-size // len(sample)), *[1] * (sample.ndim - 1))[:size]
    run(batch)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        run(batch)  # the logits are copied to the CPU, so the device has finished
        seconds.append(time.perf_counter() - begin)
    return size / min(seconds)


def best_batch(run: Run, sample: torch.Tensor) -> tuple[int, float]:
    """Batch size and its photos per second; the size is doubled while memory suffices and the rate rises by 5 %.

    Raises:
        torch.OutOfMemoryError: the smallest batch does not fit.
    """
    size, rate = SMALLEST, photo_rate(run, sample, SMALLEST)
    while size < LARGEST:
        try:
            doubled_rate = photo_rate(run, sample, 2 * size)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return max(SMALLEST, size // 2), rate  # leaves room for other processes on the device
        if doubled_rate < WORTH_DOUBLING * rate:
            break
        size, rate = 2 * size, doubled_rate
    return size, rate


def _padded(model: Any, size: int) -> Run:
    """A compiled model; smaller batches are padded, because each new size would be compiled again."""
    compiled = torch.compile(model)

    def run(pixels: torch.Tensor) -> np.ndarray:
        if len(pixels) == size:
            return logits_of(compiled, pixels)
        filled = torch.cat([pixels, pixels[:1].expand(size - len(pixels), *pixels.shape[1:])])
        return logits_of(compiled, filled)[: len(pixels)]

    return run


def _in_bf16(run: Run, device: torch.device) -> Run:
    def rounded(pixels: torch.Tensor) -> np.ndarray:
        with torch.autocast(device.type, torch.bfloat16):
            return run(pixels)

    return rounded


def agrees(exact: np.ndarray, other: np.ndarray, shift: Any = 0.0) -> bool:
    """Whether logits decide like the exact ones and change no probability by more than `MOST_MOVED`.

    Args:
        exact, other: logits `(n, classes)`.
        shift: what the model adds to its scores for the decision.
    """
    moved = np.abs(softmax(exact - shift) - softmax(other - shift)).max()
    return bool((exact.argmax(axis=1) == other.argmax(axis=1)).all() and moved <= MOST_MOVED)


def choose_pace(
    model: Any,
    sample: torch.Tensor,
    *,
    photos: int,
    batch_size: int | None = None,
    precision: str = "fp32",
    measure: bool | None = None,
) -> Pace:
    """Choose how the model runs over `photos` photos.

    Args:
        model: in eval mode, on its device.
        sample: `(n, 3, H, W)`, the first photos.
        batch_size: None: `CPU_BATCH` on a CPU, otherwise the result of `best_batch`.
        precision: `fp32`, or `auto` to try bf16 and, for a long job, `torch.compile`.
        measure: by default if the model is on a GPU or the precision is `auto`.
    """
    with packed_linears(model):  # as `predict_photos` runs it
        run = partial(logits_of, model)
        device = next(model.parameters(), torch.empty(0)).device  # an ONNX graph has no torch parameters
        measure = device.type != "cpu" or precision == "auto" if measure is None else measure
        if not measure or not len(sample):
            return Pace(run, batch_size or CPU_BATCH, None)
        size, rate = (batch_size, photo_rate(run, sample, batch_size)) if batch_size else best_batch(run, sample)
        name, rates = "fp32", {"fp32": rate}
        rule = getattr(model.config, "decision", None) or {}
        banded = rule.get("abstain_band") or getattr(model.config, "views_exit", None)
        if precision == "auto" and not banded:
            exact, shift, plain = run(sample), np.asarray(rule.get("threshold_bias", 0.0)), run
            ways: dict[str, Callable[[], Run]] = {"bf16": lambda: _in_bf16(plain, device)}
            if photos / rate > WORTH_COMPILING:
                ways["fp32 compiled"] = lambda: _padded(model, size)
                ways["bf16 compiled"] = lambda: _in_bf16(_padded(model, size), device)
            for way, make in ways.items():
                tried = make()
                rates[way] = photo_rate(tried, sample, size)
                if rates[way] > WORTH_CHANGING * rates[name] and agrees(exact, tried(sample), shift):
                    name, run = way, tried
        measured = ", ".join(f"{way} {rate:.0f}" for way, rate in rates.items())
        return Pace(run, size, f"batches of {size}, {name} (photos/s of the model alone: {measured})")
