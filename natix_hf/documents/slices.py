"""`slices.json`: figures of kinds of photos beside all other photos, the worst kind first and small ones last."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Count, Differences, Figures, Interval, Measured, Share, Some


class Small(Part):
    """A slice with fewer rows or groups than these is small."""

    rows: int
    groups: int


class Slice(Part):
    """One kind of photos.

    Attributes:
        difference: slice less rest; balanced accuracy over the classes that both have.
        fpr, fnr: shares of the other photos taken for positive ones, and of positive ones that are missed; of two
            classes, where the slice has such photos.
        p: two-sided, of the difference in balanced accuracy.
        p_adjusted: for all slices tested (Benjamini and Yekutieli); None: small.
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
    """Every kind of photos that the metadata tells apart.

    Attributes:
        ranked_by: by the upper end of its difference to the rest.
        columns: column -> number of its values.
    """

    file_name: ClassVar[str] = "slices.json"
    mend: ClassVar[str] = "python -m natix_hf.evaluate {folder} writes it"

    small: Small
    ranked_by: Literal["balanced_accuracy"]
    columns: dict[str, Annotated[int, Field(ge=2)]]
    looked_at: Count
    stand_out: Count
    note: str
    slices: list[Slice]
