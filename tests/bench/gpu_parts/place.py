"""Where a part of `gpu.py` runs, what it finds, and how it times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple


class Place(NamedTuple):
    """What a part is given.

    Attributes:
        device: `cuda` or `cpu`.
        tiny: small models and few steps, to try the script.
        folder: for what the part writes; `photos` in it are drawn already.
        workers: processes that decode photos.
    """

    device: str
    tiny: bool
    folder: Path
    workers: int

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    @property
    def side(self) -> int:
        """Of a square photo, in pixels."""
        return 32 if self.tiny else 224

    def scaled(self, full: int, tiny: int) -> int:
        """A count of steps, photos or pixels."""
        return tiny if self.tiny else full


@dataclass(frozen=True)
class Line:
    """One figure, a row of the table.

    Attributes:
        what: names it, the same in every run.
        value: None where there is none; `how` says why.
        unit: of the value; "" for a ratio.
        target: such as `<= 1.03`; "" for none.
        how: from what it was taken, and what else was seen.
    """

    what: str
    value: float | None
    unit: str = ""
    target: str = ""
    how: str = ""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def settled(device: str) -> float:
    """The clock once the device has nothing left to do, in seconds."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work: Callable[[], object], device: str) -> float:
    """Of one piece of work, until the device is done with it."""
    begin = settled(device)
    work()
    return settled(device) - begin


def median_ratio(first: Callable[[], float], second: Callable[[], float], pairs: int) -> tuple[float, str]:
    """The median of `first / second`, taken in turn, and how it was taken."""
    found = [first() / second() for _ in range(pairs)]
    return statistics.median(found), f"{pairs} pair{'s' * (pairs > 1)}, {min(found):.2f} to {max(found):.2f}"
