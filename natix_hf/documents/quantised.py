"""The effect of int8 quantisation on a model's decisions; part of `export.json` and `proof.json` of an int8 graph."""

from __future__ import annotations

from natix_hf.documents.before_and_after import BeforeAndAfter
from natix_hf.documents.document import Part
from natix_hf.documents.figures import Count, Share, Some
from natix_hf.documents.guarantee import Guarantee


class ChangedDecisions(Part):
    """Photos for which two forms of a model make different decisions.

    Attributes:
        on: the split of the photos, with `n` photos in `groups`.
        share: `changed / n`; `low` and `high` are its 95 % interval over groups.
        bound: largest allowed share.
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
    """How a graph was quantised to int8, and the effect on the decisions of its run.

    Attributes:
        ranges_from: the photos from which the ranges of activations were computed.
        decisions: decisions that differ between the run and the calibrated graph.
        figures: figures of the run (before) and of the calibrated graph (after), on photos that neither calibration
            was fitted on.
        guarantee_before, guarantee_after: guarantees of the run and of the graph from the same photos; None if the run
            has none.
    """

    ranges_from: str
    photos: Some
    decisions: ChangedDecisions
    figures: BeforeAndAfter
    guarantee_before: Guarantee | None
    guarantee_after: Guarantee | None
