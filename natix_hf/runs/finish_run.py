"""Carries out the steps after training. `runs.steps` declares which files each step reads and writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.photo_cost import PhotoCost
from natix_hf.documents.probe import OverProbe
from natix_hf.documents.run_speed import RunSpeed
from natix_hf.report.photo_cost import cost_line
from natix_hf.report.summary import summary_lines
from natix_hf.runs.assemble_model import save_model
from natix_hf.runs.calibrate_run import calibrate_run
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.evaluate_run import evaluate_run
from natix_hf.runs.folder import predict_line
from natix_hf.runs.gallery import keep_photos
from natix_hf.runs.measure_robustness import note_latency
from natix_hf.runs.over_probe import over_probe_lines
from natix_hf.runs.predict_run import predict_run
from natix_hf.runs.report_page import report_run
from natix_hf.runs.steps import CHAINS
from natix_hf.training.bottleneck import speed_lines

if TYPE_CHECKING:
    from natix_hf.training.trainer import NatixTrainer


def finish_run(
    trainer: NatixTrainer, decision: DecisionOptions | None = None, *, until: str = "report"
) -> FinalFigures | None:
    """Calibrate on `val_calib`, test once on `val_test`, and complete the folder of a run.

    Args:
        trainer: after `runs.train_run`. Afterwards its model is the merged one.
        decision: how logits become decisions.
        until: the last step to do.

    Returns:
        `metrics.json`; None on helper processes, and if the run was not evaluated.
    """
    run, decision, times = Path(trainer.args.output_dir), decision or DecisionOptions(), trainer.times
    names = [step.name for step in CHAINS["run"]]
    wanted = set(names[: names.index(until) + 1])
    splits, document = trainer.splits, None
    if "predict" in wanted:
        with times.timed("predict"):
            predict_run(run, splits, trainer, decision, writes=trainer.args.should_save)
    if trainer.args.should_save:
        if "calibrate" in wanted:
            with times.timed("calibrate"):
                calibration = calibrate_run(run, decision)
        if "assemble" in wanted:
            with times.timed("save"):
                save_model(trainer, run, calibration)
        if "time" in wanted and decision.robustness:
            with times.timed("latency"):
                tested = splits.rows("final_evaluation", step="predictions")
                note_latency(run, trainer.plain_model(), trainer.processing_class, tested)
        if "show" in wanted:
            with times.timed("gallery"):
                # A sharded model needs all processes, and only the first one gets here.
                model = None if trainer.is_fsdp_enabled else trainer.plain_model()
                keep_photos(run, splits, model, trainer.processing_class)
        if "evaluate" in wanted:
            with times.timed("evaluate"):
                document = evaluate_run(run)
        write_speed(trainer)
        if "report" in wanted:
            with times.timed("report"):
                report_run(run)
    trainer.accelerator.wait_for_everyone()
    return document


def write_speed(trainer: NatixTrainer) -> None:
    """Write `speed.json`: the time spent in each phase so far."""
    RunSpeed(time=dict(trainer.times), speed=trainer.accounting.document()).write(Path(trainer.args.output_dir))


def run_lines(trainer: NatixTrainer, metrics: FinalFigures | None) -> list[str]:
    """The printed summary of a finished run or refit. `metrics` is what `finish_run` or `finish_refit` returned."""
    if metrics is None:
        return []
    run = Path(trainer.args.output_dir)
    lines = summary_lines(metrics, CalibrationFile.read(run))
    if OverProbe.there(run):
        lines += over_probe_lines(OverProbe.read(run))
    if PhotoCost.there(run):
        lines.append(cost_line(PhotoCost.read(run)))
    return [*lines, *speed_lines(RunSpeed.read(run).speed, trainer.times), *next_lines(run)]


def next_lines(run: Path) -> list[str]:
    """The path of the report (a refit has none), and the next command to type."""
    report = run / "report.html"
    lines = [f"report: {report}"] if report.is_file() else []
    return [*lines, predict_line(run)]
