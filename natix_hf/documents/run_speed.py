"""`speed.json`: where the time of a training job went, and what to mend first."""

from __future__ import annotations

from typing import ClassVar, Literal

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Count, Share, Some


class PassSpeed(Part):
    """Photos through the frozen backbone (features) or the blocks below the cut (prefixes), forward alone.

    Attributes:
        served: photos that came from the cache instead.
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
    """Photos a second, operations, peak memory. Where no step was taken, the figures of training are not there.

    Attributes:
        photos_per_second: of training alone, waiting included.
        waiting: share of training time spent waiting for data.
        beside: share of the whole run spent outside steps and waiting.
        peak_flop_per_second: of this machine, on all processes; None where it was not worth measuring.
        passes: through frozen networks, where caches were asked.
        bottleneck: what to mend first, in a sentence.
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
        time: seconds by phase.
        speed: None where nothing was timed.
    """

    file_name: ClassVar[str] = "speed.json"

    time: dict[str, Amount]
    speed: Speed | None
