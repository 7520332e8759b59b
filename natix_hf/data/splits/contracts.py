"""Locked splits: code asks for the rows of its role, and a ledger records every read.

Each step (what the code is about to do) may read under certain roles, and each role has its split. Some runs have
fewer roles: a run of a sweep cannot read val_test. `STEPS` and `PURPOSES` are the complete rules. The rows are stored
in this module, keyed by the `LockedSplits` object, so that no attribute, copy or pickle of it gives access to them.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, NoReturn, Protocol
from uuid import uuid4
from weakref import WeakKeyDictionary

from natix_hf.errors import LeakageError, UserError
from natix_hf.files import append_text, home

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset

    from natix_hf.documents.ledger import LedgerEntry
    from natix_hf.documents.split_certificate import Rules, SplitCertificate
    from natix_hf.documents.unlabelled_pool import UnlabelledPool

    class Pool(Protocol):
        """The interface of `unlabelled_pool.Pool`, whose file imports this one."""

        def untied(self, labelled: dict[str, Dataset], rules: Rules) -> tuple[Dataset, UnlabelledPool]: ...


SPLITS = ("train", "val_select", "val_calib", "val_test")
PARTS = ("fit", "control")  # the two halves of val_calib
ROLES = {"training": "train", "selection": "val_select", "policy": "val_calib", "final_evaluation": "val_test"}
REFIT = "refit"  # a role without a split: it reads all rows, and only a run with this purpose has it
UNLABELLED = "unlabelled"  # also without a split: photos beside the splits, none of them tied to a row of val_*
POOL = "pool"  # where the unlabelled photos are stored

# Step -> role -> the parts of val_calib that it may read (empty for other splits).
STEPS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {"training": ()},
    "frozen features": {"training": ()},
    "quantise": {"training": ()},  # measures the ranges of activations
    "choose checkpoint": {"selection": ()},
    "fit calibration": {"policy": ("fit",)},
    "guarantee": {"policy": ("control",)},
    "predictions": {"selection": (), "policy": PARTS, "final_evaluation": ()},  # only stores logits
    "final figures": {"final_evaluation": ()},
    "round-trip proof": {"selection": ()},  # compares two forms of one model, reads no labels
    "doubtful labels": {"selection": ()},  # shows photos to a person
    "confident mistakes": {"final_evaluation": ()},  # shows photos to a person
    "refit": {REFIT: ()},
    "pretrain": {"training": (), UNLABELLED: ()},
    "choose milestone": {"training": (), "selection": ()},
}

# Purpose of a run -> the roles that its steps may use.
PURPOSES: dict[str, tuple[str, ...]] = {
    "run": tuple(ROLES),
    "sweep": ("training", "selection"),
    "range test": ("training",),
    "refit": (REFIT,),
    "pretrain": ("training", "selection", UNLABELLED),
}
_WHERE = ROLES | {REFIT: "all rows", UNLABELLED: POOL}

_ROWS: WeakKeyDictionary[LockedSplits, dict[str, Dataset]] = WeakKeyDictionary()


def _rule(step: str) -> str:
    places = [
        f"{role} ({_WHERE[role]}{', part ' + ' or '.join(parts) if parts else ''})"
        for role, parts in STEPS[step].items()
    ]
    return f"{step!r} may read only as {' or '.join(places)}"


class LockedSplits:
    """Four splits that give each step only the rows of its role.

    It has no length, no items and no iteration. `rows` is the only method that returns rows.
    """

    __slots__ = ("__weakref__", "_description", "_ledger", "_notes", "_pool", "_purpose", "_reported")

    def __init__(self, splits: dict[str, Dataset], description: SplitCertificate, notes: Sequence[str] = ()):
        """Lock the rows.

        Args:
            splits: `train`, `val_select`, `val_calib/fit`, `val_calib/control`, `val_test`.
            description: the certificate of the splits.
            notes: lines to show to the user.
        """
        _ROWS[self] = dict(splits)
        self._description = description
        self._notes = list(notes)
        self._ledger: list[LedgerEntry] = []
        self._reported = 0
        self._purpose = "run"
        self._pool: UnlabelledPool | None = None

    @property
    def label_names(self) -> list[str]:
        """The classes, in the order of their numbers."""
        return list(self._description.label_names)

    @property
    def description(self) -> SplitCertificate:
        """The certificate of the splits: ids, sizes, counts and fingerprints."""
        return self._description

    @property
    def sizes(self) -> dict[str, int]:
        """Rows per split."""
        return dict(self._description.sizes)

    @property
    def notes(self) -> list[str]:
        """Lines to show to the user."""
        return list(self._notes)

    @property
    def ledger(self) -> list[LedgerEntry]:
        """Who read which rows."""
        return list(self._ledger)

    def new_reads(self) -> list[LedgerEntry]:
        """The entries of the ledger since the last call."""
        entries = self._ledger[self._reported :]
        self._reported += len(entries)
        return entries

    @property
    def pool(self) -> UnlabelledPool | None:
        """The description of the pool of unlabelled photos, or None."""
        return self._pool

    @property
    def purpose(self) -> str:
        """The purpose of the run, one of `PURPOSES`."""
        return self._purpose

    @property
    def training_counts(self) -> dict[str, int]:
        """Photos per class among the rows that this run trains on."""
        counts = self._description.class_counts
        splits = SPLITS if self._purpose == REFIT else ("train",)
        return {name: sum(counts[split][name] for split in splits) for name in self._description.label_names}

    def narrowest(self) -> tuple[str, tuple[int, int]]:
        """Id and (width, height) in pixels of the most elongated photo of all splits."""
        shapes = [
            (name, (width, height))
            for rows in _ROWS[self].values()
            for name, width, height in zip(rows["id"][:], rows["width"][:], rows["height"][:], strict=True)
        ]
        return min(shapes, key=lambda shape: min(shape[1]) / max(shape[1]))

    def check_slices(self, columns: Sequence[str]) -> None:
        """Raise `UserError` if figures cannot be broken down by one of these columns of `train`."""
        from natix_hf.data.splits.slicing import check_slices

        check_slices(_ROWS[self]["train"], columns)

    def dedicate(self, purpose: str) -> LockedSplits:
        """Set the purpose of the run, once and before any row is read. Returns itself.

        Raises:
            LeakageError: if it already has another purpose, or if rows were read.
        """
        if purpose not in PURPOSES:
            raise LeakageError(f"unknown purpose {purpose!r}: expected one of {', '.join(PURPOSES)}")
        if purpose != self._purpose and (self._purpose != "run" or self._ledger):
            raise LeakageError(
                f"these splits have the purpose {self._purpose!r} and were read {len(self._ledger)} times: they "
                f"cannot be used for {purpose!r} any more: load the photos again"
            )
        self._purpose = purpose
        return self

    def rows(self, role: str, *, step: str, part: str | None = None) -> Dataset:
        """The rows that a step may read. The ledger records the read.

        Args:
            role: `training`, `selection`, `policy` or `final_evaluation`; `refit` for the rows of all four splits;
                `unlabelled` for the photos of `add_pool`.
            step: what the rows are used for, one of `STEPS`.
            part: only for `val_calib`: `fit` (the default) or `control`.

        Returns:
            Rows with `id, image, label, group, origin, fingerprint, width, height` and the source's other columns.
            (One file may hold the photos of all splits, but only `Dataset.data`, pyarrow's raw table, would show
            that.)

        Raises:
            LeakageError: if the step may not read these rows. The message names the step, the split and the rule.
        """
        place = self._allowed(role, step, part)
        if role == REFIT:
            from datasets import concatenate_datasets

            places = ("train", "val_select", *(f"val_calib/{half}" for half in PARTS), "val_test")
            for name in places:
                self._note(step, role, name)
            return concatenate_datasets([_ROWS[self][name] for name in places])
        self._note(step, role, place)
        return _ROWS[self][place]

    def _allowed(self, role: str, step: str, part: str | None) -> str:
        """Where the rows of a role are stored; `LeakageError` if the step may not read them."""
        if step not in STEPS:
            raise LeakageError(
                f"step {step!r} asked for role {role!r}: only these steps may read rows: {', '.join(STEPS)}"
            )
        if role not in _WHERE:
            raise LeakageError(
                f"step {step!r} asked for role {role!r}: expected one of {', '.join(_WHERE)}; {_rule(step)}"
            )
        split = _WHERE[role]
        if split == "val_calib" and part is None:
            part = "fit"
        place = split if part is None else f"{split}/{part}"
        if role not in STEPS[step] or (part is not None and part not in STEPS[step][role]):
            raise LeakageError(f"step {step!r} asked for {place} as {role}: {_rule(step)}")
        if role not in PURPOSES[self._purpose]:
            raise LeakageError(
                f"step {step!r} asked for {place} as {role}: a run with the purpose {self._purpose!r} may read only "
                f"as {', '.join(PURPOSES[self._purpose])}"
            )
        if role == UNLABELLED and POOL not in _ROWS[self]:
            raise LeakageError(f"step {step!r} asked for the pool, but there is none: call add_pool first")
        return place

    def add_pool(self, pool: Pool) -> UnlabelledPool:
        """Add unlabelled photos, once and for the purpose `pretrain`. Photos tied to a row of val_* are left out.

        Args:
            pool: the result of `unlabelled_pool.read_pool`.

        Returns:
            The description of the pool, with the photos that were left out. Only `rows` returns its photos.

        Raises:
            UserError: if no photo is left.
            LeakageError: if the run has another purpose, or has a pool already.
        """
        if self._purpose != "pretrain" or self._pool is not None:
            raise LeakageError(
                "a pool can be added once, for the purpose 'pretrain'; the purpose of these splits is "
                f"{self._purpose!r}"
            )
        rows, self._pool = pool.untied({split: _ROWS[self][split] for split in SPLITS}, self._description.rules)
        _ROWS[self][POOL] = rows
        return self._pool

    def _note(self, step: str, role: str, place: str) -> None:
        from natix_hf.documents.ledger import LedgerEntry

        split, _, part = place.partition("/")
        self._ledger.append(
            LedgerEntry(
                step=step,
                role=role,
                split=split,
                part=part or None,
                rows=len(_ROWS[self][place]),
                fingerprint=self._pool.fingerprint if place == POOL else self._description.fingerprints[place],
                time=time.time(),
            )
        )

    def __reduce_ex__(self, protocol: int) -> NoReturn:
        """Refuse `copy` and `pickle`: a copy would be a second, unrecorded way to the rows."""
        raise LeakageError(
            "locked splits cannot be copied or pickled: call rows(role, step=...) for the rows that the step may read"
        )


def count_final_read(fingerprint: str, evaluated: str, run: str) -> int:
    """Record an evaluation on these test rows, and count how many other models were evaluated on them before.

    The record is one appended line, and all lines above it are earlier. So parallel runs need no lock.

    Args:
        fingerprint: fingerprint of the rows, as in the ledger.
        evaluated: fingerprint of the model that was evaluated (weights and calibration).
        run: name of the run, for people who read the file.

    Returns:
        The number of distinct other models that read these rows on this machine before, over all runs.

    Raises:
        UserError: if the file has a line that is not such a record.
    """
    path = home() / "test_reads" / f"{fingerprint}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    note = {"evaluated": evaluated, "run": run, "time": time.time(), "note": uuid4().hex}
    append_text(path, json.dumps(note) + "\n")
    earlier: set[str] = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            if entry["note"] == note["note"]:
                break
            earlier.add(entry["evaluated"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: line {number} is not the record of a test read: delete that line") from error
    return len(earlier - {evaluated})
