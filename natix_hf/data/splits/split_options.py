"""How rows are to be tied and divided: what a user asks for, checked before anything is read. Knows no rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from natix_hf.data.splits.contracts import SPLITS
from natix_hf.documents.split_certificate import Rules
from natix_hf.errors import UserError

DEFAULT_RATIOS = (0.60, 0.15, 0.15, 0.10)


def check_ratios(ratios: Sequence[float]) -> tuple[float, ...]:
    """The four ratios, if they are four positive numbers that sum to 1.

    Raises:
        UserError: if they are not.
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
    """How rows are tied and divided.

    Args:
        ratios: four positive numbers that sum to 1, for `SPLITS`.
        strata: columns whose values are kept in proportion within each class.
        hold_out: column -> values whose rows go to `val_test` and nowhere else.
        test_alone: `val_test` is the rows of `hold_out` and nothing else: rows tied to them are set aside, and a test
            part that the source brings is pooled with the others.
        test_split: `keep`: a test part that the source brings is `val_test`, and rows tied to it are set aside;
            `merge`: it is pooled with the others.
        near_duplicates: look for altered copies, and keep them together.
        place_column, time_column: columns of coordinates and dates.
        metres, seconds: rows nearer than this in place (and time, where both are known) are one group; None: not
            tied by place.
        largest_share: a group of more than this share of the rows stops the run.
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
            raise UserError("test_alone: nothing is held out: name a column and its values in hold_out")
        if self.metres is not None and self.place_column is None:
            raise UserError("metres: needs place_column, the column that holds latitude and longitude")

    def rules(self, group_columns: Sequence[str]) -> Rules:
        """What was tied and how, for the certificate."""
        near = self.metres is not None
        return Rules(
            group_columns=list(group_columns),
            metres=self.metres,
            seconds=self.seconds if near else None,
            near_duplicates=self.near_duplicates,
            place_column=self.place_column if near else None,
            time_column=self.time_column if near else None,
        )
