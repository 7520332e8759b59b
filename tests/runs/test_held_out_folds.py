"""Which values become folds, and that a table of folds holds only figures of photos that a fold never trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from datasets import DatasetDict
from split_rows import unopened

from natix_hf.data.sources.rows import Rows
from natix_hf.data.splits.cut import cut
from natix_hf.data.splits.split_options import Plan
from natix_hf.documents.figures import Interval
from natix_hf.documents.ledger import LedgerEntry, note_reads
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.run_speed import RunSpeed
from natix_hf.documents.several_runs import Folds
from natix_hf.errors import UserError
from natix_hf.report.metrics import METRICS
from natix_hf.report.summary import metrics_document
from natix_hf.runs.many_runs.held_out_folds import folds_document, folds_table, plan_folds
from natix_hf.runs.many_runs.processes import Outcome


def photos(city: list[str | None], labels: list[int] | None = None) -> Rows:
    numbers = range(len(city))
    ids, groups = [f"r{i:03}" for i in numbers], [f"g{i}" for i in numbers]
    gps = [f"[{39 + i / 100}, -86.1]" for i in numbers]
    label = labels or [i % 2 for i in numbers]
    return unopened(len(city), id=ids, group=groups, label=label, city=city, gps=gps)


CITIES = ["Boston"] * 40 + ["New York"] * 50 + ["new/york"] * 32 + ["Austin"] * 10 + [None] * 8 + ["Reno"] * 30
LABELS = [i % 2 for i in range(140)] + [1] * 30


def test_values_with_enough_photos_of_both_classes_are_folds_and_the_others_say_why():
    folds = {fold.value: fold for fold in plan_folds(photos(CITIES, LABELS), "city")}
    assert {value for value, fold in folds.items() if not fold.skipped} == {"Boston", "New York", "new/york"}
    assert folds["Boston"].labels == {"None": 20, "Roadwork": 20}
    assert folds["Austin"].skipped == "10 photos, fewer than 30"
    assert folds["Reno"].skipped == "all 30 photos have the same class (Roadwork)"
    assert "without a value" in folds["unknown"].skipped
    assert len({fold.name.lower() for fold in folds.values()}) == len(folds)
    assert all("/" not in fold.name for fold in folds.values())


def test_a_value_that_holds_all_of_a_class_is_no_fold():
    city = ["A"] * 60 + ["B"] * 60 + ["C"] * 60
    labels = [0, 1] * 30 + [1] * 58 + [0] * 2 + [1] * 60
    folds = {fold.value: fold.skipped for fold in plan_folds(photos(city, labels), "city")}
    assert folds["A"] == "the other values have too few photos of None"
    assert folds["B"] is None
    assert "the same class" in folds["C"]


@pytest.mark.parametrize(
    ("rows", "column", "said"),
    [
        (photos(CITIES), "town", "no column 'town': the columns are id, group"),
        (photos(["Boston"] * 90), "city", "expected two or more values, found only city = Boston"),
        (photos(CITIES), "gps", "gps contains places"),
        (photos([f"c{i}" for i in range(90)]), "city", "90 values, over 50"),
        (photos(["a", "a", "b", "b"] * 5), "city", "no value of city can be a fold: a: 10 photos, fewer than 30; b"),
    ],
)
def test_a_column_that_gives_no_folds_is_refused_in_one_line(rows, column, said):
    with pytest.raises(UserError, match="hold_out_each: ") as caught:
        plan_folds(rows, column)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_photos_that_are_split_already_are_refused():
    given = Rows(DatasetDict({split: photos(CITIES).data for split in ("train", "val_select")}), [])
    with pytest.raises(UserError, match="already has its four splits"):
        plan_folds(given, "city")


def fold_run(folder: Path, rows: Rows, city: str, value: float, **more) -> None:
    """A finished fold whose every metric is `value`."""
    done = cut(rows, Plan(near_duplicates=False, **{"hold_out": {"city": [city]}, "test_alone": True, **more}))
    prints = done.description.fingerprints
    ledger = [
        LedgerEntry(step="train", role=role, split=split, rows=1, fingerprint=prints[split])
        for role, split in (("training", "train"), ("selection", "val_select"), ("final_evaluation", "val_test"))
    ]
    done.description.write(folder)
    RunRecord(status="finished", purpose="run").write(folder)
    RunSpeed(time={"train": 1.5}, speed=None).write(folder)
    note_reads(folder, ledger)
    figures = {name: Interval(value=value, low=value - 0.1, high=value + 0.1) for name in METRICS}
    figures["auroc"] = Interval(value=None, low=None, high=None)
    n, labels = done.description.sizes["val_test"], np.arange(10) % 2
    about = {"label_names": ["None", "Roadwork"], "times_read_before": 2, "n_boot": 9}
    made = metrics_document(np.eye(2)[labels], np.eye(2)[labels], labels, None, **about)
    made.model_copy(update={"n": n, "groups": n, "metrics": figures}).write(folder)


def test_the_table_holds_every_fold_and_the_mean_over_them(tmp_path):
    rows = photos(CITIES, LABELS)
    folds = plan_folds(rows, "city")
    runs = [fold for fold in folds if not fold.skipped]
    for fold, value in zip(runs, (0.6, 0.9)):
        fold_run(tmp_path / fold.name, rows, fold.value, value)
    outcomes = {fold.name: Outcome("finished") for fold in runs[:2]}
    outcomes[runs[2].name] = Outcome("failed", "exit status 2")
    document = folds_document(tmp_path, "city", folds, outcomes)
    assert Folds.parse(document.text(), "") == document
    found = {one.value: one for one in document.folds}
    assert (found["Boston"].n, found["New York"].n) == (40, 50)
    assert found["Austin"].status == "skipped"
    mean = document.mean["mcc"]
    low, high = scipy.stats.t.interval(0.95, 1, loc=0.75, scale=np.std([0.6, 0.9], ddof=1) / np.sqrt(2))
    assert [mean.value, mean.low, mean.high] == pytest.approx([0.75, low, high])
    assert (mean.folds, mean.smallest, mean.largest) == (2, 0.6, 0.9)
    assert document.mean["auroc"].value is None
    text = folds_table(document)
    assert "| Boston | 40 | 40 | 0.600 (0.500 to 0.700) |" in text
    assert "| mean of 2 | 90 |" in text
    assert "- Austin: no fold: 10 photos, fewer than 30" in text
    assert "failed: exit status 2" in text
    assert "2 other models had been evaluated on these photos" in text


def test_a_fold_that_was_tested_on_more_than_its_value_is_refused(tmp_path):
    rows = photos(CITIES, LABELS)
    boston = next(fold for fold in plan_folds(rows, "city") if fold.value == "Boston")
    for more in ({"hold_out": {"city": ["New York"]}}, {"hold_out": {}, "test_alone": False}):
        fold_run(tmp_path / "Boston", rows, "Boston", 0.5, **more)
        with pytest.raises(UserError, match="its figures are not only of city = Boston"):
            folds_document(tmp_path, "city", [boston], {"Boston": Outcome("finished")})
