"""A run of a sweep, a range test and a refit get fewer rows, or others, than an ordinary run, and none turns back."""

from __future__ import annotations

import pytest
from split_rows import split_rows, unopened

from natix_hf.data.splits.contracts import PURPOSES, ROLES, SPLITS, STEPS, LockedSplits
from natix_hf.errors import LeakageError

READS = [("train", "training"), ("choose checkpoint", "selection"), ("fit calibration", "policy")]
READS += [("predictions", role) for role in ("selection", "policy", "final_evaluation")]
READS += [("final figures", "final_evaluation"), ("frozen features", "training"), ("refit", "refit")]


@pytest.fixture
def locked() -> LockedSplits:
    return split_rows(unopened(80), near_duplicates=False)


@pytest.mark.parametrize(("step", "role"), READS)
@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_purpose_reads_as_its_roles_alone(locked, purpose, step, role):
    assert locked.dedicate(purpose) is locked
    if role in PURPOSES[purpose]:
        assert len(locked.rows(role, step=step))
        return
    with pytest.raises(LeakageError, match=f"purpose '{purpose}' may read only as"):
        locked.rows(role, step=step)
    assert locked.ledger == []


def test_only_an_ordinary_run_reads_the_test_rows_and_only_a_refit_reads_all():
    assert [purpose for purpose, roles in PURPOSES.items() if "final_evaluation" in roles] == ["run"]
    assert [purpose for purpose, roles in PURPOSES.items() if "refit" in roles] == ["refit"]
    assert PURPOSES["refit"] == ("refit",)
    assert not any("refit" in roles for step, roles in STEPS.items() if step != "refit")


def test_a_refit_reads_every_row_once_and_the_ledger_names_all_four_splits(locked):
    everything = {row for split in SPLITS for row in locked.description.ids[split]}
    rows = locked.dedicate("refit").rows("refit", step="refit")
    assert len(rows) == len(everything) == 80
    assert set(rows["id"][:]) == everything
    noted = [(entry.role, entry.split, entry.part, entry.rows) for entry in locked.ledger]
    sizes = locked.sizes
    halves = {half: len(ids) for half, ids in locked.description.parts.val_calib}
    assert noted == [
        ("refit", "train", None, sizes["train"]),
        ("refit", "val_select", None, sizes["val_select"]),
        ("refit", "val_calib", "fit", halves["fit"]),
        ("refit", "val_calib", "control", halves["control"]),
        ("refit", "val_test", None, sizes["val_test"]),
    ]


def test_classes_are_counted_over_the_rows_that_are_trained_on(locked):
    counts = locked.description.class_counts
    assert locked.training_counts == counts["train"]
    assert locked.dedicate("refit").training_counts == {"None": 40, "Roadwork": 40}


@pytest.mark.parametrize("purpose", [purpose for purpose in PURPOSES if purpose != "run"])
def test_there_is_no_way_back_and_no_change_after_the_first_read(locked, purpose):
    locked.rows("training", step="train")
    with pytest.raises(LeakageError, match="were read 1 times"):
        locked.dedicate(purpose)


@pytest.mark.parametrize("purpose", [purpose for purpose in PURPOSES if purpose != "run"])
def test_no_purpose_becomes_another(locked, purpose):
    locked.dedicate(purpose).dedicate(purpose)
    for other in set(PURPOSES) - {purpose}:
        with pytest.raises(LeakageError, match="load the photos again"):
            locked.dedicate(other)
    with pytest.raises(LeakageError, match="expected one of"):
        locked.dedicate("peeking")
    with pytest.raises(AttributeError):
        locked.purpose = "run"


def test_every_role_belongs_to_some_purpose():
    assert {role for roles in PURPOSES.values() for role in roles} == {*ROLES, "refit", "unlabelled"}
