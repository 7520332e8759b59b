"""Documents of pretraining: the checks of its guard (`guard.json`) and the choice of a milestone (`choice.json`)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Count, Difference, Metric, Share


class Look(Part):
    """Measures of the class tokens of a fixed set of photos, computed by the weight average after a step.

    Attributes:
        rank: effective rank (RankMe).
        neighbour_distance: mean distance of unit vectors to their nearest neighbour, 0 to 2.
        cosine, cka: similarity to the original model; 1 means unchanged.
        teacher_entropy: entropy of the teacher's outputs relative to the uniform distribution; None without a teacher.
    """

    step: Count
    rank: Amount
    neighbour_distance: Amount
    cosine: float
    cka: float
    teacher_entropy: float | None


class GuardRecord(Document):
    """`guard.json`: the measures after each check; the first are those of the original model."""

    file_name: ClassVar[str] = "guard.json"
    mend: ClassVar[str] = "pretrain again into another folder"

    looks: Annotated[list[Look], Field(min_length=1)]


class Candidate(Part):
    """The original model (step 0) or a milestone, evaluated with probes on its frozen features.

    Attributes:
        probes: share of the labels -> score on val_select, mean over draws of whole groups; None if a draw lacks a
            class.
        knn: score of 20 nearest neighbours by cosine similarity.
        forgetting: score on an unrelated data set, or None.
        beside_original: share of the labels -> score minus that of the original, with its interval over groups; empty
            for the original. All draws of one share are evaluated together.
    """

    step: Count
    probes: dict[str, float | None]
    knn: float
    forgetting: float | None
    beside_original: dict[str, Difference]


class MilestoneChoice(Document):
    """`choice.json`: which milestone was chosen, and why.

    Attributes:
        metric: metric of all scores.
        rows, groups: of val_select.
        level: confidence level of the intervals, which increases with the number of milestones.
        chosen: step of the chosen model, 0 for the original.
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
