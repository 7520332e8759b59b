"""What rounding a model to int8 did to its decisions; stands in `export.json` and `proof.json` of such a graph."""

from __future__ import annotations

from natix_hf.documents.before_and_after import BeforeAndAfter
from natix_hf.documents.document import Part
from natix_hf.documents.figures import Count, Share, Some
from natix_hf.documents.guarantee import Guarantee


class ChangedDecisions(Part):
    """Photos that two forms of a model put into different classes.

    Attributes:
        on: the photos: a split, `n` photos in `groups`.
        share: `changed / n`; `low` and `high` are its 95 % interval over groups.
        bound: the largest share that was let pass.
    """

    on: str
    n: Some
    groups: Some
    changed: Count
    share: Share
    low: Share
    high: Share
    bound: Share


class Quantised(Part):
    """How a graph was rounded to int8, and what that did to the decisions of its run.

    Attributes:
        ranges_from: the photos that gave the ranges of activations.
        decisions: of the run and of the calibrated graph.
        figures: of the run before, of the calibrated graph after, on photos that neither calibration was fitted on.
        guarantee_before, guarantee_after: the promise of the run, and that of the graph, from the same photos; None
            where the run makes none.
    """

    ranges_from: str
    photos: Some
    decisions: ChangedDecisions
    figures: BeforeAndAfter
    guarantee_before: Guarantee | None
    guarantee_after: Guarantee | None
