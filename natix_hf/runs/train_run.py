"""Trains a run: creates or resumes its folder, then trains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from natix_hf.documents.probe import ProbeSearch
from natix_hf.documents.run_record import RunRecord
from natix_hf.files import replacing
from natix_hf.modeling.attention import attention_of
from natix_hf.runs import folder as run_folder
from natix_hf.runs.provenance import now
from natix_hf.runs.steps import TRAIN, carried_out
from natix_hf.training.checkpoints import asked_to_resume, resume_point, resumed_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments
    from transformers.trainer_utils import TrainOutput

    from natix_hf.data.splits.contracts import LockedSplits
    from natix_hf.training.trainer import NatixTrainer


def begin_run(
    trainer: NatixTrainer, *, recipe_text: str | None = None, resume_from_checkpoint: str | bool | None = None
) -> Path | None:
    """Create or resume the folder of a run; returns the checkpoint to resume from. Arguments as in `train_run`."""
    splits, asked = trainer.splits, resume_from_checkpoint
    return begin_folder(
        trainer.args, splits, trainer.model, purpose=splits.purpose, recipe_text=recipe_text, resume=asked
    )


def begin_folder(
    args: TrainingArguments,
    splits: LockedSplits,
    model: PreTrainedModel,
    *,
    purpose: str,
    recipe_text: str | None,
    resume: str | bool | None = None,
) -> Path | None:
    """Create the folder `args.output_dir`, or resume its run.

    Args:
        splits: splits of the run.
        model: the model that will be trained.
        purpose: purpose of the run.
        recipe_text: as in `train_run`.
        resume: `resume_from_checkpoint` of `train_run`.

    Returns:
        The checkpoint to resume from, or None.
    """
    run, asked = Path(args.output_dir), args.resume_from_checkpoint if resume is None else resume
    with args.main_process_first(desc="run folder"):
        point, resuming = resume_point(run, asked), asked_to_resume(asked)
        if resuming and args.should_log:
            print(resumed_line(run, point))
        if args.should_save:
            run_folder.begin(
                run,
                resume=resuming,
                point=point,
                overwrite=args.overwrite_output_dir,
                recipe_text=recipe_text,
                splits=splits.description,
                processes=args.world_size,
                attention=attention_of(model),
                purpose=purpose,
            )
    return point


def train_run(
    trainer: NatixTrainer, *, recipe_text: str | None = None, resume_from_checkpoint: str | bool | None = None
) -> TrainOutput:
    """Create the run folder `args.output_dir` and train. `runs.finish_run` does the later steps.

    Args:
        trainer: the trainer.
        recipe_text: text of `recipe.yaml`; None if training was not started from a recipe.
        resume_from_checkpoint: True for the last complete checkpoint of the run, or the folder of a checkpoint; by
            default `args.resume_from_checkpoint`.

    Raises:
        UserError: the folder holds another run, or the loss is not finite.
    """
    args, run = trainer.args, Path(trainer.args.output_dir)
    point = begin_run(trainer, recipe_text=recipe_text, resume_from_checkpoint=resume_from_checkpoint)
    with carried_out(run, TRAIN, purpose=trainer.splits.purpose, splits=trainer.splits, noted=args.should_save):
        if trainer.curriculum is not None and args.should_save:
            print(trainer.curriculum.line())
            trainer.curriculum.draw(run / "figures" / "curriculum.png", trainer.label_list)
        output = trainer.train(resume_from_checkpoint=False if point is None else str(point))
        if args.should_save:
            if trainer.search is not None:
                print("\n".join(write_search(run, trainer.search)))
            training_record(trainer, RunRecord.read(run)).write(run)
    return output


def training_record(trainer: NatixTrainer, begun: RunRecord) -> RunRecord:
    """`run.json` of a trainer that has trained.

    Args:
        trainer: the trainer.
        begun: the record written at the start.
    """
    args, splits, state = trainer.args, trainer.splits, trainer.state
    certificate = splits.description
    metric = (args.metric_for_best_model or "mcc").removeprefix("eval_")
    content = {
        "status": "finished",
        "finished": now(),
        "method": trainer.method,
        "positive": trainer.positive,
        "training_shares": trainer.training_shares,
        "seeds": {"seed": args.seed, "data_seed": trainer.sampler.seed, "split_seed": certificate.seed},
        "fingerprints": {"splits": certificate.fingerprint, **certificate.fingerprints},
        "prefix": trainer.source.prefix_document(),
        "purpose": splits.purpose,
        "hold_out": certificate.hold_out,
        "steps": state.global_step,
        "max_steps": trainer.planned_steps(),
        "best_step": state.best_global_step,
        "trainable_parameters": trainer.trainable_parameters,
        "parameters": trainer.all_parameters,
        "log_history": [
            {k: v if v == v and abs(v) != float("inf") else None for k, v in entry.items()}
            for entry in state.log_history
        ],
        "metric": "log_loss" if metric == "loss" else metric,
        **trainer.noted(),
    }
    return RunRecord.check({"version": RunRecord.edition, **begun.plain(), **content})


def write_search(run: Path, search: ProbeSearch) -> list[str]:
    """Write `probe.json` and, if heads were compared, `figures/probe.png`; returns the lines to print."""
    search.write(run)
    chosen = search.chosen
    head = f"{chosen.pooling} of the last {chosen.layers}, learning rate {chosen.learning_rate:g}"
    head += f", weight decay {chosen.weight_decay:g}"
    if search.heads is None:
        return [f"probe: {head}"]
    from natix_hf.report.figures_probe import heat_map

    (run / "figures").mkdir(exist_ok=True)
    with replacing(run / "figures" / "probe.png") as path:
        heat_map(search.heads, chosen.plain(), path)
    best = next(one for one in search.heads if one.items() >= chosen.plain().items())
    check = search.lbfgs
    return [
        f"probe: {len(search.heads)} heads over {search.rows} photos; best on val_select "
        f"({search.judged} photos): {head}: MCC {best['mcc']:.3f}, NLL {best['log_loss']:.4f}",
        f"  compared with L-BFGS logistic regression (C = {check.C:g}): MCC {check.mcc:.3f}, NLL {check.log_loss:.4f}",
    ]
