"""`selective.json`: error rates of the classifier if it abstains on its least confident photos."""

from __future__ import annotations

from typing import ClassVar

from natix_hf.documents.document import MADE_BY_EVALUATE, Document, Part
from natix_hf.documents.figures import Amount, Count, Interval, Level, Share, Some
from natix_hf.documents.guarantee import Guarantee


class AmountInterval(Interval):
    value: Amount
    low: Amount
    high: Amount


class Rate(Interval):
    """A share of `n` rows in `groups`, with its interval; None if there are no rows."""

    value: Share | None
    low: Share | None
    high: Share | None
    n: Count
    groups: Count


class RiskCurve(Part):
    """The risk-coverage curve: share of decided photos, and error rate among them."""

    coverage: list[Share]
    risk: list[Share]


class BandAbstention(Part):
    negative: Rate
    positive: Rate


class Band(Part):
    """Figures of a guarantee's band on rows that it was not fitted on.

    Attributes:
        precision: precision of the positive decisions, at the class shares of these rows.
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
    """Cost and error rate of a cascade, from "no photo leaves early" to "all photos leave early".

    Attributes:
        high: bound on the first stage's probability; above 1: no photo leaves early.
        early: share of photos that leave early.
        cost: mean cost per photo.
        error: error rate of the cascade.
        loss: share of all photos that leave early with a wrong answer although the second stage is right.
    """

    high: list[Amount]
    early: list[Share]
    cost: list[Amount]
    error: list[Share]
    loss: list[Share]


class CascadeFigures(Part):
    """Figures of a cascade on rows that were not used to choose its band.

    Attributes:
        loss_of_early: `loss` among the photos that leave early.
        error: error rate of the cascade; `error_of_first`, `error_of_second`: of each stage alone.
        cost: cost of the first stage, and additional cost of the second.
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
    """Risk and coverage on a split, the guarantee's band on it, and cost and loss of a cascade."""

    file_name: ClassVar[str] = "selective.json"
    mend: ClassVar[str] = MADE_BY_EVALUATE

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
