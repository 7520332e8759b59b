"""Leave-one-value-out: each value of a metadata column (a city, a camera) is the whole test of a run of its own.

What a model does where it has never been is not what it does on other photos of the places it knows. Each fold is an
ordinary run whose `val_test` is one value and whose other splits are cut from all the rest; rows tied to the value
are set aside. So each fold's figures are earned on photos that its model never saw, and each fold's one read of them
is counted like that of any run. This file plans folds and collects what they found; how recipes are parsed is the
verb's business.
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
from natix_hf.report.summary import LABELS, figure_text, interval_text
from natix_hf.runs.many_runs.processes import Outcome

FEWEST = 30  # photos of a value that is worth a fold
LEVEL = 0.95  # of the interval of the mean; folds' own intervals have that of metrics.json
SHOWN = ("mcc", "balanced_accuracy", "accuracy", "log_loss")


class Fold(NamedTuple):
    """A value, its folder's name, its photos of each class, and why it has no run, if it has none."""

    value: str
    name: str
    labels: dict[str, int]
    skipped: str | None


def recipe_rows(recipe: Mapping[str, RecipeValue], say: Callable[[str], None] | None = None) -> Rows:
    """The photos that a recipe names, not split and without a look for altered copies; `say` as in `load_rows`."""
    options = {key: recipe[key] for key in SOURCE_KEYS if recipe.get(key) is not None}
    return read_rows(
        recipe["dataset_name"], looks=False, num_proc=recipe.get("preprocessing_num_workers"), say=say, **options
    )


def plan_folds(rows: Rows, column: str) -> list[Fold]:
    """A fold for each value of a column; those that cannot be one say why.

    Args:
        rows: all photos.
        column: flat name or dotted path.

    Raises:
        UserError: photos that are split already; a column that is not there, holds one value or too many, or none
            that could be a fold.
    """
    if isinstance(rows.data, DatasetDict):
        raise UserError(
            "hold_out_each: the data set brings its four splits, which stay as they are: give the photos that they "
            "were made from"
        )
    if not has_column(rows.data, column):
        has = ", ".join(name for name in rows.data.column_names if name not in ("image", "look", "fingerprint"))
        raise UserError(f"hold_out_each: no column {column!r}; there are {has}")
    check_slices(rows.data, [column], "hold_out_each")
    names, values = rows.label_names, counted_values(rows.data, column)
    if len(values) < 2:
        raise UserError(f"hold_out_each: all photos have {column} = {next(iter(values))}: nothing can be left out")
    total = sum(values.values(), Counter())
    folds: list[Fold] = []
    for value, counts in values.items():
        n, there = sum(counts.values()), [names[label] for label in sorted(counts)]
        short = [names[label] for label in total if total[label] - counts[label] < 3]
        skipped = None
        if value == UNKNOWN:
            skipped = f"{n} photos without a value, which every fold may train on"
        elif n < FEWEST:
            skipped = f"{n} photos, fewer than {FEWEST}"
        elif len(there) < 2:
            skipped = f"all {n} photos are of one class ({there[0]})"
        elif short:
            skipped = f"without it too few photos of {', '.join(short)} are left"
        name = re.sub(r"[^A-Za-z0-9._+@-]", "_", value).strip(".") or "_"
        if name.lower() in {fold.name.lower() for fold in folds} | {"logs", "leases"}:
            name = f"{name}-{len(folds)}"
        folds.append(Fold(value, name, {names[label]: counts[label] for label in range(len(names))}, skipped))
    if all(fold.skipped for fold in folds):
        told = "; ".join(f"{fold.value}: {fold.skipped}" for fold in folds[:3])
        raise UserError(f"hold_out_each: no value of {column} can be a fold: {told}")
    return folds


