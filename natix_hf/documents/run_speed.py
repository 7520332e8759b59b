"""`speed.json`: where the time of a training job was spent, and its bottleneck."""

from __future__ import annotations

from typing import ClassVar, Literal

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Count, Share, Some


class PassSpeed(Part):
    """Forward passes through the frozen backbone (features) or the blocks below the cut (prefixes).

    Attributes:
        served: photos that came from the cache instead.
        waiting: share of the time spent waiting for data.
    """

    photos: Count
    served: Count
    seconds: Amount
    photos_per_second: Amount | None
    waiting: Share
    flop_per_photo: int | None
    flop_per_second: float | None
    share_of_peak: float | None


class Speed(Part):
    """Photos per second, operations and peak memory. Figures of training are absent if no step was made.

    Attributes:
        photos_per_second: photos per second of training, waiting for data included.
        waiting: share of training time spent waiting for data.
        beside: share of the whole run spent outside steps and waiting.
        peak_flop_per_second: peak of this machine over all processes; None if it was not measured.
        passes: forward passes that filled caches.
        bottleneck: the main bottleneck, in a sentence.
    """

    photos: Some | None = None
    photos_per_second: Amount | None = None
    waiting: Share | None = None
    beside: Share | None = None
    flop_per_photo: int | None = None
    flop_per_second: float | None = None
    peak_flop_per_second: float | None = None
    share_of_peak: float | None = None
    passes: dict[Literal["features", "prefixes"], PassSpeed] | None = None
    peak_memory_mib: Amount
    bottleneck: str


class RunSpeed(Document):
    """The time of a training job, up to its report.

    Attributes:
        time: phase -> seconds.
        speed: None if nothing was timed.
    """

    file_name: ClassVar[str] = "speed.json"

    time: dict[str, Amount]
    speed: Speed | None
