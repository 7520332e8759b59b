"""The options that say how rows are grouped and divided. They are checked before any photo is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from natix_hf.data.splits.contracts import SPLITS
from natix_hf.documents.split_certificate import Rules
from natix_hf.errors import UserError

DEFAULT_RATIOS = (0.60, 0.15, 0.15, 0.10)


def check_ratios(ratios: Sequence[float]) -> tuple[float, ...]:
    """The four ratios as floats.

    Raises:
        UserError: if they are not four positive numbers that sum to 1.
    """
    shares = tuple(float(ratio) for ratio in ratios)
    if len(shares) != len(SPLITS) or not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise UserError(
            f"split_ratios: expected four positive numbers that sum to 1, for {', '.join(SPLITS)}; found "
            f"{', '.join(f'{share:g}' for share in shares)} (sum {sum(shares):g})"
        )
    return shares


@dataclass(frozen=True)
class Plan:
    """How rows are grouped and divided.

    Args:
        ratios: four positive numbers that sum to 1, for `SPLITS`.
        strata: columns to stratify by, within each class.
        hold_out: column -> values whose rows go only to `val_test`.
        test_alone: `val_test` contains only rows of `hold_out`. Rows tied to them are set aside, and a test split of
            the source is merged with the rest.
        test_split: what to do with a test split of the source. `keep` uses it as `val_test` and sets rows aside that
            are tied to it; `merge` adds it to the rest.
        near_duplicates: find altered copies and keep them together.
        place_column, time_column: columns of coordinates and dates.
        metres, seconds: rows within this distance (and time, if both times are known) form a group. None: rows are
            not tied by place.
        largest_share: largest allowed share of the rows in one group.
    """

    ratios: Sequence[float] = DEFAULT_RATIOS
    seed: int = 0
    strata: Sequence[str] = ()
    hold_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    test_alone: bool = False
    test_split: str = "keep"
    near_duplicates: bool = True
    place_column: str | None = None
    time_column: str | None = None
    metres: float | None = None
    seconds: float | None = None
    largest_share: float = 0.5

    def __post_init__(self) -> None:
        check_ratios(self.ratios)
        if self.test_split not in ("keep", "merge"):
            raise UserError(f"test_split: expected keep or merge, found {self.test_split!r}")
        if self.test_alone and not self.hold_out:
            raise UserError("test_alone: needs hold_out: name a column and its values")
        if self.metres is not None and self.place_column is None:
            raise UserError("metres: needs place_column: name the column with latitude and longitude")

    def rules(self, group_columns: Sequence[str]) -> Rules:
        """The rules of grouping, for the certificate."""
        near = self.metres is not None
        return Rules(
            group_columns=list(group_columns),
            metres=self.metres,
            seconds=self.seconds if near else None,
            near_duplicates=self.near_duplicates,
            place_column=self.place_column if near else None,
            time_column=self.time_column if near else None,
        )
