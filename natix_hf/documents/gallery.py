"""`gallery.json`: the photos in the report. They stay in the run folder and are not published."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Share, Some


class GalleryPhoto(Part):
    """One photo of the gallery.

    Attributes:
        attention: path of a transparent heat map with one pixel per patch, or None.
        box: left, top, width and height of the area that the model saw, as shares of the photo.
    """

    split: Literal["val_select", "val_test"]
    id: str
    photo: Annotated[str, Field(pattern=r"^gallery/[a-z0-9_-]+\.jpg$")]
    width: Some
    height: Some
    attention: Annotated[str, Field(pattern=r"^gallery/[a-z0-9_-]+\.png$")] | None
    box: Annotated[list[Share], Field(min_length=4, max_length=4)]


class Gallery(Document):
    """Small copies of photos; their longer side is at most `max_side` pixels."""

    file_name: ClassVar[str] = "gallery.json"

    max_side: Some
    photos: list[GalleryPhoto]
