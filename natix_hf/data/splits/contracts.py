"""The locked splits: after the split nobody indexes the data, a step asks for the rows of its role and the ledger
keeps who asked.

A step (what the code is about to do) has its role, a role has its split, and a run that is no ordinary one has fewer
roles: a run of a sweep cannot read val_test. `STEPS` and `PURPOSES` are the whole law. This file knows nothing of how
the rows were split or what a step does with them. The rows stand in a store of this module, keyed by
the object, so that neither an attribute nor a copy nor a pickle of `LockedSplits` hands them out.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, NoReturn, Protocol
from uuid import uuid4
from weakref import WeakKeyDictionary

from natix_hf.errors import LeakageError, UserError
from natix_hf.files import home

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset

    from natix_hf.documents.ledger import LedgerEntry
    from natix_hf.documents.split_certificate import Rules, SplitCertificate
    from natix_hf.documents.unlabelled_pool import UnlabelledPool

    class Pool(Protocol):
        """What `unlabelled_pool.Pool` is; that file imports this one."""

        def untied(self, labelled: dict[str, Dataset], rules: Rules) -> tuple[Dataset, UnlabelledPool]: ...


SPLITS = ("train", "val_select", "val_calib", "val_test")
PARTS = ("fit", "control")  # the two halves of val_calib
ROLES = {"training": "train", "selection": "val_select", "policy": "val_calib", "final_evaluation": "val_test"}
REFIT = "refit"  # a role without a split: it reads all rows, in a run that is for nothing else
UNLABELLED = "unlabelled"  # another: photos beside the splits, of which none is tied to a row of val_*
POOL = "pool"  # where these stand

# Step -> role -> the parts of val_calib that it may see (none elsewhere).
STEPS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {"training": ()},
    "frozen features": {"training": ()},
    "quantise": {"training": ()},  # the ranges of a network's activations
    "choose checkpoint": {"selection": ()},
    "fit calibration": {"policy": ("fit",)},
    "guarantee": {"policy": ("control",)},
    "predictions": {"selection": (), "policy": PARTS, "final_evaluation": ()},  # only writes logits down
    "final figures": {"final_evaluation": ()},
    "round-trip proof": {"selection": ()},  # compares two forms of one model, reads no labels
    "doubtful labels": {"selection": ()},  # photos that a person is shown
    "confident mistakes": {"final_evaluation": ()},  # likewise
    "refit": {REFIT: ()},
    "pretrain": {"training": (), UNLABELLED: ()},
    "choose milestone": {"training": (), "selection": ()},
}

# What a run is for -> the roles that it may ask for at all, whatever the step.
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
    """Four splits of which a step sees only the rows of its role.

    It has no length, no items and no iteration; `rows` is the only way out, and everything else here is free of rows.
    """

    __slots__ = ("__weakref__", "_description", "_ledger", "_notes", "_pool", "_purpose", "_told")

    def __init__(self, splits: dict[str, Dataset], description: SplitCertificate, notes: Sequence[str] = ()):
        """Lock the rows.

        Args:
            splits: `train`, `val_select`, `val_calib/fit`, `val_calib/control`, `val_test`.
            notes: what the person who reads the rows is to be told.
        """
        _ROWS[self] = dict(splits)
        self._description = description
        self._notes = list(notes)
        self._ledger: list[LedgerEntry] = []
        self._told = 0
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
        """What the person who reads the rows is to be told, a line each."""
        return list(self._notes)

    @property
    def ledger(self) -> list[LedgerEntry]:
        """Who read which rows."""
        return list(self._ledger)

    def new_reads(self) -> list[LedgerEntry]:
        """The entries of the ledger since this was last asked for, for whoever writes them down."""
        entries = self._ledger[self._told :]
        self._told += len(entries)
        return entries

    @property
    def pool(self) -> UnlabelledPool | None:
        """What is known of the pool, where there is one."""
        return self._pool

    @property
    def purpose(self) -> str:
        """What the run is for, one of `PURPOSES`."""
        return self._purpose

    @property
    def training_counts(self) -> dict[str, int]:
        """Photos of each class among the rows that this run trains on."""
        counts = self._description.class_counts
        splits = SPLITS if self._purpose == REFIT else ("train",)
        return {name: sum(counts[split][name] for split in splits) for name in self._description.label_names}

    def narrowest(self) -> tuple[str, tuple[int, int]]:
        """Id, width and height in pixels of the photo with the longest shape, of all splits."""
        shapes = [
            (name, (width, height))
            for rows in _ROWS[self].values()
            for name, width, height in zip(rows["id"][:], rows["width"][:], rows["height"][:], strict=True)
        ]
        return min(shapes, key=lambda shape: min(shape[1]) / max(shape[1]))

    def check_slices(self, columns: Sequence[str]) -> None:
        """Raise `UserError` for a column by which figures cannot be broken down, by the rows of `train`."""
        from natix_hf.data.splits.slicing import check_slices

        check_slices(_ROWS[self]["train"], columns)

    def dedicate(self, purpose: str) -> LockedSplits:
        """Say what the run is for, once and before any row is read; there is no way back. Returns itself.

        Raises:
            LeakageError: it has another purpose already, or rows were read.
        """
        if purpose not in PURPOSES:
            raise LeakageError(f"purpose {purpose!r} is none of {', '.join(PURPOSES)}")
        if purpose != self._purpose:
            if self._purpose != "run" or self._ledger:
                raise LeakageError(
                    f"these splits serve the purpose {self._purpose!r} and {len(self._ledger)} reads are noted: they "
                    f"cannot serve {purpose!r} now: load the photos again"
                )
            self._purpose = purpose
        return self

    def rows(self, role: str, *, step: str, part: str | None = None) -> Dataset:
        """The rows that a step may see, noted in the ledger.

        Args:
            role: `training`, `selection`, `policy` or `final_evaluation`; `refit` for the rows of all four splits;
                `unlabelled` for the photos that `add_pool` brought.
            step: what they are for, one of `STEPS`.
            part: of `val_calib` alone: `fit` (the default) or `control`.

        Returns:
            Rows with `id, image, label, group, origin, fingerprint, width, height` and the source's other columns.
            (The photos may lie in one file with those of the other splits; only `Dataset.data`, pyarrow's raw table,
            would show that.)

        Raises:
            LeakageError: naming the step, the split and the rule, if the step may not read these rows.
        """
        if step not in STEPS:
            raise LeakageError(
                f"step {step!r} asked for role {role!r}: only these steps may read rows: {', '.join(STEPS)}"
            )
        if role not in _WHERE:
            raise LeakageError(
                f"step {step!r} asked for role {role!r}, which is none of {', '.join(_WHERE)}; {_rule(step)}"
            )
        split = _WHERE[role]
        if split == "val_calib" and part is None:
            part = "fit"
        place = split if part is None else f"{split}/{part}"
        if role not in STEPS[step] or (part is not None and part not in STEPS[step][role]):
            raise LeakageError(f"step {step!r} asked for {place} as {role}: {_rule(step)}")
        if role not in PURPOSES[self._purpose]:
            may = ", ".join(PURPOSES[self._purpose])
            raise LeakageError(
                f"step {step!r} asked for {place} as {role}: a run for the purpose {self._purpose!r} may read only as "
                f"{may}"
            )
        if role == REFIT:
            from datasets import concatenate_datasets

            places = ("train", "val_select", *(f"val_calib/{half}" for half in PARTS), "val_test")
            for one in places:
                self._note(step, role, one)
            return concatenate_datasets([_ROWS[self][one] for one in places])
        if role == UNLABELLED and POOL not in _ROWS[self]:
            raise LeakageError(f"step {step!r} asked for the pool, and there is none: bring it with add_pool first")
        self._note(step, role, place)
        return _ROWS[self][place]

    def add_pool(self, pool: Pool) -> UnlabelledPool:
        """Photos without labels, for the purpose `pretrain`, once: those that no row of val_* is tied to.

        Args:
            pool: from `unlabelled_pool.read_pool`.

        Returns:
            What is known of the pool, and which photos were left out; `rows` alone hands its photos out.

        Raises:
            UserError: no photo is left.
            LeakageError: another purpose, or there is a pool already.
        """
        if self._purpose != "pretrain" or self._pool is not None:
            raise LeakageError(
                f"a pool belongs to the purpose 'pretrain' and comes once; the purpose is {self._purpose!r}"
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
        """Neither `copy` nor `pickle`: a copy would be a second, unwatched way to the rows."""
        raise LeakageError(
            "locked splits cannot be copied or pickled: ask rows(role, step=...) for what the step may see"
        )


def count_final_read(fingerprint: str, evaluated: str, run: str) -> int:
    """Note that something was evaluated on these test rows, and tell how many others were before.

    The note is one appended line and everything above it is earlier, so that runs side by side need no lock.

    Args:
        fingerprint: of the rows, as the ledger has it.
        evaluated: fingerprint of what was evaluated (weights with their calibration).
        run: name of the run, for whoever reads the file.

    Returns:
        The number of distinct other `evaluated` that read these rows on this machine before, whatever run they
        belong to.

    Raises:
        UserError: if the notes hold a line that is not one.
    """
    path = home() / "test_reads" / f"{fingerprint}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    note = {"evaluated": evaluated, "run": run, "time": time.time(), "note": uuid4().hex}
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(handle, (json.dumps(note) + "\n").encode())
    finally:
        os.close(handle)
    earlier: set[str] = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            if entry["note"] == note["note"]:
                break
            earlier.add(entry["evaluated"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: line {number} is not a note of a test read; delete that line") from error
    return len(earlier - {evaluated})
