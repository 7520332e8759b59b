"""Counts what passes of a frozen network cost and what caches saved: photos, seconds, waiting, operations.

A run has one `Passes`. It also lists the cache files that the run uses, so that the run does not delete its own files
to make room.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Passes:
    """Counters for the passes of a frozen network.

    Attributes:
        photos: photos that went through the network; each view counts.
        served: photos that came from the cache instead; each counts once.
        seconds: duration of all passes, including waiting.
        waited: seconds of waiting for batches.
        flop: floating-point operations of all passes.
        flop_per_photo: operations of one forward pass of a photo; None before the first.
        shards: cache files that this run uses.
    """

    def __init__(self) -> None:
        self.photos = self.served = self.flop = 0
        self.seconds = self.waited = 0.0
        self.flop_per_photo: int | None = None
        self.shards: set[Path] = set()
        self._known: set[int] = set()

    @property
    def known(self) -> int:
        """Number of different records that were requested."""
        return len(self._known)

    def asked(self, key: str, names: Iterable[str], missing: Iterable[str]) -> None:
        """Note which records of a key were requested, and which of them must be computed."""
        absent = set(missing)
        for name in names:
            mark = hash((key, name))
            if mark not in self._known:
                self._known.add(mark)
                self.served += name not in absent

    def over(self, loader: Iterable[dict[str, torch.Tensor]]) -> Iterator[dict[str, torch.Tensor]]:
        """The batches of one pass, timed; the time between two batches belongs to the pass."""
        begin = waiting_since = time.perf_counter()
        try:
            for batch in loader:
                self.waited += time.perf_counter() - waiting_since
                self.photos += len(batch["pixel_values"])
                yield batch
                waiting_since = time.perf_counter()
        finally:
            self.seconds += time.perf_counter() - begin

    def counting(self, compute: Callable[[torch.Tensor], np.ndarray]) -> Callable[[torch.Tensor], np.ndarray]:
        """`compute`, with the operations of its first batch counted; no extra pass is needed."""

        def counted(pixels: torch.Tensor) -> np.ndarray:
            if self.flop_per_photo is not None:
                values = compute(pixels)
            else:
                with operations() as counter:
                    values = compute(pixels)
                self.flop_per_photo = counter.get_total_flops() // len(pixels)
            self.flop += self.flop_per_photo * len(pixels)
            return values

        return counted


def operations() -> Any:
    """A context that counts floating-point operations (`get_total_flops()`), also of attention and packing on CPUs."""
    from torch.utils import flop_counter

    def forward(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return flop_counter.sdpa_flop_count(query, key, value)

    def backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return flop_counter.sdpa_backward_flop_count(grad, query, key, value)

    def packed(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return 2 * math.prod(x) * out_shape[-1]

    aten = torch.ops.aten
    # torch's counter covers attention on GPUs only.
    extra = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # packed layers; some builds of torch lack the operator
        extra[torch.ops.mkldnn._linear_pointwise] = packed
    return flop_counter.FlopCounterMode(display=False, custom_mapping=extra)
