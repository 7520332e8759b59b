"""`photo_cost.json`: what one photo costs the model of a run."""

from __future__ import annotations

from typing import ClassVar

from natix_hf.documents.document import Document
from natix_hf.documents.figures import Amount, Some


class PhotoCost(Document):
    """What the network sees of a photo, and the cost of its forward pass.

    Attributes:
        views: number of views of a photo.
        height, width: size of a view in pixels.
        tokens: tokens of all views, class token and registers included.
        flop: floating-point operations, counted on the model.
        seconds: time of the forward pass in fp32, without reading and preprocessing.
        batch: batch size during the timing.
        device: device of the timing.
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
