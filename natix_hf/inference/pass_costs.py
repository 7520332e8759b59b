"""What the passes of a frozen network over photos cost, and what caches spared: photos, seconds, waiting, operations.

One `Passes` goes with one run. It also remembers which files of a cache the run was served from, so that the run makes
no room for itself at its own cost. It knows neither models nor rows.
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
    """Counts while photos pass a frozen network.

    Attributes:
        photos: that passed it, each view for itself.
        served: that came from the cache instead, counted once however often they were asked for.
        seconds: of all passes, waiting included.
        waited: seconds of them until a batch was there.
        flop: floating-point operations of all passes.
        flop_per_photo: of one of them, forward alone; None before the first.
        shards: files of the cache that serve this run.
    """

    def __init__(self) -> None:
        self.photos = self.served = self.flop = 0
        self.seconds = self.waited = 0.0
        self.flop_per_photo: int | None = None
        self.shards: set[Path] = set()
        self._known: set[int] = set()

    @property
    def known(self) -> int:
        """How many different records were asked for."""
        return len(self._known)

    def asked(self, key: str, names: Iterable[str], missing: Iterable[str]) -> None:
        """Note which records were asked for under a key, and those of them that are computed now."""
        absent = set(missing)
        for name in names:
            mark = hash((key, name))
            if mark not in self._known:
                self._known.add(mark)
                self.served += name not in absent

    def over(self, loader: Iterable[dict[str, torch.Tensor]]) -> Iterator[dict[str, torch.Tensor]]:
        """The batches of one pass, timed: what happens between two of them belongs to the pass."""
        begin = asked = time.perf_counter()
        try:
            for batch in loader:
                self.waited += time.perf_counter() - asked
                self.photos += len(batch["pixel_values"])
                yield batch
                asked = time.perf_counter()
        finally:
            self.seconds += time.perf_counter() - begin

    def counting(self, compute: Callable[[torch.Tensor], np.ndarray]) -> Callable[[torch.Tensor], np.ndarray]:
        """`compute`, its operations counted: those of the first batch, which passes no second time for it."""

        def counted(pixels: torch.Tensor) -> np.ndarray:
            if self.flop_per_photo is not None:
                found = compute(pixels)
            else:
                with operations() as counter:
                    found = compute(pixels)
                self.flop_per_photo = counter.get_total_flops() // len(pixels)
            self.flop += self.flop_per_photo * len(pixels)
            return found

        return counted


def operations() -> Any:
    """A context that counts floating-point operations, `get_total_flops()`; on CPUs of attention and packed layers."""
    from torch.utils import flop_counter

    def forward(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return flop_counter.sdpa_flop_count(query, key, value)

    def backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return flop_counter.sdpa_backward_flop_count(grad, query, key, value)

    def packed(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return 2 * math.prod(x) * out_shape[-1]

    aten = torch.ops.aten
    # The counter knows attention on GPUs only.
    extra = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # of packed layers; not in every build of torch
        extra[torch.ops.mkldnn._linear_pointwise] = packed
    return flop_counter.FlopCounterMode(display=False, custom_mapping=extra)
