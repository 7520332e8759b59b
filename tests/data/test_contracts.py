"""The locked splits give a step the rows of its role and nothing else, and remember who asked."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
from collections.abc import Iterable

import pytest
from datasets import Dataset
from pydantic import BaseModel, ValidationError
from split_rows import split_rows, unopened

from natix_hf.data.splits import contracts
from natix_hf.data.splits.contracts import ROLES, STEPS, LockedSplits, count_final_read
from natix_hf.errors import LeakageError, UserError

PLACES = [
    ("training", None, "train"),
    ("selection", None, "val_select"),
    ("policy", "fit", "val_calib/fit"),
    ("policy", "control", "val_calib/control"),
    ("final_evaluation", None, "val_test"),
]
ALLOWED = {
    "train": {"train"},
    "frozen features": {"train"},
    "quantise": {"train"},
    "choose checkpoint": {"val_select"},
    "fit calibration": {"val_calib/fit"},
    "guarantee": {"val_calib/control"},
    "predictions": {"val_select", "val_calib/fit", "val_calib/control", "val_test"},
    "final figures": {"val_test"},
    "round-trip proof": {"val_select"},
    "doubtful labels": {"val_select"},
    "confident mistakes": {"val_test"},
    "refit": set(),
    "pretrain": {"train"},
    "choose milestone": {"train", "val_select"},
}


@pytest.fixture
def locked() -> LockedSplits:
    return split_rows(unopened(80), near_duplicates=False)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("role", "part", "place"), PLACES)
def test_a_step_gets_the_rows_of_its_role_and_no_others(locked, step, role, part, place):
    if place in ALLOWED[step]:
        rows = locked.rows(role, step=step, part=part)
        split, _, half = place.partition("/")
        description = locked.description
        expected = getattr(description.parts.val_calib, half) if half else description.ids[split]
        assert rows["id"][:] == expected
        return
    with pytest.raises(LeakageError) as caught:
        locked.rows(role, step=step, part=part)
    message = str(caught.value)
    assert repr(step) in message
    assert place in message
    assert "may read only as" in message
    assert locked.ledger == []


def test_the_table_of_steps_and_the_test_speak_of_the_same_steps():
    assert set(STEPS) == set(ALLOWED)


@pytest.mark.parametrize(
    "request_",
    [
        {"role": "training", "step": "peek"},
        {"role": "val_test", "step": "train"},
        {"role": "everything", "step": "final figures"},
        {"role": "policy", "step": "fit calibration", "part": "both"},
        {"role": "final_evaluation", "step": "final figures", "part": "fit"},
    ],
)
def test_unknown_steps_roles_and_parts_are_leakage(locked, request_):
    with pytest.raises(LeakageError):
        locked.rows(request_["role"], step=request_["step"], part=request_.get("part"))


def test_policy_means_the_fit_part_unless_said_otherwise(locked):
    rows = locked.rows("policy", step="predictions")
    assert rows["id"][:] == locked.description.parts.val_calib.fit
    with pytest.raises(LeakageError, match=r"val_calib/fit.*part control"):
        locked.rows("policy", step="guarantee")


def test_the_object_is_no_container(locked):
    assert not isinstance(locked, Iterable)
    for use in (len, iter, list, lambda splits: splits["train"], lambda splits: splits[0]):
        with pytest.raises(TypeError):
            use(locked)


def reachable(value, depth: int = 4):
    """Everything that attributes, items and properties lead to."""
    yield value
    if depth == 0 or isinstance(value, str | int | float | type | None):
        return
    if isinstance(value, dict):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set):
        inner = list(value)
    elif isinstance(value, BaseModel):
        inner = list(vars(value).values())
    elif isinstance(value, LockedSplits):
        inner = [getattr(value, name) for name in dir(value)]
    elif hasattr(value, "__func__"):
        inner = [getattr(value.__func__, name, None) for name in ("__closure__", "__defaults__", "__kwdefaults__")]
    else:
        inner = []
    for part in inner:
        yield from reachable(part, depth - 1)


def test_nothing_that_the_object_holds_leads_to_rows(locked):
    held = list(reachable(locked))
    assert len(held) > 100
    assert not [value for value in held if isinstance(value, Dataset)]
    assert not [value for value in held if type(value).__module__.startswith(("pyarrow", "datasets"))]
    assert not [value for value in gc.get_referents(locked) if isinstance(value, Dataset)]


def test_copies_and_pickles_are_refused(locked):
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(LeakageError, match="copied or pickled"):
            attempt(locked)


def test_attributes_cannot_be_added_and_facts_cannot_be_changed_from_outside(locked):
    with pytest.raises(AttributeError):
        locked.data = 1
    locked.sizes["train"] = 0
    locked.ledger.append({})
    locked.label_names.clear()
    with pytest.raises(ValidationError, match="frozen"):
        locked.description.seed = 99
    assert locked.sizes["train"] == 48
    assert locked.ledger == []
    assert locked.label_names == ["None", "Roadwork"]
    assert locked.description.seed == 0


def test_rows_of_a_split_hold_no_rows_of_another_even_in_the_raw_table(locked):
    for role, part, place in PLACES:
        step = next(step for step, places in ALLOWED.items() if place in places)
        rows = locked.rows(role, step=step, part=part)
        assert rows.data.num_rows == len(rows)
        assert rows.data.table.column("id").to_pylist() == rows["id"][:]


def test_rows_vanish_with_the_object(locked):
    gc.collect()  # of earlier tests
    before = len(contracts._ROWS)
    fresh = LockedSplits({}, locked.description)
    assert len(contracts._ROWS) == before + 1
    del fresh
    gc.collect()
    assert len(contracts._ROWS) == before


def test_the_ledger_tells_who_read_which_rows(locked):
    locked.rows("training", step="train")
    locked.rows("policy", step="guarantee", part="control")
    first, second = locked.ledger
    assert (first.step, first.role, first.split, first.part, first.rows) == ("train", "training", "train", None, 48)
    assert (second.split, second.part) == ("val_calib", "control")
    assert second.fingerprint == locked.description.fingerprints["val_calib/control"]
    assert first.time <= second.time


def test_every_role_has_a_split_and_the_splits_are_four():
    assert sorted(ROLES.values()) == sorted(contracts.SPLITS)


def test_final_reads_count_the_other_models_that_read_the_same_rows():
    assert count_final_read("f" * 32, "model a", "runs/a") == 0
    assert count_final_read("f" * 32, "model a", "runs/a again") == 0  # the same weights: nothing new was learned
    assert count_final_read("f" * 32, "model b", "runs/b") == 1
    assert count_final_read("f" * 32, "model c", "runs/a") == 2
    assert count_final_read("f" * 32, "model a", "runs/a") == 2
    assert count_final_read("e" * 32, "model a", "runs/a") == 0


def test_final_reads_of_several_processes_are_all_counted():
    code = "from natix_hf.data.splits.contracts import count_final_read as c; print(c('a' * 32, '{}', 'run'))"
    started = [
        subprocess.Popen([sys.executable, "-c", code.format(i)], stdout=subprocess.PIPE, text=True) for i in range(4)
    ]
    found = sorted(int(process.communicate()[0]) for process in started)
    assert found == [0, 1, 2, 3]


def test_a_spoilt_note_of_reads_is_named(monkeypatch):
    from natix_hf.files import home

    count_final_read("d" * 32, "model a", "run")
    path = home() / "test_reads" / f"{'d' * 32}.jsonl"
    path.write_text("nonsense\n")
    with pytest.raises(UserError, match="line 1"):
        count_final_read("d" * 32, "model a", "run")
