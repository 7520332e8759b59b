"""`reward.json`: StreetVision's reward, simulated for the decisions of a two-class model at equal class shares."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from natix_hf.documents.document import MADE_BY_EVALUATE, Document, Part
from natix_hf.documents.figures import Count, Interval, Resampled, Share, Some

Quantile = Literal["0.05", "0.25", "0.5", "0.75", "0.95"]


class Ranged(Interval):
    value: Annotated[float, Field(ge=0)]
    low: Annotated[float, Field(ge=0)]
    high: Annotated[float, Field(ge=0)]


class ParticipantScores(Part):
    """The scores of the other participants, with which a reward is compared."""

    name: str
    confirmed: bool
    n: Some
    mean: Annotated[float, Field(gt=0, le=1)]
    quantiles: dict[str, Share]


class RewardEntry(Part):
    """Photos of one profile and source.

    Attributes:
        profile: dated name of the challenge profile, or `clean` for unchanged photos.
        sent: how the profile read the photos; absent for `clean`.
        source: source of the photos; None for all sources.
        n: number of predictions to draw from.
        left_out: why there is no reward; the fields below are absent then.
        reward: mean reward of a challenge.
        day_reward: quantiles of the mean reward over the simulated days.
        day_score: quantiles of the running score at the end of a day.
        relative_pay: reward / mean score of the field.
        percentile: percentage of the field with a lower score.
    """

    profile: str
    sent: str | None = None
    source: str | None
    n: Some
    groups: Some
    positives: Count
    left_out: str | None = None
    recall: Share | None = None
    specificity: Share | None = None
    reward: Ranged | None = None
    day_reward: dict[Quantile, Share] | None = None
    day_score: dict[Quantile, Share] | None = None
    relative_pay: Ranged | None = None
    percentile: Ranged | None = None


class Reward(Document, Resampled):
    """Simulated days at an equal `prior`; `challenges` is the number of challenges per day for each participant."""

    file_name: ClassVar[str] = "reward.json"
    mend: ClassVar[str] = MADE_BY_EVALUATE

    split: str
    positive_label: str
    prior: Literal[0.5]
    days: Some
    challenges: Some
    seed: Count
    field: ParticipantScores
    entries: list[RewardEntry]