def folds_document(output: Path, column: str, folds: Sequence[Fold], outcomes: Mapping[str, Outcome]) -> Folds:
    """The content of `folds.json`.

    Args:
        output: folder of the folds.
        column: whose values they are.
        folds: from `plan_folds`.
        outcomes: name of a fold -> what became of its run.

    Raises:
        UserError: a finished fold was not tested on its value alone.
    """
    runs: list[FoldRun] = []
    for fold in folds:
        if fold.skipped:
            more = {"status": "skipped", "reason": fold.skipped}
        elif (outcome := outcomes[fold.name]).status == "finished":
            more = {"status": "finished", **_found(output / fold.name, column, fold.value)}
        else:
            more = {"status": outcome.status} | ({"reason": outcome.reason} if outcome.reason else {})
        runs.append(FoldRun(value=fold.value, name=fold.name, labels=fold.labels, **more))
    done = [one for one in runs if one.status == "finished"]
    means = {name: _mean([one.metrics[name].value for one in done]) for name in METRICS} if done else None
    return Folds(column=column, split="val_test", level=LEVEL, folds=runs, mean=means)


def _found(run: Path, column: str, value: str) -> dict:
    """What a finished fold found, once it is sure that its test was that value and nothing of it was trained on."""
    certificate, record, metrics = read_certificate(run), RunRecord.read(run), FinalFigures.read(run)
    prints = certificate.fingerprints
    read = {entry.fingerprint for entry in read_ledger(run) if entry.role != "final_evaluation"}
    if certificate.hold_out != {column: [value]} or prints["val_test"] in read or record.purpose != "run":
        raise UserError(
            f"{run}: its figures are not those of {column} = {value} alone: remove the folder, start again"
        )
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
    """Mean over folds with Student's interval: folds are the draws, so it says what one more value may be like on
    average, and is wide for few."""
    known = [value for value in values if value is not None]
    low = high = None
    if len(known) > 1:
        half = scipy.stats.t.ppf((1 + LEVEL) / 2, len(known) - 1) * scipy.stats.sem(known)
        low, high = float(np.mean(known) - half), float(np.mean(known) + half)
    mean = float(np.mean(known)) if known else None
    worst = [float(end(known)) for end in (min, max)] if known else [None, None]
    return FoldMean(value=mean, low=low, high=high, folds=len(known), smallest=worst[0], largest=worst[1])


def folds_table(document: Folds) -> str:
    """`FOLDS.md`: a row for each value, then the mean over folds, then what was left out and why."""
    head = [document.column, "photos", "groups", *(f"{LABELS[name]} ({LEVEL:.0%})" for name in SHOWN), "trained on"]
    lines = [f"# Each {document.column} held out", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for one in document.folds:
        cells = [one.value, str(one.n or sum(one.labels.values())), str(one.groups or "-")]
        if one.status == "finished":
            figures = [one.metrics[name] for name in SHOWN]
            cells += [f"{figure_text(figure.value)} ({interval_text(figure)})" for figure in figures]
            cells.append(str(one.trained_on))
        else:
            cells += [one.status, *["-"] * (len(SHOWN) - 1), "-"]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    done = [one for one in document.folds if one.status == "finished"]
    if document.mean:
        means = [document.mean[name] for name in SHOWN]
        cells = [f"mean of {len(done)}", str(sum(one.n for one in done)), "-"]
        cells += [f"{figure_text(mean.value)} ({interval_text(mean)})" for mean in means]
        lines.append("| " + " | ".join([*cells, "-"]) + " |")
        before = max(one.times_read_before for one in done)
        lines += [
            "",
            "The photos of a value are `val_test` of its fold and nothing else; the fold's model was trained, chosen "
            "and calibrated on photos of the others. Intervals of a fold resample its groups; that of the mean takes "
            f"the {len(done)} folds for draws (Student's t) and is rough, since their training photos overlap. Each "
            "read of a fold's test is counted; before theirs, these photos had given the figures of "
            f"{before or 'no'} other models.",
        ]
    for status, front in (("skipped", "no fold"), ("failed", "failed")):
        told = [f"- {one.value}: {front}: {one.reason}" for one in document.folds if one.status == status]
        lines += ["", *told] if told else []
    return "\n".join([*lines, ""])
