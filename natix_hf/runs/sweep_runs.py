"""Sweeps: which combinations of values are tried, where each stands, and how they rank on `val_select`.

Every run of a sweep has the same seed and the same split and reads `train` and `val_select` alone: the locked splits
give it nothing else (`data.splits.contracts.PURPOSES`). It leaves its score and its predictions on `val_select` and
no model; the one that wins is trained again as an ordinary run, which has its one look at `val_test`. How recipes are
parsed is the verb's business.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.documents.figures import Interval
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.run_speed import RunSpeed
from natix_hf.documents.several_runs import Sweep, SweepRun, SweepScore
from natix_hf.errors import UserError
from natix_hf.report.intervals import bootstrap_intervals, group_count
from natix_hf.report.summary import LABELS, figure_text, interval_text
from natix_hf.runs import folder as run_folder
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.finish_run import write_speed
from natix_hf.runs.predict_run import predict_run
from natix_hf.runs.saved_logits import read_predictions
from natix_hf.training.bottleneck import speed_lines

if TYPE_CHECKING:
    from natix_hf.training.trainer import NatixTrainer

RESAMPLES, LEVEL = 1000, 0.95
_OTHER_ROWS = "its runs would be scored on other photos, and no score could be compared"
_OTHER_SCORE = "its runs would be ranked by different scores"
_ONE_START = "the sweep sets it for each run"
_NO_MODEL = "runs of a sweep leave no model to publish"
# Keys that a grid cannot have, and why.
REFUSED = {
    **dict.fromkeys(("dataset_name", "dataset_config", "image_column_name", "label_column_name"), _OTHER_ROWS),
    **dict.fromkeys(("group_column", "near_duplicates", "test_split", "label_names"), _OTHER_ROWS),
    **dict.fromkeys(("test_on", "hold_out_each"), _OTHER_ROWS),
    **dict.fromkeys(("split_ratios", "split_seed", "broken_photos"), _OTHER_ROWS),
    **dict.fromkeys(("metric_for_best_model", "greater_is_better", "positive_label"), _OTHER_SCORE),
    **dict.fromkeys(("seed", "data_seed"), "the luckiest seed would win; repeat the sweep with another --seed"),
    **dict.fromkeys(("output_dir", "overwrite_output_dir", "resume_from_checkpoint"), _ONE_START),
    **dict.fromkeys(("sweep", "refit", "refit_from", "find_lr"), _ONE_START),
    **dict.fromkeys(("push_to_hub", "hub_model_id", "hub_format", "model_version", "hotkey"), _NO_MODEL),
}


class Cell(NamedTuple):
    """One combination: the name of its folder, and the words that set its values on a command line."""

    name: str
    words: list[str]
    keys: list[str]


def read_grid(words: Sequence[str]) -> list[Cell]:
    """Every combination of `key=value,value,...`, the last key varying fastest.

    Raises:
        UserError: a word that is no such list, a key or value that stands twice, or a key that no grid may have.
    """
    axes: dict[str, list[str]] = {}
    for word in words:
        key, _, listed = word.partition("=")
        values = listed.split(",")
        if not key or not all(values):
            raise UserError(f"--grid {word}: written as key=value,value expected, such as lora_r=8,16,32")
        if key in axes:
            raise UserError(f"--grid: {key} stands twice: write all its values behind one")
        if key in REFUSED:
            raise UserError(f"--grid {word}: {key} cannot be varied: {REFUSED[key]}")
        if len(set(values)) < len(values):
            raise UserError(f"--grid {word}: a value stands twice: remove one")
        axes[key] = values
    if not axes:
        raise UserError("--grid: nothing to try: write --grid lora_r=8,16,32 learning_rate=1e-4,3e-4")
    cells = []
    for values in itertools.product(*axes.values()):
        pairs = list(zip(axes, values))
        name = ",".join(f"{key}={re.sub(r'[^A-Za-z0-9._+@-]', '_', value)}" for key, value in pairs)
        cells.append(Cell(name, [word for key, value in pairs for word in (f"--{key}", value)], list(axes)))
    if len({cell.name for cell in cells}) < len(cells):
        raise UserError("--grid: two combinations would have one folder: use values that differ in letters or digits")
    return cells


def state(folder: Path, text: str, whose: str = "sweep") -> str:
    """How far a run of a sweep (or of what else `whose` says) is: `new`, `interrupted` or `finished`.

    Args:
        folder: of the run.
        text: the `recipe.yaml` that it has or will have.

    Raises:
        UserError: the folder holds something else, or a run of another recipe.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return "new"
    record, recipe = folder / "run.json", folder / "recipe.yaml"
    if not record.is_file():
        raise UserError(f"{folder}: not empty, and what it holds is no run of natix_hf: choose another --output_dir")
    if not recipe.is_file() or recipe.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{folder}: holds a run of another recipe than this {whose}'s: choose another --output_dir, or remove it"
        )
    return "finished" if run_folder.status(folder) == "finished" else "interrupted"


