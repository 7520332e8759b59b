"""`publication.json`: the published version of a model, with which the next push compares its own."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from natix_hf.documents.document import Document
from natix_hf.documents.export import ExportFormat, Precision
from natix_hf.documents.figures import Some


class PublishedVersion(Document):
    """A version in the model's repository.

    Attributes:
        version: X.Y.Z, also the tag.
        test: fingerprint of the `n` photos of val_test.
        honest_run: for a refit: the run that the figures belong to.
        model: fingerprint of the run's merged weights in fp32.
        files: all files of this version, which the next version replaces.
    """

    file_name: ClassVar[str] = "publication.json"
    edition_key: ClassVar[str] = "schema"

    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")]
    test: Annotated[str, Field(min_length=1)]
    n: Some
    mcc: float | None
    accuracy: float | None
    log_loss: float | None
    honest_run: str | None
    dtype: Precision
    format: ExportFormat
    model: str
    files: list[str]
