"""The guarantee of an abstain band, fitted on rows that nothing else reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from natix_hf.documents.document import Part
from natix_hf.documents.figures import Amount, Count, Level, Share

Risk = Literal["fpr", "fnr", "error", "precision"]


class ClassCounts(Part):
    """The rows of one class from which a bound is computed.

    Attributes:
        largest: photos in the largest group.
        effective: `n / largest`, the effective number of groups in a bound.
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
    """The guarantee, and the band that satisfies it.

    Attributes:
        risk: the bounded risk. fpr: share of negatives decided as positive; fnr: share of positives decided as
            negative; error: both; precision: at least `1 - alpha` at `prevalence`.
        delta: probability that the guarantee fails, over draws of whole groups.
        smallest_alpha: the smallest alpha that these rows could certify without a mistake.
        reachable: whether the rows can certify the guarantee; `reason` says why not.
        low: the decision is a negative class if `p <= low`; p is the calibrated probability of the positive class.
        high: the decision is the positive class if `p >= high`; above 1: never. Between `low` and `high` the model
            abstains.
        fpr, fnr, abstention, coverage: measured on the rows of the fit, so they prove nothing.
        lines: sentences about what the rows can certify and about the guarantee.
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
