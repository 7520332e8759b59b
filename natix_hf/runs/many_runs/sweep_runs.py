"""A run of a sweep: how far it is, how it ends, and its score on `val_select`.

Every run of a sweep has the same split and reads `train` and `val_select` alone: the locked splits give it nothing
else (`data.splits.contracts.PURPOSES`). It leaves its score and its predictions on `val_select` and no model; the one
that wins is trained again as an ordinary run, which has its one look at `val_test`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.documents.figures import Interval
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.run_speed import RunSpeed
from natix_hf.documents.several_runs import SweepScore
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
        *speed_lines(RunSpeed.read(Path(trainer.args.output_dir)).speed, trainer.times),
    ]


def score(run: Path) -> SweepScore:
    """What a finished run of a sweep is ranked by."""
    record, rows = RunRecord.read(run), read_predictions(run, "val_select")
    found = bootstrap_intervals(rows.logits, rows.label, rows.group, positive=record.positive, n_boot=RESAMPLES)
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
