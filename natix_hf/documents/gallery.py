"""`gallery.json`: the photos that the report shows, kept beside the run on this machine; not to be published."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Share, Some


class GalleryPhoto(Part):
    """One photo.

    Attributes:
        attention: a transparent picture, a pixel a patch; None where there is none.
        box: left, top, width, height of what the model saw, as shares of the photo.
    """

    split: Literal["val_select", "val_test"]
    id: str
    photo: Annotated[str, Field(pattern=r"^gallery/[a-z0-9_-]+\.jpg$")]
    width: Some
    height: Some
    attention: Annotated[str, Field(pattern=r"^gallery/[a-z0-9_-]+\.png$")] | None
    box: Annotated[list[Share], Field(min_length=4, max_length=4)]


class Gallery(Document):
    """Small copies of photos, at most `max_side` pixels a side."""

    file_name: ClassVar[str] = "gallery.json"

    max_side: Some
    photos: list[GalleryPhoto]
