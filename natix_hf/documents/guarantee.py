"""The promise of an abstain band, as it was fitted on rows that nothing else reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from natix_hf.documents.document import Part
from natix_hf.documents.figures import Amount, Count, Level, Share

Risk = Literal["fpr", "fnr", "error", "precision"]


class ClassCounts(Part):
    """The rows of one class that a bound rests on.

    Attributes:
        largest: photos of the largest group.
        effective: `n / largest`, how many groups of that size the photos weigh in a bound.
    """

    n: Count
    groups: Count
    largest: Count
    effective: Amount


class PerClassCounts(Part):
    negative: ClassCounts
    positive: ClassCounts


class Abstention(Part):
    negative: Share | None
    positive: Share | None


class Guarantee(Part):
    """What is promised, and the band that keeps the promise.

    Attributes:
        risk: fpr: share of the negatives answered positive; fnr: of the positives answered negative; error: both;
            precision: at least `1 - alpha` at `prevalence`.
        delta: how likely the promise may fail, over draws of whole groups.
        smallest_alpha: what these rows could certify without a mistake.
        reason: why it is out of reach.
        low: `p <= low`: another class; p is the calibrated probability of the positive class.
        high: `p >= high`: the positive class; between `low` and `high` no answer; above 1: never.
        fpr, fnr, abstention, coverage: on the rows of the fit, no proof.
        lines: what the rows can certify, and the promise, in words.
    """

    risk: Risk
    alpha: Level
    delta: Level
    prevalence: float | None
    fitted_on: str
    n: Count
    groups: Count
    per_class: PerClassCounts
    smallest_alpha: Share
    reachable: bool
    reason: str | None
    low: float | None
    high: float | None
    fpr: Share | None
    fnr: Share | None
    abstention: Abstention | None
    coverage: Share | None
    lines: list[str] = Field(default_factory=list)
