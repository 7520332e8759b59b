"""What pretraining leaves behind beside the model: the looks of its guard, and how the milestone was chosen."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Count, Difference, Metric, Share


class Look(Part):
    """Class tokens of a fixed set of photos, by the average as it stood after a step.

    Attributes:
        rank: effective rank (RankMe).
        neighbour_distance: mean distance of unit vectors to the nearest other one, 0 to 2.
        cosine, cka: likeness to the original, 1 where nothing has changed.
        teacher_entropy: of the teacher's outputs, as a share of that of the uniform distribution; None without one.
    """

    step: Count
    rank: Amount
    neighbour_distance: Amount
    cosine: float
    cka: float
    teacher_entropy: float | None


class GuardRecord(Document):
    """`guard.json`: the looks, the original's first."""

    file_name: ClassVar[str] = "guard.json"
    mend: ClassVar[str] = "pretrain again into another folder"

    looks: Annotated[list[Look], Field(min_length=1)]


class Candidate(Part):
    """The original (step 0) or a milestone, as probes on its frozen features see it.

    Attributes:
        probes: share of the labels -> score on val_select, mean over draws of whole groups; None where so few rows
            do not hold every class.
        knn: score of 20 nearest neighbours by cosine.
        forgetting: score on the data set of another kind, where there is one.
        beside_original: share of the labels -> score less that of the original, with its interval over groups; empty
            for the original. Draws of few labels are judged together.
    """

    step: Count
    probes: dict[str, float | None]
    knn: float
    forgetting: float | None
    beside_original: dict[str, Difference]


class MilestoneChoice(Document):
    """`choice.json`: which milestone became the result, and why.

    Attributes:
        metric: of all scores.
        rows, groups: of val_select.
        level: of the intervals; the more milestones there are, the wider.
        chosen: step of the result, 0 for the original.
        reason: one line.
    """

    file_name: ClassVar[str] = "choice.json"
    mend: ClassVar[str] = "go on with natix-hf pretrain ... --resume_from_checkpoint true"

    metric: Metric
    rows: Count
    groups: Count
    level: Share
    forgetting_name: str | None
    candidates: Annotated[list[Candidate], Field(min_length=1)]
    chosen: Count
    reason: str
