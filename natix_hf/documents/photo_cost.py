"""`photo_cost.json`: what one photo costs the model of a run."""

from __future__ import annotations

from typing import ClassVar

from natix_hf.documents.document import Document
from natix_hf.documents.figures import Amount, Some


class PhotoCost(Document):
    """What the network sees of a photo, and what it spends on it, forward alone.

    Attributes:
        views: pictures that the network sees of a photo.
        height, width: of a view in pixels.
        tokens: of all views, class token and registers included.
        flop: floating-point operations, counted on the model.
        seconds: of the network alone, without reading and preparing the photo; fp32.
        batch: photos at a time while it was timed.
        device: that it was timed on.
    """

    file_name: ClassVar[str] = "photo_cost.json"
    mend: ClassVar[str] = "bring the file back, or train the run again: natix-hf train {folder}/recipe.yaml"

    views: Some
    height: Some
    width: Some
    tokens: Some
    flop: Some
    seconds: Amount
    batch: Some
    device: str
