"""`reward.json`: StreetVision's reward, simulated for the decisions of a model of two classes, at equal classes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Count, Interval, Resampled, Share, Some

Quantile = Literal["0.05", "0.25", "0.5", "0.75", "0.95"]


class Ranged(Interval):
    value: Annotated[float, Field(ge=0)]
    low: Annotated[float, Field(ge=0)]
    high: Annotated[float, Field(ge=0)]


class ParticipantScores(Part):
    """The other participants that a reward is set beside."""

    name: str
    confirmed: bool
    n: Some
    mean: Annotated[float, Field(gt=0, le=1)]
    quantiles: dict[str, Share]


class RewardEntry(Part):
    """Photos of one profile and source.

    Attributes:
        profile: challenge profile with its date; `clean`: the photos as they are.
        sent: how the profile took the photos; not there for clean ones.
        source: None for all.
        n: predictions that days are drawn from.
        left_out: why there is no reward; then none of the following is there.
        reward: mean reward of a challenge.
        day_reward, day_score: quantiles over the simulated days; the running score at the end of a day.
        relative_pay: reward / mean score of the field.
        percentile: per cent of the field with a lower score.
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
    """Simulated days; the even `prior` is assumed, `challenges` are those of a day for each participant."""

    file_name: ClassVar[str] = "reward.json"
    mend: ClassVar[str] = "python -m natix_hf.evaluate {folder} writes it"

    split: str
    positive_label: str
    prior: Literal[0.5]
    days: Some
    challenges: Some
    seed: Count
    field: ParticipantScores
    entries: list[RewardEntry]
