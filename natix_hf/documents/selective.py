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


class CostCurve(Part):
    """What a cascade costs and how often it is wrong, from "no photo leaves early" to "all leave".

    Attributes:
        high: bound on the first stage's probability; above 1: no photo leaves.
        early: share of photos that leave early.
        cost: of a photo on average.
        error: share of wrong answers of the cascade.
        loss: share of all photos that leave with a wrong answer where the second stage is right.
    """

    high: list[Amount]
    early: list[Share]
    cost: list[Amount]
    error: list[Share]
    loss: list[Share]


class CascadeFigures(Part):
    """What a cascade gives on rows that its band was not chosen on.

    Attributes:
        loss_of_early: `loss` among the photos that leave early.
        error: share of wrong answers of the cascade; `error_of_first`, `error_of_second`: of each stage alone.
        cost: of the first stage, and what the second adds.
    """

    low: float | None
    high: float | None
    alpha: Level | None
    certified: bool
    early: Rate
    loss: Rate
    loss_of_early: Rate
    error: Rate
    error_of_first: Rate
    error_of_second: Rate
    cost: list[Amount]
    cost_in: str
    mean_cost: AmountInterval
    curve: CostCurve


class Selective(Document):
    """Risk against coverage on a split, the guarantee's band there, and of a cascade what it costs and loses."""

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
    cascade: CascadeFigures | None = None
