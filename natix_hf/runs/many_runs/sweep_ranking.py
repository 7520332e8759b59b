"""Ranks the runs of a sweep on `val_select`, as `sweep.json` and as the table `SWEEP.md`.

Runs are ranked by their score, or by the mean over seeds if each combination was trained with several. The score of
the best run is biased upwards on the photos it was chosen on; the table gives an estimate of this bias.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.several_runs import BesideBest, Flattery, Search, Sweep, SweepCell, SweepRun
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.errors import UserError
from natix_hf.files import write_text
from natix_hf.report.intervals import difference_of_means, luck_of_the_best
from natix_hf.report.metrics import LOWER_IS_BETTER
from natix_hf.report.summary import LABELS, figure_text, interval_text
from natix_hf.runs.lease import waited_for
from natix_hf.runs.many_runs.fan_out import lease_of
from natix_hf.runs.many_runs.processes import Outcome
from natix_hf.runs.many_runs.search import TpeSearch
from natix_hf.runs.many_runs.sweep_plan import Grid, Member
from natix_hf.runs.many_runs.sweep_runs import LEVEL, RESAMPLES, score
from natix_hf.runs.markdown_table import markdown_table
from natix_hf.runs.saved_logits import read_predictions

CHOICES = 200  # resamples in which the best is chosen again


def ranking(
    output: Path,
    runs: Sequence[Member],
    outcomes: Mapping[str, Outcome],
    *,
    search: Search | None = None,
) -> Sweep:
    """The content of `sweep.json`: finished runs in the order of their score on `val_select`, then the others.

    Args:
        output: folder of the sweep.
        runs: all runs.
        outcomes: name of each run -> its state.
        search: the search that chose the runs, if any.

    Raises:
        UserError: two runs were scored on different rows or by different metrics.
    """
    documented: list[SweepRun] = []
    for run in runs:
        status, reason = outcomes[run.name]
        more = {} if run.seed is None else {"cell": run.cell, "seed": run.seed}
        if status == "finished":
            more |= dict(_score(output / run.name))
            status = "pruned" if RunRecord.read(output / run.name).pruned else status
        elif status == "failed":
            more["failed"] = reason
        documented.append(SweepRun(name=run.name, values=run.values, rank=None, status=status, **more))
    scored = [one for one in documented if one.status in ("finished", "pruned")]
    for key, what in (
        (lambda one: one.fingerprint, "on other photos"),
        (lambda one: one.metric, "by another metric"),
    ):
        if odd := next((one for one in scored if key(one) != key(scored[0])), None):
            raise UserError(
                f"{output / odd.name}: scored {what} than {scored[0].name}, so the two cannot be ranked: choose "
                "another --output_dir for one of the two sweeps"
            )
    metric = scored[0].metric if scored else None
    about = {"metric": metric, "search": search} if search else {"metric": metric}
    scored = [one for one in scored if one.status == "finished"]
    if runs[0].seed is not None:
        seeds = list(dict.fromkeys(run.seed for run in runs))
        about |= {"seeds": seeds, "cells": _ranked_cells(output, documented, seeds, metric)}
        ordered = documented
    else:
        places = sorted(scored, key=lambda one: _place(metric, one.score.value, one.log_loss.value))
        ordered = [one.model_copy(update={"rank": rank}) for rank, one in enumerate(places, start=1)]
        ordered += [one for one in documented if one.status != "finished"]
    return Sweep(split="val_select", level=LEVEL, resampled="groups", resamples=RESAMPLES, runs=ordered, **about)


_score = cache(score)


def _place(metric: str | None, value: float | None, log_loss: float | None) -> tuple:
    sign = 1 if metric in LOWER_IS_BETTER else -1
    return (value is None, 0 if value is None else sign * value, log_loss)


def _ranked_cells(output: Path, runs: Sequence[SweepRun], seeds: Sequence[int], metric: str | None) -> list[SweepCell]:
    """All combinations, best mean over seeds first. Combinations without all seeds come last and have no rank."""
    by_cell: dict[str, list[SweepRun]] = {}
    for run in runs:
        by_cell.setdefault(run.cell, []).append(run)
    cells: list[SweepCell] = []
    for name, own in by_cell.items():
        values = [one.score.value if one.status == "finished" else None for one in own]
        more: dict[str, float] = {}
        if None not in values:
            losses = [one.log_loss.value for one in own]
            more = {"mean": _mean(values), "spread": float(np.std(values, ddof=1)), "log_loss": _mean(losses)}
        cells.append(SweepCell(name=name, values=own[0].values, rank=None, scores=values, **more))
    whole = sorted(
        (cell for cell in cells if cell.mean is not None), key=lambda cell: _place(metric, cell.mean, cell.log_loss)
    )
    ranked = []
    for rank, cell in enumerate(whole, start=1):
        beside = _beside(output, cell, whole[0], by_cell, metric) if rank > 1 else None
        ranked.append(cell.model_copy(update={"rank": rank} | ({"beside_best": beside} if beside else {})))
    return ranked + [cell for cell in cells if cell.mean is None]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _beside(
    output: Path, cell: SweepCell, best: SweepCell, runs: Mapping[str, Sequence[SweepRun]], metric: str
) -> BesideBest:
    """The difference between a combination and the best one, over the same seeds and resamples."""
    logits = [[_selected(output, one).logits for one in runs[which.name]] for which in (cell, best)]
    rows = _selected(output, runs[best.name][0])
    positive = RunRecord.read(output / runs[best.name][0].name).positive
    options = {"positive": positive, "n_boot": RESAMPLES}
    difference = difference_of_means(*logits, rows.label, rows.group, metric, **options)
    gaps = np.subtract(cell.scores, best.scores)
    better = gaps < 0 if metric in LOWER_IS_BETTER else gaps > 0
    return BesideBest.of(difference, spread=float(np.std(gaps, ddof=1)), better=int(better.sum()))


def _selected(output: Path, run: SweepRun) -> SavedLogits:
    return read_predictions(output / run.name, "val_select")


def with_flattery(output: Path, document: Sweep) -> Sweep:
    """The document with the estimated selection bias of the best score, if there were two or more candidates."""
    runs = {run.name: run for run in document.runs if run.status == "finished"}
    if document.cells is None:
        candidates = [[run] for run in runs.values()]
        value = document.runs[0].score.value if candidates else None
    else:
        whole = [cell for cell in document.cells if cell.rank]
        candidates = [[run for run in runs.values() if run.cell == cell.name] for cell in whole]
        value = whole[0].mean if whole else None
    if len(candidates) < 2 or value is None:
        return document
    first = candidates[0][0]
    rows, record = _selected(output, first), RunRecord.read(output / first.name)
    logits = [[_selected(output, run).logits for run in own] for own in candidates]
    about = {"positive": record.positive, "n_boot": CHOICES}
    bias = luck_of_the_best(logits, rows.label, rows.group, document.metric, **about)
    if bias is None:
        return document
    return document.model_copy(update={"flattery": Flattery(score=value, among=len(candidates), **bias)})


def winner(document: Sweep) -> SweepRun | None:
    """The run whose recipe is trained again: the best run, or the first seed of the best combination."""
    if document.cells is None:
        best = document.runs[0]
        return best if best.rank else None
    best = document.cells[0]
    return next((run for run in document.runs if run.cell == best.name), None) if best.rank else None


def table(document: Sweep, look: str | None) -> str:
    """`SWEEP.md`: the ranking as Markdown, and the command that trains the winner and tests it once on `val_test`."""
    lines = ["# Sweep", "", *(_run_lines(document) if document.cells is None else _cell_lines(document))]
    runs = document.runs
    if scored := [one for one in runs if one.status == "finished"]:
        order = "equal scores are ranked by log loss."
        if document.cells is not None:
            order = (
                f"ranked by the mean over seeds {' '.join(map(str, document.seeds))}. `SD` is the standard deviation "
                "over seeds. `difference from best` is the mean difference between runs with the same seed: its "
                "interval covers the choice of photos, its SD the choice of seeds."
            )
        among = len(document.cells or scored)
        luck = _luck_words(among, document.flattery) if among > 1 else ""
        lines += [
            "",
            f"Scores on `val_select` ({scored[0].n} photos in {scored[0].groups} groups) with intervals from "
            f"{RESAMPLES} resamples of whole groups; {order}{luck} `val_test` was not read.",
        ]
    if document.search:
        lines += ["", _search_line(document)]
    lines += ["", *(f"- {one.name}: failed: {one.failed}" for one in runs if one.status == "failed")]
    if look:
        lines += ["", f"To train the winner as an ordinary run and test it once on `val_test`:\n\n    {look}"]
    return re.sub("\n{3,}", "\n\n", "\n".join([*lines, ""]))


def _luck_words(among: int, flattery: Flattery | None) -> str:
    if flattery is None:
        return f" The score of the best of {among} is too optimistic: it was chosen on these photos."
    ends = f"{figure_text(flattery.low)} to {figure_text(flattery.high)}"
    return (
        f" The score of the best of {among} is too optimistic by about {figure_text(flattery.by)}, because it was "
        f"chosen on these photos: when the best was chosen again in {flattery.resamples} resamples of groups, it "
        f"scored {figure_text(flattery.elsewhere)} ({ends}) on the groups outside the resample, and "
        f"{flattery.chosen_again:.0%} of the resamples chose the same one. Earlier choices on these photos, such as "
        "the checkpoint of each run, are not repeated, so this is an underestimate."
    )


def _search_line(document: Sweep) -> str:
    search = document.search
    counts = {
        status: sum(run.status == status for run in document.runs) for status in ("finished", "pruned", "failed")
    }
    by_status = ", ".join(f"{count} {status}" for status, count in counts.items())
    space = "; ".join(f"{key}={words}" for key, words in search.space.items())
    return (
        f"{len(document.runs)} of {search.trials} trials: {by_status}. Values chosen by Optuna's TPE (seed "
        f"{search.seed}) from {space}; a trial worse than the median of the others at the same evaluation was pruned."
    )


def _run_lines(document: Sweep) -> list[str]:
    keys = list(document.runs[0].values)
    name = ["trial"] if document.search else []
    head = [
        "rank",
        *name,
        *keys,
        LABELS.get(document.metric, "score"),
        f"{LEVEL:.0%} interval",
        "log loss",
        "best step",
    ]
    rows = []
    for one in document.runs:
        cells = [str(one.rank or "-"), *[one.name] * bool(name), *(_value(one.values[key]) for key in keys)]
        if one.status in ("finished", "pruned"):
            cells += [figure_text(one.score.value), interval_text(one.score)]
            step = str(one.best_step or one.steps)
            cells += [figure_text(one.log_loss.value), f"pruned at {one.steps}" if one.status == "pruned" else step]
        else:
            cells += [one.status, "-", "-", "-"]
        rows.append(cells)
    return markdown_table(head, rows)


def _cell_lines(document: Sweep) -> list[str]:
    keys = list(document.cells[0].values)
    label = LABELS.get(document.metric, "score")
    head = ["rank", *keys, f"{label}, mean", "SD", *(f"seed {seed}" for seed in document.seeds), "log loss"]
    head += ["difference from best", "SD of difference"]
    rows = []
    for one in document.cells:
        cells = [str(one.rank or "-"), *(_value(one.values[key]) for key in keys)]
        cells += [figure_text(one.mean), figure_text(one.spread), *map(figure_text, one.scores)]
        cells += [figure_text(one.log_loss)]
        if beside := one.beside_best:
            ends = f"{figure_text(beside.low)} to {figure_text(beside.high)}"
            cells += [f"{figure_text(beside.difference)} ({ends})", figure_text(beside.spread)]
        else:
            cells += ["-", "-"]
        rows.append(cells)
    return markdown_table(head, rows)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_tables(output: Path, sweep: Grid | TpeSearch) -> Sweep:
    """Write `sweep.json` and `SWEEP.md` from the state of the disk. Processes take turns."""
    with waited_for(lease_of(output, ".tables")):
        runs = sweep.runs()
        if not runs:
            raise UserError(f"{output}: no trial has started, so there is nothing to rank: remove --only")
        document = ranking(output, runs, sweep.outcomes(), search=sweep.search)
        look, waiting = None, sweep.search is not None and len(runs) < sweep.search.trials
        waiting |= any(one.status == "waiting" for one in document.runs)
        if (best := winner(document)) and not waiting:
            document = with_flattery(output, document)
            recipe = output / best.name / "recipe.yaml"
            look = shlex.join(["python", "-m", "natix_hf.train", str(recipe), "--output_dir", f"{output}-winner"])
        document.write(output)
        write_text(output / "SWEEP.md", table(document, look))
    return document
