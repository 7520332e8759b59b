"""Creates and checks the folder of a run.

A folder holds one run, which is finished when its last step is done. A second run in the same folder is refused unless
it resumes the first one or replaces it with `--overwrite_output_dir true`.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Literal

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.documents.cascade import TwoModels
from natix_hf.documents.run_record import NOT_FINISHED, RunRecord
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.documents.step_record import StepRecord
from natix_hf.errors import UserError
from natix_hf.files import check_writable, write_text
from natix_hf.runs.provenance import now, versions
from natix_hf.runs.steps import CHAINS, SPLIT, carried_out

# Why some commands refuse a run of a sweep.
SWEPT = "a run of a sweep is scored on val_select only: train the winner as an ordinary run, see SWEEP.md"


def check(output_dir: str | Path, *, resume: bool, overwrite: bool) -> None:
    """Raise `UserError` if a run cannot start in `output_dir`; changes nothing.

    Args:
        output_dir: the run folder, there or not.
        resume: the caller wants to resume an interrupted run.
        overwrite: the caller wants to replace a run.
    """
    run = Path(output_dir)
    if run.exists() and not run.is_dir():
        raise UserError(f"output_dir {run}: a file with this name exists: choose another folder")
    check_writable(run, "output_dir")
    if not run.exists() or set(run.iterdir()) <= set(run.glob(".*.tmp*")):  # left by a process that was killed
        return
    if not (run / "run.json").exists():
        raise UserError(f"output_dir {run}: not empty, and not a run of natix_hf: choose another folder")
    if overwrite and not resume:
        return
    if status(run) == "finished":
        raise UserError(
            f"output_dir {run}: already holds a finished run: choose another folder or add --overwrite_output_dir true"
        )
    if not resume:
        raise UserError(
            f"output_dir {run}: holds an interrupted run: if no other process is training it, add "
            "--resume_from_checkpoint true to resume it, or --overwrite_output_dir true to replace it"
        )


def finished(folder: str | Path) -> Path:
    """The folder of a finished run; raises `UserError` if it is not one."""
    run = Path(folder).expanduser()
    if not run.is_dir():
        raise UserError(f"{folder}: no such folder")
    if not (run / "run.json").is_file():
        raise UserError(f"{folder}: no run.json, so it is not a run of natix_hf: give the folder of a run")
    if status(run) != "finished":
        raise UserError(f"{folder}: {NOT_FINISHED}")
    if RunRecord.read(run).purpose == "sweep":
        raise UserError(f"{folder}: {SWEPT}")
    if RunRecord.read(run).purpose == "pretrain":
        raise UserError(
            f"{folder}: a pretrained backbone, which cannot classify photos yet: fine-tune it with natix-hf train "
            f"recipes/lora.yaml --model_name_or_path {folder}"
        )
    return run


def check_one_model(folder: str | Path, verb: str) -> None:
    """Raise `UserError` for a cascade of two runs; `verb` is the command that takes only one model."""
    run = Path(folder).expanduser()
    if TwoModels.there(run):
        both = TwoModels.read(run)
        raise UserError(
            f"{folder}: a cascade of two models, but {verb} takes one model: use its runs {both.first.run} and "
            f"{both.second.run}, one after the other"
        )


def predict_line(folder: str | Path) -> str:
    """The next command to type, once a model is in this folder."""
    return f"next: natix-hf predict {shlex.quote(str(folder))} PHOTOS --output predictions.csv"


def exportable(folder: str | Path) -> Path:
    """The folder of a finished run, or of the copy of a model that `natix_hf.recalibrate` made; else `UserError`."""
    check_one_model(folder, "natix_hf.export")
    run = Path(folder).expanduser()
    return run if (run / "recalibration.json").is_file() and (run / "config.json").is_file() else finished(folder)


def status(run: Path) -> Literal["training", "evaluating", "finished"]:
    """The state of a run: in training, in the steps after training, or finished.

    Raises:
        UserError: `run.json` is invalid or from another release.
    """
    record = RunRecord.read(run)
    if record.status != "finished":
        return "training"
    last = CHAINS[record.purpose or "run"][-1]
    return "finished" if StepRecord.path(run, last.name).is_file() else "evaluating"


def begin(
    output_dir: str | Path,
    *,
    resume: bool,
    overwrite: bool,
    recipe_text: str | None,
    splits: SplitCertificate,
    point: Path | None,
    processes: int,
    attention: str | None,
    purpose: str,
) -> None:
    """Create the folder and write the files known before training: recipe, splits, `run.json` with status `training`.

    Args:
        output_dir, resume, overwrite: as in `check`.
        recipe_text: text of `recipe.yaml`; None if training was not started from a recipe.
        splits: certificate of the splits.
        point: the checkpoint to resume from, of this run or another one.
        processes: number of training processes.
        attention: the attention implementation.
        purpose: purpose of the run.

    Raises:
        UserError: as `check`; or the photos have changed since the run was interrupted.
    """
    check(output_dir, resume=resume, overwrite=overwrite)
    run = Path(output_dir)
    if overwrite and not resume and run.exists():
        shutil.rmtree(run)
    origin = point.absolute().parent.parent if point else run
    for trained in {run, origin} if resume else ():
        if SplitCertificate.there(trained) and read_certificate(trained).fingerprint != splits.fingerprint:
            raise UserError(
                f"output_dir {run}: the photos or their split have changed since this run was interrupted: "
                "restore them, or start again with --overwrite_output_dir true"
            )
    run.mkdir(parents=True, exist_ok=True)
    started = now()
    if resume and RunRecord.there(run):
        started = RunRecord.read(run).started or started
    shutil.rmtree(run / "steps", ignore_errors=True)
    record = RunRecord(
        status="training", started=started, versions=versions(), processes=processes, attention=attention
    )
    record.write(run)
    with carried_out(run, SPLIT, purpose=purpose):
        splits.write(run)
    if recipe_text is not None:
        write_text(run / "recipe.yaml", recipe_text)
