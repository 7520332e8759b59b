"""Divides rows into four splits: train, val_select, val_calib (divided again into fit and control) and val_test.

Rows that show the same photo, video or place form a group, and groups are never divided. Splits are stratified by
class. They depend on the rows and the seed, not on the order of the rows. A source with the four splits keeps them if
no group, photo or id is in two of them. `cut` returns the splits and their certificate, and the caller locks them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, DatasetInfo, concatenate_datasets

from natix_hf.data.sources.columns import as_name, with_text
from natix_hf.data.sources.metadata import category, places, times
from natix_hf.data.sources.rows import Rows
from natix_hf.data.sources.split_names import TEST_WORDS, names_split
from natix_hf.data.splits.brought_splits import check_copies, check_given
from natix_hf.data.splits.certificate import bind, describe
from natix_hf.data.splits.contracts import PARTS, SPLITS, LockedSplits
from natix_hf.data.splits.groups import Grouping, equal_pixels, group_rows
from natix_hf.data.splits.placement import place
from natix_hf.data.splits.split_options import DEFAULT_RATIOS, Plan, check_ratios
from natix_hf.documents.figures import Left
from natix_hf.documents.split_certificate import Halves, SplitCertificate
from natix_hf.errors import UserError

TEST = SPLITS.index("val_test")


@dataclass(frozen=True)
class Cut:
    """Split rows that are not locked yet.

    Args:
        places: `train, val_select, val_calib, val_test, val_calib/fit, val_calib/control`.
        description: their certificate.
        notes: lines to show to the user.
    """

    places: dict[str, Dataset]
    description: SplitCertificate
    notes: list[str] = field(default_factory=list)

    def lock(self) -> LockedSplits:
        """Lock the rows: from here on they can be read only by role."""
        return LockedSplits(self.places, self.description, self.notes)


def _codes(values: Sequence) -> tuple[np.ndarray, list]:
    """Number the distinct values in sorted order: `(n,)` numbers, and the sorted values."""
    names, codes = np.unique(np.asarray(values, dtype=object), return_inverse=True)
    return codes, names.tolist()


def assign(
    labels: Sequence[int | str],
    groups: Sequence[str | None],
    ids: Sequence[str],
    ratios: Sequence[float] = DEFAULT_RATIOS,
    seed: int = 0,
) -> list[str]:
    """The split of each row: groups stay whole, splits are stratified by class, and row order does not matter.

    Args:
        labels: `(n,)` classes.
        groups: `(n,)` group names; a row with None is alone in its group.
        ids: `(n,)` unique ids.
        ratios: four positive numbers that sum to 1, for `SPLITS`.

    Returns:
        `(n,)` names of `SPLITS`. Each split contains every class.

    Raises:
        UserError: for invalid ratios, or if a class has fewer photos or groups than there are splits.
    """
    shares = check_ratios(ratios)
    classes, names = _codes(labels)
    codes, group_names = _codes([f"row:{i}" if group is None else group for group, i in zip(groups, ids)])
    homes = place(classes, codes, group_names, shares, seed, label_names=[str(name) for name in names])
    return [SPLITS[home] for home in homes]


def _tied(data: Dataset, group_values: Mapping[str, Sequence[str | None]], plan: Plan) -> Grouping:
    """Groups of rows that must stay in one split."""

    def same_pixels(first: int, second: int) -> bool:
        return equal_pixels(data[first]["image"], data[second]["image"])

    by_place = plan.metres is not None
    return group_rows(
        data["id"][:],
        group_values,
        data["fingerprint"][:],
        data["look"][:] if plan.near_duplicates else None,
        places=places(data, plan.place_column) if by_place else None,
        times=times(data, plan.time_column) if by_place and plan.time_column else None,
        metres=plan.metres,
        seconds=plan.seconds,
        same_pixels=same_pixels,
        largest_share=plan.largest_share,
    )


def _grouped(data: Dataset, grouping: Grouping) -> Dataset:
    """The rows with their group names and without `look`. No photo is copied."""
    if "look" in data.column_names:
        data = data.remove_columns("look")
    return with_text(data, "group", np.asarray(grouping.names, dtype=object)[grouping.numbers])


def _select(data: Dataset, indices: np.ndarray) -> Dataset:
    """Some rows: a small new table if photos are paths, else a view, so that no photo is copied."""
    rows = data.select(indices, keep_in_memory=True)
    if pc.struct_field(data.data.table.column("image"), "bytes").null_count == len(data.data):
        return Dataset(rows.with_format("arrow")[:], info=DatasetInfo(features=data.features))
    return rows


def _own_test(data: Dataset) -> np.ndarray:
    """`(n,)` True for rows of the source's own test split. All False if the source has no other rows."""
    origins = data["origin"][:]
    kept = np.isin(origins, [origin for origin in set(origins) if names_split(origin) in TEST_WORDS])
    return kept & (not kept.all())


