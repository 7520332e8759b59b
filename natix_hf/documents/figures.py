"""Types of the numbers in documents: counts, shares, and figures with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field

from natix_hf.documents.document import Part

Count = Annotated[int, Field(ge=0)]
Some = Annotated[int, Field(ge=1)]  # a count of at least one
Share = Annotated[float, Field(ge=0, le=1)]
Level = Annotated[float, Field(gt=0, lt=1)]  # confidence level
Positive = Annotated[float, Field(gt=0)]
Amount = Annotated[float, Field(ge=0)]
PerClass = Annotated[list[float], Field(min_length=2)]  # one number per class, in the order of the ids
Classes = Annotated[list[str], Field(min_length=2)]  # class names in the order of their ids
Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]  # blake2b-128

Metric = Literal["accuracy", "balanced_accuracy", "macro_f1", "mcc", "auroc", "log_loss", "ece"]
METRICS: tuple[Metric, ...] = Metric.__args__


class _Ends(Part):
    @classmethod
    def of(cls, numbers: Mapping[str, float], **more: Any) -> Self:
        """Make it from computed numbers; a number that is not finite becomes None. `more`: further fields."""
        finite = {name: float(number) if math.isfinite(number) else None for name, number in numbers.items()}
        return cls(**finite, **more)

    @classmethod
    def each(cls, figures: Mapping[str, Mapping[str, float]]) -> dict[str, Self]:
        """Apply `of` to every figure."""
        return {name: cls.of(numbers) for name, numbers in figures.items()}


class Interval(_Ends):
    """A figure with its interval; None if it is not defined on these rows."""

    value: float | None
    low: float | None
    high: float | None


class Difference(_Ends):
    """A difference with its interval; None if it is not defined."""

    difference: float | None
    low: float | None
    high: float | None


class Left(Part):
    """A photo that was left out, and the reason."""

    id: str
    reason: str


def _complete(figures: dict) -> dict:
    if missing := [name for name in METRICS if name not in figures]:
        raise ValueError(f"no {', '.join(missing)}")
    return figures


Figures = Annotated[dict[Metric, Interval], AfterValidator(_complete)]
Differences = Annotated[dict[Metric, Difference], AfterValidator(_complete)]


class Resampled(Part):
    """How intervals were computed: by resampling whole groups with replacement."""

    level: Level
    resampled: Literal["groups"]
    resamples: Some


class Measured(Resampled):
    """Figures measured on the rows of a split."""

    split: str
    n: Some
    groups: Some
    positive_label: str
