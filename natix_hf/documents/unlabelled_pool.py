"""`pool.json`: the unlabelled photos that pretraining used, and those that it left out."""

from __future__ import annotations

from typing import ClassVar

from natix_hf.documents.document import Document
from natix_hf.documents.figures import Count, Fingerprint, Left


class UnlabelledPool(Document):
    """A pool of unlabelled photos.

    Attributes:
        sources: the sources from the recipe.
        photos: number of photos in use, without those that were left out.
        groups: number of groups that they form together with train.
        fingerprint: fingerprint of ids and photos in use.
        tied: photos that are near-duplicates of rows of val_*, or in a group with one.
        broken: photos that cannot be read.
    """

    file_name: ClassVar[str] = "pool.json"
    mend: ClassVar[str] = "pretrain again into another folder"

    sources: list[str]
    photos: Count
    groups: Count
    fingerprint: Fingerprint
    tied: list[Left]
    broken: list[Left]

    def line(self) -> str:
        """One line for the user."""
        line = f"pool: {self.photos} photos without labels in {self.groups} groups"
        if self.tied:
            named = ", ".join(photo.id for photo in self.tied[:3]) + ", ..." * (len(self.tied) > 3)
            line += f"; {len(self.tied)} are tied to val_* and left out ({named}; pool.json has all)"
        return line + (f"; {len(self.broken)} cannot be read" if self.broken else "")
