"""Pretrains a backbone, chooses a milestone, and writes an ordinary checkpoint with its card."""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from natix_hf.documents.pretraining import GuardRecord, MilestoneChoice
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.unlabelled_pool import UnlabelledPool
from natix_hf.errors import UserError
from natix_hf.files import home, staging, write_text
from natix_hf.inference.features import frozen_features
from natix_hf.modeling.checkpoints import build_model, load_backbone
from natix_hf.report.chart_pictures import draw_charts
from natix_hf.report.figures_pretraining import guard_charts
from natix_hf.runs.choose_milestone import Judge, choice_lines, choose
from natix_hf.runs.pretrained_card import pretrained_card
from natix_hf.runs.provenance import now
from natix_hf.runs.steps import CHOOSE, PRETRAIN, carried_out
from natix_hf.runs.train_run import begin_folder
from natix_hf.training.checkpoints import asked_to_resume, step_of
from natix_hf.training.pretrain.guard import LEAST_SHARE
from natix_hf.training.pretrain.plain_checkpoint import published_config, write_plain
from natix_hf.training.pretrain.pretrain_trainer import milestones

if TYPE_CHECKING:
    from datasets import Dataset

    from natix_hf.data.splits.contracts import LockedSplits
    from natix_hf.training.pretrain.pretrain_trainer import PretrainTrainer


def pretrain_run(trainer: PretrainTrainer, splits: LockedSplits, *, recipe_text: str | None = None) -> None:
    """Create the folder `args.output_dir`, or resume its run, and pretrain; writes milestones.

    Args:
        trainer: the trainer.
        splits: the splits that it reads.
        recipe_text: text of `recipe.yaml`.

    Raises:
        UserError: the folder holds another run or was begun with another pool, or the features collapse.
    """
    args, run = trainer.args, Path(trainer.args.output_dir)
    if args.should_save:
        check_pool(run, splits.pool, resume=asked_to_resume(args.resume_from_checkpoint))
    point = begin_folder(args, splits, trainer.model.backbone, purpose="pretrain", recipe_text=recipe_text)
    with carried_out(run, PRETRAIN, purpose="pretrain", splits=splits, noted=args.should_save):
        if args.should_save and splits.pool is not None:
            splits.pool.write(run)
        try:
            trainer.train(resume_from_checkpoint=False if point is None else str(point))
        finally:
            if args.should_save and GuardRecord.there(run):
                draw_guard(run)
        if args.should_save:
            record = RunRecord.read(run).plain() | {
                "status": "finished",
                "finished": now(),
                "purpose": "pretrain",
                "method": trainer.options.pretrain_train,
                "steps": trainer.state.global_step,
                "max_steps": trainer.total,
                "trainable_parameters": trainer.trainable_parameters,
                "fingerprints": {"splits": splits.description.fingerprint, **splits.description.fingerprints},
                "log_history": trainer.state.log_history,
            }
            RunRecord.check({"version": RunRecord.edition, **record}).write(run)


def check_pool(run: Path, pool: UnlabelledPool | None, *, resume: bool) -> None:
    """Raise `UserError` if an interrupted run was started with another pool."""
    if not resume or not (run / "run.json").is_file():
        return
    before = UnlabelledPool.read(run).fingerprint if UnlabelledPool.there(run) else None
    if before != (pool.fingerprint if pool else None):
        raise UserError(
            f"output_dir {run}: the photos of unlabelled_name have changed since this run was interrupted "
            f"({run / UnlabelledPool.file_name}): restore them, or start again with --overwrite_output_dir true"
        )


def draw_guard(run: Path) -> None:
    """Draw `guard.json`."""
    (run / "figures").mkdir(exist_ok=True)
    draw_charts(guard_charts(GuardRecord.read(run).looks, LEAST_SHARE), run / "figures" / "guard.png")


def finish_pretraining(
    run: Path,
    splits: LockedSplits,
    *,
    base: str,
    revision: str | None = None,
    processor: Any,
    metric: str,
    positive: int,
    forgetting: tuple[str, Dataset, Dataset] | None = None,
    cache_dir: str | None = None,
    cache_gb: float | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    device: Any = "cpu",
    card: dict[str, Any],
) -> MilestoneChoice:
    """Choose among the milestones and the original, and write the result into the folder.

    Args:
        run: a run whose pretraining is finished.
        splits: the probes read its `train` and `val_select`.
        base, revision: the checkpoint that pretraining started from.
        processor: image processor of that checkpoint.
        metric: metric of the choice.
        positive: id of the positive class.
        forgetting: a data set of another kind: its name, rows to fit on and rows to score.
        cache_dir, cache_gb: folder for frozen features, and its largest size.
        batch_size, num_workers, device: for the features.
        card: facts of the recipe for the card.
    """
    marks = milestones(run)
    steps = [step_of(path) for path in marks]
    with carried_out(run, CHOOSE, purpose="pretrain", splits=splits):
        train = splits.rows("training", step="choose milestone")
        judge = Judge(train, splits.rows("selection", step="choose milestone"), metric, positive)

        @lru_cache(maxsize=1)
        def network(place: Path | None) -> Any:
            return build_model(str(place or base), splits.label_names, revision=None if place else revision).to(device)

        def features(place: Path | None, rows: Any) -> np.ndarray:
            folder, speed = Path(cache_dir or home()), {"batch_size": batch_size, "num_workers": num_workers}
            frozen = frozen_features(network(place), rows, processor, cache_dir=folder, budget_gb=cache_gb, **speed)
            return frozen.table()

        other = forgetting and Judge(*forgetting[1:], metric, 1)
        choice = choose(marks, steps, features, judge, forgetting=other, forgetting_name=forgetting and forgetting[0])
        choice.write(run)
        with staging(run) as stage:
            if choice.chosen:
                shutil.copytree(
                    marks[steps.index(choice.chosen)], stage, copy_function=shutil.copyfile, dirs_exist_ok=True
                )
            else:
                backbone = load_backbone(base, revision=revision)
                write_plain(stage, published_config(base, backbone, revision), backbone.state_dict(), processor)
        pool = UnlabelledPool.read(run) if UnlabelledPool.there(run) else None
        write_text(run / "README.md", pretrained_card(base, choice, pool, len(train), card))
    return choice


def pretrain_lines(run: Path, choice: MilestoneChoice) -> list[str]:
    """The printed lines at the end of pretraining."""
    return [*choice_lines(choice), f"train on it: natix-hf train recipes/lora.yaml --model_name_or_path {run}"]
