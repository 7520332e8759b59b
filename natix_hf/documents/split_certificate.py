"""`splits.json`, which says which row is in which split, and `splits_summary.json`, its numbers for publishing.

A place is one of the four splits or one of the two parts of `val_calib`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Classes, Count, Fingerprint, Left, Share
from natix_hf.errors import UserError
from natix_hf.files import fingerprint_bytes

Split = Literal["train", "val_select", "val_calib", "val_test"]
Place = Literal["train", "val_select", "val_calib", "val_test", "val_calib/fit", "val_calib/control"]
Ratio = Annotated[float, Field(gt=0, lt=1)]
Whole = Annotated[int | float, Field(ge=0)]  # keeps its type, because the seal distinguishes 30 and 30.0
Ratios = Annotated[list[Ratio], Field(min_length=4, max_length=4)]


class Rules(Part):
    """The rules by which rows were tied into groups."""

    group_columns: list[str]
    metres: Whole | None
    seconds: Whole | None
    near_duplicates: bool
    place_column: str | None = None
    time_column: str | None = None


class PriorShift(Part):
    """Pearson's chi-squared test of split x class; `shares`: split -> class -> share."""

    chi2: Amount
    dof: Count
    p: Share
    shares: dict[Split, dict[str, Share]]


class LargestGroup(Part):
    name: str
    rows: Count
    share: Share


class LargestGroupInNumbers(Part):
    rows: Count
    share: Share


class Halves(Part):
    fit: list[str]
    control: list[str]


class Parts(Part):
    val_calib: Halves


class LabelConflict(Part):
    """Copies of one photo with different labels."""

    ids: list[str]
    labels: Annotated[list[str], Field(min_length=2)]
    kind: Literal["bytes", "pixels", "near-duplicate"]


class RowNumbers(Part):
    """Numbers about the divided rows, without names of rows.

    Attributes:
        sizes, reached: number of photos of a split, and its share.
        class_counts: place -> class -> number of photos.
        group_sizes: place -> group size -> number of groups of that size.
        sources: source -> number of rows.
        repeated_photos: number of rows with a photo that another row has too, byte for byte.
        fingerprint: fingerprint of the fingerprints of the four splits.
        fingerprints: place -> fingerprint of its sorted ids and photo fingerprints.
    """

    sizes: dict[Split, Count]
    reached: dict[Split, Share]
    class_counts: dict[Place, dict[str, Count]]
    prior_shift: PriorShift
    groups: dict[Place, Count]
    group_sizes: dict[Place, dict[str, Count]]
    sources: dict[str, Count]
    repeated_photos: Count
    fingerprint: Fingerprint
    fingerprints: dict[Place, Fingerprint]

    @model_validator(mode="after")
    def _all_places(self) -> Self:
        for name in ("class_counts", "groups", "group_sizes", "fingerprints"):
            if missing := [place for place in Place.__args__ if place not in getattr(self, name)]:
                raise ValueError(f"{name}: no {', '.join(missing)}")
        return self


class CountedRows(RowNumbers):
    """Numbers and names of the divided rows.

    Attributes:
        byte_fingerprints: place -> fingerprint of its sorted photo fingerprints.
        photo_prints: split -> the first 16 hex digits of each photo's fingerprint, sorted, in one string. They show
            later whether a photo was in the split.
        ids: split -> ids of its rows.
    """

    largest_group: LargestGroup
    byte_fingerprints: dict[Place, Fingerprint]
    photo_prints: dict[Split, str] = Field(default_factory=dict)
    ids: dict[Split, list[str]]
    parts: Parts


class HowSplit(RowNumbers):
    """The content of both documents: how the rows were divided, and numbers about them.

    Attributes:
        label_names: class names in the order of their ids.
        ratios: requested shares of the four splits; None if the data set already had splits.
        strata: columns by which the splits were stratified.
        hold_out: column -> values that are only in `val_test`.
        ties: kind of tie -> number of ties.
        straddling: number of groups in more than one split, after computing all ties again.
    """

    label_names: Classes
    ratios: Ratios | None
    seed: int
    strata: list[str]
    hold_out: dict[str, list[str]]
    rules: Rules
    ties: dict[str, Count]
    straddling: Count
    seal: Fingerprint


class SplitCertificate(Document, HowSplit, CountedRows):
    """Which row is in which split, and what is needed to check it.

    Attributes:
        conflicts: copies of one photo with different labels.
        broken: photos that could not be read.
        dropped: readable rows that were left out on purpose.
        set_aside: rows that fit into no split, such as new photos that are tied to two splits.
        seal: blake2b-128 of the canonical JSON (sorted keys, no spaces) of all other fields.
    """

    file_name: ClassVar[str] = "splits.json"
    mend: ClassVar[str] = "bring the file back as it was written, or split again (python -m natix_hf.data split)"
    edition: ClassVar[int] = 2

    conflicts: list[LabelConflict]
    broken: list[Left]
    dropped: list[Left]
    set_aside: list[Left]

    @classmethod
    def sealed(cls, **fields: Any) -> Self:
        """Make a certificate and compute its seal."""
        unsealed = cls(**{**fields, "seal": "0" * 32})
        return unsealed.model_copy(update={"seal": unsealed._seal_of_content()})

    def check_seal(self, where: str | Path) -> None:
        """Raise `UserError` if the content does not match the seal; `where` names the file."""
        if self.seal != self._seal_of_content():
            raise UserError(
                f"{where}: edited by hand or damaged: its seal {self.seal} does not match its content: bring the "
                "file back as it was written, or split again (python -m natix_hf.data split)"
            )

    def _seal_of_content(self) -> str:
        content = {self.edition_key: self.edition, **self.plain()}
        del content["seal"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return fingerprint_bytes(text.encode())


class SplitSummary(Document, HowSplit):
    """The numbers of a certificate, without names of photos and groups.

    Attributes:
        left_out: kind (`conflicts`, `broken`, `dropped`, `set_aside`) -> number of entries in the certificate.
    """

    file_name: ClassVar[str] = "splits_summary.json"

    largest_group: LargestGroupInNumbers
    left_out: dict[str, Count]
