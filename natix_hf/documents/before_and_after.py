"""Figures of a model before and after a change, with intervals: on photos that the change was not fitted on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from natix_hf.documents.calibration import Bounds
from natix_hf.documents.document import Part
from natix_hf.documents.figures import Count, PerClass

OwnFigures = Annotated[dict[str, Bounds], Field(min_length=4)]


class BeforeAndAfter(Part):
    """Figures of the half that nothing was fitted on, put together from each class at these class shares."""

    on: str
    n: Count
    groups: Count
    shares: PerClass
    level: float
    before: OwnFigures
    after: OwnFigures
    difference: OwnFigures
