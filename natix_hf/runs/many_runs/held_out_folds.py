"""Leave-one-value-out: for each value of a metadata column (a city, a camera), one run tests on that value alone.

Accuracy in a new city differs from accuracy on other photos of a known city. Each fold is an ordinary run: its
`val_test` holds the photos of one value, its other splits are cut from the remaining photos, and rows tied to the
value are set aside. The model of a fold never saw its test photos, and each read of them is counted as in any run.
This module plans the folds and collects their figures. The caller parses recipes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.stats
from datasets import DatasetDict

from natix_hf.data.load_photos import SOURCE_KEYS
from natix_hf.data.sources.columns import has_column
from natix_hf.data.sources.known_sources import read_rows
from natix_hf.data.sources.metadata import UNKNOWN
from natix_hf.data.sources.rows import Rows
from natix_hf.data.splits.certificate import read_certificate
from natix_hf.data.splits.slicing import check_slices, counted_values
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.ledger import read_ledger
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.run_speed import RunSpeed
from natix_hf.documents.several_runs import FoldMean, FoldRun, Folds
from natix_hf.errors import UserError
from natix_hf.options import RecipeValue
from natix_hf.report.metrics import METRICS
from natix_hf.report.summary import LABELS, figure_and_interval
from natix_hf.runs.many_runs.processes import Outcome
from natix_hf.runs.markdown_table import markdown_table

FEWEST = 30  # photos that a value needs for a fold
LEVEL = 0.95  # of the interval of the mean; the intervals of single folds have the level of metrics.json
SHOWN = ("mcc", "balanced_accuracy", "accuracy", "log_loss")


class Fold(NamedTuple):
    """A value, the name of its folder, its number of photos per class, and the reason if it is skipped."""

    value: str
    name: str
    labels: dict[str, int]
    skipped: str | None


def recipe_rows(recipe: Mapping[str, RecipeValue], say: Callable[[str], None] | None = None) -> Rows:
    """The photos of a recipe, without splits and without a search for altered copies. `say` as in `load_rows`."""
    options = {key: recipe[key] for key in SOURCE_KEYS if recipe.get(key) is not None}
    return read_rows(
        recipe["dataset_name"], looks=False, num_proc=recipe.get("preprocessing_num_workers"), say=say, **options
    )


def plan_folds(rows: Rows, column: str) -> list[Fold]:
    """One fold per value of a column; a value that cannot be a fold has a reason.

    Args:
        rows: all photos.
        column: flat name or dotted path.

    Raises:
        UserError: the photos are already split; the column does not exist, or has one value or too many; or no value
            can be a fold.
    """
    if isinstance(rows.data, DatasetDict):
        raise UserError(
            "hold_out_each: the data set already has its four splits, which cannot be changed: pass the photos that "
            "they were made from"
        )
    if not has_column(rows.data, column):
        columns = ", ".join(name for name in rows.data.column_names if name not in ("image", "look", "fingerprint"))
        raise UserError(f"hold_out_each: no column {column!r}: the columns are {columns}")
    check_slices(rows.data, [column], "hold_out_each")
    names, values = rows.label_names, counted_values(rows.data, column)
    if len(values) < 2:
        raise UserError(
            f"hold_out_each: expected two or more values, found only {column} = {next(iter(values))}: add photos"
        )
    total = sum(values.values(), Counter())
    folds: list[Fold] = []
    for value, counts in values.items():
        n, there = sum(counts.values()), [names[label] for label in sorted(counts)]
        short = [names[label] for label in total if total[label] - counts[label] < 3]
        skipped = None
        if value == UNKNOWN:
            skipped = f"{n} photos without a value; every fold may train on them"
        elif n < FEWEST:
            skipped = f"{n} photos, fewer than {FEWEST}"
        elif len(there) < 2:
            skipped = f"all {n} photos have the same class ({there[0]})"
        elif short:
            skipped = f"the other values have too few photos of {', '.join(short)}"
        name = re.sub(r"[^A-Za-z0-9._+@-]", "_", value).strip(".") or "_"
        if name.lower() in {fold.name.lower() for fold in folds} | {"logs", "leases"}:
            name = f"{name}-{len(folds)}"
        folds.append(Fold(value, name, {names[label]: counts[label] for label in range(len(names))}, skipped))
    if all(fold.skipped for fold in folds):
        reasons = "; ".join(f"{fold.value}: {fold.skipped}" for fold in folds[:3])
        raise UserError(f"hold_out_each: no value of {column} can be a fold: {reasons}")
    return folds


def folds_document(output: Path, column: str, folds: Sequence[Fold], outcomes: Mapping[str, Outcome]) -> Folds:
    """The content of `folds.json`.

    Args:
        output: folder of the folds.
        column: the column held out.
        folds: from `plan_folds`.
        outcomes: name of a fold -> state of its run.

    Raises:
        UserError: the test of a finished fold is not exactly its value.
    """
    runs: list[FoldRun] = []
    for fold in folds:
        if fold.skipped:
            more = {"status": "skipped", "reason": fold.skipped}
        elif (outcome := outcomes[fold.name]).status == "finished":
            more = {"status": "finished", **_figures(output / fold.name, column, fold.value)}
        else:
            more = {"status": outcome.status} | ({"reason": outcome.reason} if outcome.reason else {})
        runs.append(FoldRun(value=fold.value, name=fold.name, labels=fold.labels, **more))
    done = [one for one in runs if one.status == "finished"]
    means = {name: _mean([one.metrics[name].value for one in done]) for name in METRICS} if done else None
    return Folds(column=column, split="val_test", level=LEVEL, folds=runs, mean=means)


def _figures(run: Path, column: str, value: str) -> dict:
    """The figures of a finished fold, after a check that it tested on that value alone and did not train on it."""
    certificate, record, metrics = read_certificate(run), RunRecord.read(run), FinalFigures.read(run)
    prints = certificate.fingerprints
    read = {entry.fingerprint for entry in read_ledger(run) if entry.role != "final_evaluation"}
    if certificate.hold_out != {column: [value]} or prints["val_test"] in read or record.purpose != "run":
        raise UserError(f"{run}: its figures are not only of {column} = {value}: remove the folder and start again")
    return {
        "n": metrics.n,
        "groups": metrics.groups,
        "trained_on": certificate.sizes["train"],
        "set_aside": len(certificate.set_aside),
        "metrics": metrics.metrics,
        "fingerprint": prints["val_test"],
        "times_read_before": metrics.times_read_before,
        "seconds": RunSpeed.read(run).time["train"],
    }


def _mean(values: Sequence[float | None]) -> FoldMean:
    """Mean over folds with Student's t interval. Folds are the samples, so the interval is wide for few folds."""
    known = [value for value in values if value is not None]
    low = high = None
    if len(known) > 1:
        half = scipy.stats.t.ppf((1 + LEVEL) / 2, len(known) - 1) * scipy.stats.sem(known)
        low, high = float(np.mean(known) - half), float(np.mean(known) + half)
    mean = float(np.mean(known)) if known else None
    worst = [float(end(known)) for end in (min, max)] if known else [None, None]
    return FoldMean(value=mean, low=low, high=high, folds=len(known), smallest=worst[0], largest=worst[1])


