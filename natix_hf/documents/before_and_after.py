"""Figures of a model before and after a change, with intervals, on photos that were not used to fit the change."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from natix_hf.documents.calibration import Bounds
from natix_hf.documents.document import Part
from natix_hf.documents.figures import Count, PerClass

OwnFigures = Annotated[dict[str, Bounds], Field(min_length=4)]


class BeforeAndAfter(Part):
    """Figures on the half that nothing was fitted on, with the classes weighted to `shares`."""

    on: str
    n: Count
    groups: Count
    shares: PerClass
    level: float
    before: OwnFigures
    after: OwnFigures
    difference: OwnFigures
