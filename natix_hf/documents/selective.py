"""`selective.json`: how wrong the classifier is among the photos that it is most confident of."""

from __future__ import annotations

from typing import ClassVar

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Count, Interval, Level, Share, Some
from natix_hf.documents.guarantee import Guarantee


class AmountInterval(Interval):
    value: Amount
    low: Amount
    high: Amount


class Rate(Interval):
    """A share of `n` rows in `groups`, with its interval; None where there are none."""

    value: Share | None
    low: Share | None
    high: Share | None
    n: Count
    groups: Count


class RiskCurve(Part):
    """Share of photos answered, and share of mistakes among them."""

    coverage: list[Share]
    risk: list[Share]


class BandAbstention(Part):
    negative: Rate
    positive: Rate


class Band(Part):
    """What the band of a guarantee gives on rows that it was not fitted on.

    Attributes:
        precision: of the answers with the positive class, at the prior of these rows.
    """

    low: float
    high: float
    fpr: Rate
    fnr: Rate
    abstention: BandAbstention
    coverage: Rate
    precision: Rate
    wrong_among_answered: Rate


class Selective(Document):
    """Risk against coverage on a split, and the guarantee's band there."""

    file_name: ClassVar[str] = "selective.json"
    mend: ClassVar[str] = "python -m natix_hf.evaluate {folder} writes it"

    split: str
    level: Level
    resamples: Some
    n: Some
    groups: Some
    curve: RiskCurve
    aurc: AmountInterval
    augrc: AmountInterval
    guarantee: Guarantee | None
    band: Band | None