def _tied_to_test(data: Dataset, grouping: Grouping, kept: np.ndarray, what: str) -> list[Left]:
    """Rows outside `val_test` that are tied to rows in it. `what` describes the rows of `val_test` in the reason."""
    ids, holders = data["id"][:], {}
    for row in np.flatnonzero(kept):
        holders.setdefault(int(grouping.numbers[row]), ids[row])
    tied = np.flatnonzero(~kept & np.isin(grouping.numbers, list(holders)))
    return [
        Left(id=ids[row], reason=f"in one group with {holders[int(grouping.numbers[row])]!r} of {what}")
        for row in tied
    ]


def _held_out(data: Dataset, hold_out: Mapping[str, Sequence[str]]) -> np.ndarray:
    """`(n,)` True for rows that have one of the held-out values."""
    held = np.zeros(len(data), dtype=bool)
    for column, wanted in hold_out.items():
        values = np.asarray(category(data, column), dtype=object)
        wanted = [as_name(value) for value in wanted]
        unknown = sorted(set(wanted) - set(values))
        if unknown:
            known = ", ".join(sorted(set(values))[:20])
            raise UserError(f"hold_out: no row has {column} = {', '.join(map(repr, unknown))}: its values are {known}")
        held |= np.isin(values, wanted)
    return held


def _strata(data: Dataset, columns: Sequence[str]) -> np.ndarray | None:
    if not columns:
        return None
    values = [category(data, column) for column in columns]
    return _codes(["\0".join(row) for row in zip(*values)])[0]


def _halves(calib: Dataset, seed: int, parts: Halves | None) -> dict[str, Dataset]:
    """Divide val_calib into its two parts, by whole groups. A class too small for both parts is in `fit`.

    Rows listed in `parts` keep their part, together with their groups.
    """
    codes, names = _codes(calib["group"][:])
    home = {row: PARTS.index(part) for part, ids in parts or () for row in ids}
    fixed = np.asarray([home.get(row, -1) for row in calib["id"][:]])
    homes = place(np.asarray(calib["label"][:]), codes, names, (0.5, 0.5), seed, fixed=fixed)
    return {f"val_calib/{part}": _select(calib, np.flatnonzero(homes == i)) for i, part in enumerate(PARTS)}


def _given(rows: Rows, plan: Plan, certificate: SplitCertificate | None) -> Cut:
    """The splits that the source already has, unchanged."""
    pool = concatenate_datasets([rows.data[split] for split in SPLITS])
    _check_used(np.asarray(pool["label"][:]), rows.label_names)
    check_given(rows.data)
    homes = [split for split in SPLITS for _ in range(len(rows.data[split]))]
    values = {"group": pool["group"][:]}
    if rows.group_values and (columns := rows.group_values["train"]):
        values = {name: [v for split in SPLITS for v in rows.group_values[split][name]] for name in columns}
    grouping = _tied(pool, values, plan)
    check_copies(pool["id"][:], homes, grouping)
    pool = _grouped(pool, grouping)
    at = np.asarray(homes, dtype=object)
    splits = {split: _select(pool, np.flatnonzero(at == split)) for split in SPLITS}
    parts = certificate.parts.val_calib if certificate else None
    seed = certificate.seed if certificate else plan.seed
    everything = splits | _halves(splits["val_calib"], seed, parts)
    if certificate is None:
        rules = plan.rules(values)
        certificate = describe(everything, rows, grouping, ratios=None, seed=plan.seed, rules=rules)
        return Cut(everything, certificate, rows.notes)
    differing = bind(certificate, everything)
    if differing:
        raise UserError(
            f"splits.json does not match the rows beside it: {'; '.join(differing[:3])}: restore the original "
            "splits.json and data set, or split again"
        )
    return Cut(everything, certificate, rows.notes)


def cut(
    rows: Rows,
    plan: Plan | None = None,
    *,
    certificate: SplitCertificate | None = None,
    earlier: Cut | None = None,
) -> Cut:
    """Group the rows and divide them into four splits. A source with the four splits keeps them.

    Args:
        rows: from `load_rows`.
        plan: how to group and divide the rows.
        certificate: the certificate of a source with four splits, which is compared with the rows.
        earlier: splits to extend. Their rows stay where they are. `rows` then contains the old rows, with the same
            ids, and the new ones.

    Raises:
        UserError: if ratios are invalid, if a class has too few photos or groups, if existing splits share a group, a
            photo (altered copies included) or an id, or if one group is larger than `plan.largest_share`.
    """
    plan = plan or Plan()
    if isinstance(rows.data, DatasetDict):
        if plan.hold_out:
            raise UserError(
                "hold_out: the data set already has the four splits, which are kept: give the photos that they were "
                "made from instead"
            )
        return _given(rows, plan, certificate)
    data, values = rows.data, rows.group_values or {"group": rows.data["group"][:]}
    grouping = _tied(data, values, plan)
    fixed, set_aside = _fixed(data, grouping, plan) if earlier is None else _as_before(data, grouping, earlier)
    if set_aside:  # these rows no longer tie others together
        left_out = np.isin(data["id"][:], [row.id for row in set_aside])
        data, values = _without(data, values, left_out)
        grouping, fixed = _tied(data, values, plan), fixed[~left_out]
    whole_test, parts = bool((fixed == TEST).any()), None
    if earlier is not None:
        whole_test, parts = False, earlier.description.parts.val_calib
        set_aside = earlier.description.set_aside + set_aside
        # Groups keep their earlier names. The prefix only distinguishes values of several columns.
        grouping = replace(grouping, names=[name.removeprefix("group:") for name in grouping.names])
    if plan.hold_out:
        fixed[_held_out(data, plan.hold_out) & (fixed < 0)] = TEST
    shares = check_ratios(plan.ratios)
    homes = _homes(data, grouping, shares, plan, fixed, whole_test=whole_test)
    data = _grouped(data, grouping)
    splits = {split: _select(data, np.flatnonzero(homes == i)) for i, split in enumerate(SPLITS)}
    everything = splits | _halves(splits["val_calib"], plan.seed, parts)
    description = describe(
        everything,
        replace(rows, data=data, group_values=values),
        grouping,
        ratios=shares,
        seed=plan.seed,
        strata=plan.strata,
        hold_out=plan.hold_out,
        rules=plan.rules(values),
        set_aside=set_aside,
    )
    return Cut(everything, description, rows.notes)