def finish_member(trainer: NatixTrainer, decision: DecisionOptions | None = None) -> SweepScore | None:
    """Write the logits of `val_select` of a run of a sweep; returns the score."""
    run, document = Path(trainer.args.output_dir), None
    with trainer.times.timed("predict"):
        predict_run(run, trainer.splits, trainer, decision or DecisionOptions(), writes=trainer.args.should_save)
    if trainer.args.should_save:
        write_speed(trainer)
        shutil.rmtree(run / "checkpoints", ignore_errors=True)  # what wins is trained as a run of its own
        document = score(run)
    trainer.accelerator.wait_for_everyone()
    return document


def member_lines(trainer: NatixTrainer, metrics: SweepScore) -> list[str]:
    """What is printed of a finished run of a sweep: `metrics` is what finishing returned."""
    interval = metrics.score
    return [
        f"val_select: {LABELS[metrics.metric]} {figure_text(interval.value)} "
        f"({LEVEL:.0%} interval {interval_text(interval)}; {metrics.n} photos, {metrics.groups} groups); "
        "a run of a sweep has no other figures",
        *speed_lines(trainer.accounting.document(), trainer.times),
    ]


def score(run: Path) -> SweepScore:
    """What a finished run of a sweep is ranked by."""
    record, rows = RunRecord.read(run), read_predictions(run, "val_select")
    found = bootstrap_intervals(
        rows.logits, rows.label, rows.group, positive=record.positive, n_boot=RESAMPLES, level=LEVEL
    )
    return SweepScore(
        metric=record.metric,
        score=Interval.of(found[record.metric]),
        log_loss=Interval.of(found["log_loss"]),
        n=len(rows.label),
        groups=group_count(rows.group, len(rows.label)),
        fingerprint=read_certificate(run).fingerprints["val_select"],
        best_step=record.best_step,
        steps=record.steps,
        seconds=RunSpeed.read(run).time["train"],
    )


class Outcome(NamedTuple):
    """What became of a run of a sweep: the values that it tries, its `status`, and why it failed if it did."""

    values: dict[str, Any]
    status: Literal["finished", "failed", "waiting"]
    failed: str | None = None


def ranking(output: Path, outcomes: Mapping[str, Outcome]) -> Sweep:
    """The content of `sweep.json`: finished runs by their score on `val_select`, then the others.

    Args:
        output: folder of the sweep.
        outcomes: name of each run -> what became of it.

    Raises:
        UserError: two runs were scored on different rows or by different metrics.
    """
    runs: list[SweepRun] = []
    for name, outcome in outcomes.items():
        more = {"failed": outcome.failed} if outcome.status == "failed" else {}
        if outcome.status == "finished":
            more = dict(score(output / name))
        runs.append(SweepRun(name=name, values=outcome.values, rank=None, status=outcome.status, **more))
    scored = [one for one in runs if one.status == "finished"]
    for key, what in (
        (lambda one: one.fingerprint, "on other photos"),
        (lambda one: one.metric, "by another metric"),
    ):
        if odd := next((one for one in scored if key(one) != key(scored[0])), None):
            raise UserError(
                f"{output / odd.name}: scored {what} than {scored[0].name}, so that they cannot be ranked: "
                "choose another --output_dir for one of the two sweeps"
            )
    metric = scored[0].metric if scored else None
    sign = 1 if metric in ("log_loss", "ece") else -1

    def place(one: SweepRun) -> tuple:
        value = one.score.value
        return (value is None, 0 if value is None else sign * value, one.log_loss.value)

    ranked = [one.model_copy(update={"rank": rank}) for rank, one in enumerate(sorted(scored, key=place), start=1)]
    return Sweep(
        split="val_select",
        metric=metric,
        level=LEVEL,
        resampled="groups",
        resamples=RESAMPLES,
        runs=[*ranked, *(one for one in runs if one.status != "finished")],
    )


def table(document: Sweep, look: str | None) -> str:
    """`SWEEP.md`: the ranking as Markdown, and the command that gives the winner its one look at `val_test`."""
    runs = document.runs
    keys = list(runs[0].values)
    head = ["rank", *keys, LABELS.get(document.metric, "score"), f"{LEVEL:.0%} interval", "log loss", "best step"]
    lines = ["# Sweep", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for one in runs:
        cells = [str(one.rank or "-"), *(str(one.values[key]) for key in keys)]
        if one.status == "finished":
            cells += [figure_text(one.score.value), interval_text(one.score)]
            cells += [figure_text(one.log_loss.value), str(one.best_step or one.steps)]
        else:
            cells += [one.status, "-", "-", "-"]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if scored := [one for one in runs if one.status == "finished"]:
        lines += [
            "",
            f"Scores on `val_select` ({scored[0].n} photos in {scored[0].groups} groups), intervals from "
            f"{RESAMPLES} resamples of whole groups; equal scores are ordered by log loss. The best of {len(scored)} "
            "flatters itself on the photos that it was chosen on. `val_test` was not read.",
        ]
    lines += ["", *(f"- {one.name}: failed: {one.failed}" for one in runs if one.status == "failed")]
    if look:
        lines += ["", f"The one that won gets its one look at `val_test` as a run of its own:\n\n    {look}"]
    return re.sub("\n{3,}", "\n\n", "\n".join([*lines, ""]))
