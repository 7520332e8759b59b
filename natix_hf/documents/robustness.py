"""`robustness.json`: figures on the test photos as challenge profiles send them, compared with the clean photos."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Count, Differences, Figures, Measured, Some


class Case(Part):
    """One way of sending the photos.

    Attributes:
        level: level of the profile; None: all levels, equally often.
        distortion: a single distortion at level 0; None: the distortions of the level.
        difference: paired difference to the clean photos.
    """

    level: Count | None
    distortion: str | None
    severity: Annotated[int, Field(ge=0, le=2)] | None
    n: Some
    metrics: Figures
    difference: Differences


class ProfileFigures(Part):
    """Figures under one profile; `sent` says how it read the photos."""

    profile: str
    sent: str | None = None
    cases: Annotated[list[Case], Field(min_length=1)]


class Latency(Part):
    """Seconds from a file's bytes to the logits, one photo at a time, and how many exceed a client's `limit`."""

    n: Some
    device: Literal["cpu"]
    cores: Some
    threads: Some
    limit: float
    over_limit: Count
    mean: Amount
    p50: Amount
    p99: Amount
    max: Amount


class Robustness(Document, Measured):
    """Figures under every requested profile."""

    file_name: ClassVar[str] = "robustness.json"
    mend: ClassVar[str] = "python -m natix_hf.evaluate {folder} --robustness PROFILE writes it"

    clean: Figures
    profiles: list[ProfileFigures]
    latency: Latency | None