def folds_table(document: Folds) -> str:
    """`FOLDS.md`: one row per value, the mean over folds, then the values that were left out and why."""
    head = [document.column, "photos", "groups", *(f"{LABELS[name]} ({LEVEL:.0%})" for name in SHOWN), "trained on"]
    rows = []
    for one in document.folds:
        cells = [one.value, str(one.n or sum(one.labels.values())), str(one.groups or "-")]
        if one.status == "finished":
            figures = [one.metrics[name] for name in SHOWN]
            cells += map(figure_and_interval, figures)
            cells.append(str(one.trained_on))
        else:
            cells += [one.status, *["-"] * (len(SHOWN) - 1), "-"]
        rows.append(cells)
    done = [one for one in document.folds if one.status == "finished"]
    more = []
    if document.mean:
        means = [document.mean[name] for name in SHOWN]
        cells = [f"mean of {len(done)}", str(sum(one.n for one in done)), "-"]
        cells += map(figure_and_interval, means)
        rows.append([*cells, "-"])
        before = max(one.times_read_before for one in done)
        more = [
            "",
            "The photos of each value are the `val_test` of its fold; the model of the fold was trained, chosen and "
            "calibrated on photos of the other values. The interval of a fold resamples its groups. The interval of "
            f"the mean treats the {len(done)} folds as samples (Student's t); it is rough, because their training "
            "photos overlap. Each read of test photos is counted. Before these folds, "
            f"{before or 'no'} other models had been evaluated on these photos on this machine.",
        ]
    for status, front in (("skipped", "no fold"), ("failed", "failed")):
        reasons = [f"- {one.value}: {front}: {one.reason}" for one in document.folds if one.status == status]
        more += ["", *reasons] if reasons else []
    return "\n".join([f"# Each {document.column} held out", "", *markdown_table(head, rows), *more, ""])