def _as_before(data: Dataset, grouping: Grouping, earlier: Cut) -> tuple[np.ndarray, list[Left]]:
    """The split of the earlier rows, `(n,)` indices into `SPLITS` or -1, and the new rows that no split can take."""
    home = {row: i for i, split in enumerate(SPLITS) for row in earlier.description.ids[split]}
    fixed = np.asarray([home.get(row, -1) for row in data["id"][:]])
    return fixed, _between(data, grouping, fixed)


def _fixed(data: Dataset, grouping: Grouping, plan: Plan) -> tuple[np.ndarray, list[Left]]:
    """The rows that must be in `val_test`, `(n,)` `TEST` or -1, and the others that are tied to them."""
    kept, what = np.zeros(len(data), dtype=bool), "the source's own test split"
    if plan.test_alone:
        kept, what = _held_out(data, plan.hold_out), "the values held out"
    elif plan.test_split == "keep":
        kept = _own_test(data)
    return np.where(kept, TEST, -1), _tied_to_test(data, grouping, kept, what)


def _without(data: Dataset, values: Mapping[str, Sequence], held: np.ndarray) -> tuple[Dataset, dict[str, list]]:
    keep = np.flatnonzero(~held)
    return data.select(keep, keep_in_memory=True), {name: [column[i] for i in keep] for name, column in values.items()}


def _between(data: Dataset, grouping: Grouping, fixed: np.ndarray) -> list[Left]:
    """New rows that would tie old rows of two splits together."""
    old = np.flatnonzero(fixed >= 0)
    spread = np.zeros((len(grouping.names), len(SPLITS)), dtype=bool)
    spread[grouping.numbers[old], fixed[old]] = True
    torn = np.flatnonzero(spread.sum(axis=1) > 1)
    ids = data["id"][:]
    set_aside = []
    for row in np.flatnonzero((fixed < 0) & np.isin(grouping.numbers, torn)):
        names = " and ".join(split for split, there in zip(SPLITS, spread[grouping.numbers[row]]) if there)
        set_aside.append(Left(id=ids[row], reason=f"tied to rows of {names}"))
    return set_aside


def _homes(
    data: Dataset, grouping: Grouping, shares: Sequence[float], plan: Plan, fixed: np.ndarray, *, whole_test: bool
) -> np.ndarray:
    """`(n,)` indices into `SPLITS`. With `whole_test`, only rows fixed there are in `val_test`."""
    labels, strata, numbers = np.asarray(data["label"][:]), _strata(data, plan.strata), grouping.numbers
    names = data.features["label"].names
    _check_used(labels, names)
    free = np.ones(len(data), dtype=bool)  # rows outside the test split
    if whole_test:
        free = ~np.isin(numbers, numbers[fixed == TEST])
        shares = [share / sum(shares[:TEST]) for share in shares[:TEST]]
    homes = np.full(len(data), TEST)
    groups, group_names = _codes(np.asarray(grouping.names, dtype=object)[numbers[free]])
    try:
        homes[free] = place(
            labels[free],
            groups,
            group_names,
            shares,
            plan.seed,
            strata=None if strata is None else strata[free],
            fixed=fixed[free],
            label_names=names,
        )
    except UserError as error:
        tied = {kind: count for kind, count in grouping.ties.items() if count}
        if not tied:
            raise
        counts = ", ".join(f"{count} by {kind}" for kind, count in tied.items())
        raise UserError(f"{error} (ties between rows: {counts}; tied rows stay in one split)") from error
    return homes


def _check_used(labels: np.ndarray, names: Sequence[str]) -> None:
    """Raise `UserError` if a class has no rows."""
    used = np.bincount(labels, minlength=len(names)) > 0
    if not used.all():
        used_names = " ".join(f"'{name}'" if " " in name else name for name, here in zip(names, used) if here)
        raise UserError(
            f"class {names[int(np.argmin(used))]!r} has 0 photos but is in label_names, or in the data set's list of "
            f"classes: add photos of it, or leave it out with --label_names {used_names}"
        )
