"""`slices.json`: figures of each slice compared with all other photos, the worst first and small slices last."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from natix_hf.documents.document import MADE_BY_EVALUATE, Document, Part
from natix_hf.documents.figures import Count, Differences, Figures, Interval, Measured, Share, Some


class Small(Part):
    """The limits below which a slice is small."""

    rows: int
    groups: int


class Slice(Part):
    """Photos with one value of a metadata column.

    Attributes:
        difference: slice minus all other photos; balanced accuracy over the classes that both have.
        fpr, fnr: false-positive and false-negative rate; only for two classes and if the slice has such photos.
        p: two-sided p-value of the difference in balanced accuracy.
        p_adjusted: adjusted for all tested slices (Benjamini and Yekutieli); None: the slice is small.
    """

    column: str
    value: str
    n: Some
    groups: Some
    labels: dict[str, Count]
    small: bool
    metrics: Figures
    fpr: Interval | None = None
    fnr: Interval | None = None
    difference: Differences
    p: Share | None
    p_adjusted: Share | None
    stands_out: bool


class Slices(Document, Measured):
    """All slices by the metadata columns.

    Attributes:
        ranked_by: metric of the ranking, which uses the upper end of the difference to the other photos.
        columns: column -> number of its values.
    """

    file_name: ClassVar[str] = "slices.json"
    mend: ClassVar[str] = MADE_BY_EVALUATE

    small: Small
    ranked_by: Literal["balanced_accuracy"]
    columns: dict[str, Annotated[int, Field(ge=2)]]
    looked_at: Count
    stand_out: Count
    note: str
    slices: list[Slice]
