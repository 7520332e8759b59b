"""A run of a sweep: its state, how it is finished, and its score on `val_select`.

All runs of a sweep have the same split and read only `train` and `val_select`; the locked splits refuse everything
else (`data.splits.contracts.PURPOSES`). A run keeps its score and its predictions on `val_select`, but no model. The
winner is trained again as an ordinary run, which is tested once on `val_test`.
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
    """The state of a run of a sweep (or of what `whose` names): `new`, `interrupted` or `finished`.

    Args:
        folder: of the run.
        text: its `recipe.yaml`.
        whose: what error messages call the command that the run belongs to.

    Raises:
        UserError: the folder holds something else, or a run of another recipe.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return "new"
    record, recipe = folder / "run.json", folder / "recipe.yaml"
    if not record.is_file():
        raise UserError(f"{folder}: not empty, and not a run of natix_hf: choose another --output_dir")
    if not recipe.is_file() or recipe.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{folder}: holds a run whose recipe is not the one of this {whose}: choose another --output_dir, or "
            "remove the folder"
        )
    return "finished" if run_folder.status(folder) == "finished" else "interrupted"


def finish_member(trainer: NatixTrainer, decision: DecisionOptions) -> SweepScore | None:
    """Write the `val_select` logits of a run of a sweep; returns its score, or None on helper processes."""
    run, document = Path(trainer.args.output_dir), None
    with trainer.times.timed("predict"):
        predict_run(run, trainer.splits, trainer, decision, writes=trainer.args.should_save)
    if trainer.args.should_save:
        write_speed(trainer)
        shutil.rmtree(run / "checkpoints", ignore_errors=True)  # the winner is trained again
        document = score(run)
    trainer.accelerator.wait_for_everyone()
    return document


def member_lines(trainer: NatixTrainer, metrics: SweepScore) -> list[str]:
    """The printed summary of a finished run of a sweep. `metrics` comes from `finish_member`."""
    interval = metrics.score
    return [
        f"val_select: {LABELS[metrics.metric]} {figure_text(interval.value)} "
        f"({LEVEL:.0%} interval {interval_text(interval)}; {metrics.n} photos, {metrics.groups} groups); "
        "runs of a sweep are not tested on val_test",
        *speed_lines(RunSpeed.read(Path(trainer.args.output_dir)).speed, trainer.times),
    ]


def score(run: Path) -> SweepScore:
    """The score by which a finished run of a sweep is ranked."""
    record, rows = RunRecord.read(run), read_predictions(run, "val_select")
    intervals = bootstrap_intervals(rows.logits, rows.label, rows.group, positive=record.positive, n_boot=RESAMPLES)
    return SweepScore(
        metric=record.metric,
        score=Interval.of(intervals[record.metric]),
        log_loss=Interval.of(intervals["log_loss"]),
        n=len(rows.label),
        groups=group_count(rows.group, len(rows.label)),
        fingerprint=read_certificate(run).fingerprints["val_select"],
        best_step=record.best_step,
        steps=record.steps,
        seconds=RunSpeed.read(run).time["train"],
    )
