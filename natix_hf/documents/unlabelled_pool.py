"""`pool.json`: the photos without labels that pretraining read, and those that it left out."""

from __future__ import annotations

from typing import ClassVar

from natix_hf.documents.document import Document
from natix_hf.documents.figures import Count, Fingerprint, Left


class UnlabelledPool(Document):
    """What is known of a pool.

    Attributes:
        sources: as the recipe named them.
        photos: that were read, after all others were left out.
        groups: that they form with each other and with train.
        fingerprint: over ids and photo fingerprints of what was read.
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

    def told(self) -> str:
        """One line for whoever pretrains."""
        line = f"pool: {self.photos} photos without labels in {self.groups} groups"
        if self.tied:
            named = ", ".join(one.id for one in self.tied[:3]) + ", ..." * (len(self.tied) > 3)
            line += f"; {len(self.tied)} are tied to val_* and left out ({named}; pool.json has all)"
        return line + (f"; {len(self.broken)} cannot be read" if self.broken else "")
