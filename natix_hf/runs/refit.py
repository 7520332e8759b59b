"""Refit: trains the recipe of a finished run (the honest run) again, on the rows of all four splits.

A refit makes no choices. It takes as many optimizer steps as the best checkpoint of the honest run had, on the same
schedule. (The number of steps is the same, not the number of epochs: each photo is seen less often than before, never
more often.) Temperature and biases are copied. No rows remain for a test, so `metrics.json` and the card hold the
figures of the honest run and say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.probe import ProbeSearch
from natix_hf.documents.run_documents import RunDocuments
from natix_hf.documents.run_record import HonestRun, Noted, RunRecord
from natix_hf.errors import UserError
from natix_hf.files import write_text
from natix_hf.hub.cards import model_card
from natix_hf.options import RecipeValue
from natix_hf.runs import folder as run_folder
from natix_hf.runs.assemble_model import save_model
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.finish_run import write_speed
from natix_hf.runs.same_recipe import REFITTED, differences, differing
from natix_hf.runs.steps import CARD, CARRY_OVER, carried_out
from natix_hf.training.heads import Setting
from natix_hf.training.trainer import NatixTrainer


def check_refit(honest: str | Path, text: str, known: Mapping[str, RecipeValue]) -> Path:
    """Check that `honest` is a finished run of the same recipe.

    Args:
        honest: folder of the run.
        text: `recipe.yaml` of the refit.
        known: every key of a recipe with its default.

    Returns:
        The folder.

    Raises:
        UserError: names what differs.
    """
    run = run_folder.finished(honest)
    record = RunRecord.read(run)
    if record.purpose not in (None, "run"):
        raise UserError(f"refit_from {honest}: is itself a {record.purpose}: name an ordinary run")
    if record.max_steps is None or not (run / "recipe.yaml").is_file():
        raise UserError(
            f"refit_from {honest}: its settings are unknown, because recipe.yaml or max_steps in run.json is missing: "
            "train it again"
        )
    ours, theirs = (yaml.safe_load(one) for one in (text, (run / "recipe.yaml").read_text(encoding="utf-8")))
    if odd := differing(ours, theirs, known, REFITTED):
        raise UserError(f"refit_from {honest}: has another recipe: {differences(odd)}: use the same recipe")
    if ours.get("curriculum", "none") != "none":
        raise UserError(
            "refit: a curriculum depends on the epochs over train, which a refit changes: train both with "
            "--curriculum none"
        )
    if ours.get("warm_start", "none") != "none":
        raise UserError(
            "refit: warm_start chooses its head on val_select, which a refit trains on: train both with "
            "--warm_start none"
        )
    return run


class Refit(NatixTrainer):
    """A trainer on all rows that takes steps, calibration and figures from an honest run.

    Takes the arguments of `NatixTrainer`; the purpose of the splits is a refit.

    Args:
        honest: folder of the finished run.

    Raises:
        UserError: the photos, their split or the number of processes are not those of the honest run.
    """

    def __init__(self, model: torch.nn.Module, args: Any, *, honest: Path, splits: Any, **kwargs: Any) -> None:
        if read_certificate(honest).fingerprint != splits.description.fingerprint:
            raise UserError(
                f"refit_from {honest}: the photos or their split have changed since that run: restore them, or train "
                "the run again"
            )
        record = RunRecord.read(honest)
        processes = record.processes or args.world_size
        if processes != args.world_size:
            raise UserError(
                f"refit_from {honest}: expected {processes} process(es), found {args.world_size}, because a step must "
                f"have as many photos as in that run: start {processes}"
            )
        steps = record.steps
        # If the honest run chose a best checkpoint, its weights are from that step.
        if args.load_best_model_at_end and record.best_step:
            steps = record.best_step
        self.honest = honest
        self.taken = HonestRun(name=honest.name, steps=steps, max_steps=record.max_steps)
        args.max_steps, args.load_best_model_at_end, args.early_stopping_patience = steps, False, None
        args.eval_strategy, args.eval_on_start = IntervalStrategy.NO, False
        if args.save_strategy == SaveStrategy.BEST:
            args.save_strategy = SaveStrategy.EPOCH
        super().__init__(model, args, splits=splits, **kwargs)

    def planned_steps(self) -> int:
        return self.taken.max_steps

    def noted(self) -> Noted:
        return {"refit": self.taken}

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        return super().create_scheduler(self.planned_steps(), optimizer)

    def wanted_heads(self) -> list[Setting]:
        """Only the head that the honest run chose."""
        return [Setting(**ProbeSearch.read(self.honest).chosen.plain())]


def finish_refit(trainer: Refit, decision: DecisionOptions | None = None) -> FinalFigures | None:
    """Complete the run folder; returns the honest run's `metrics.json`, marked as such."""
    run, document = Path(trainer.args.output_dir), None
    if trainer.args.should_save:
        name = {"honest_run": trainer.honest.name}
        with carried_out(run, CARRY_OVER, purpose="refit"):
            calibration = CalibrationFile.read(trainer.honest).model_copy(update=name)
            calibration.write(run)
            document = FinalFigures.read(trainer.honest).model_copy(update=name)
            document.write(run)
        with trainer.times.timed("save"):
            save_model(trainer, run, calibration)
        write_speed(trainer)
        with carried_out(run, CARD, purpose="refit"):
            write_text(run / "README.md", model_card(run, RunDocuments.read(run, trainer.splits.description)))
    trainer.accelerator.wait_for_everyone()
    return document
