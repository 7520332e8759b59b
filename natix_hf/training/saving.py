"""Writes checkpoints and loads them to resume.

Incomplete checkpoints are ignored (`checkpoints.py`). With EMA a checkpoint contains the averaged weights, which were
evaluated, and the raw weights, from which training resumes. A sharded model is saved as whole tensors by one process.
The trainer decides when to save.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME, rotate_checkpoints

from natix_hf.errors import UserError
from natix_hf.training.checkpoints import check_continuable, is_complete, mark_complete, not_saved
from natix_hf.training.ema import Ema
from natix_hf.training.losses.training_loss import TrainingLoss
from natix_hf.training.pretrain.objectives import Objective
from natix_hf.training.sharding import own, piece, reshard, whole

RAW_WEIGHTS = "raw_trainable.safetensors"
SHARDED_WEIGHTS = "pytorch_model_fsdp.bin"  # the file that accelerate loads into a sharded model


class CheckpointKeeper:
    """Write and read the checkpoints of one training.

    Args:
        args: `NatixTrainingArguments`.
        criterion: its state is saved too.
        ema: the average of the trained weights; None without EMA.
    """

    def __init__(self, args: Any, criterion: TrainingLoss | Objective, ema: Ema | None) -> None:
        self.args, self.criterion, self.ema = args, criterion, ema
        self.folder = Path(args.output_dir) / "checkpoints"

    def write(self, state: TrainerState, save: Callable[[], None], wait: Callable[[], None]) -> None:
        """Write the checkpoint of the current step and remove old ones; all processes call this together.

        Args:
            state: of the trainer.
            save: writes the files of `transformers.Trainer`.
            wait: returns once all processes have called it.

        Raises:
            UserError: the checkpoint could not be written; no part of it is left.
        """
        point, limit = self.folder / f"checkpoint-{state.global_step}", self.args.save_total_limit
        self.args.save_total_limit = None  # else `save` removes older checkpoints before this one is complete
        try:
            with self.ema.weights() if self.ema is not None else nullcontext():
                save()
            raw = {} if self.ema is None else {name: whole(p) for name, p in self.ema.parameters.items()}
            wait()
            if self.args.should_save:
                _write_state(state, point)
                if self.ema is not None:
                    save_file({name: tensor.contiguous() for name, tensor in raw.items()}, point / RAW_WEIGHTS)
                self.criterion.save(point)
                mark_complete(point)
        except BaseException as error:
            # A full disk or Ctrl-C: leave nothing half-written.
            free = shutil.disk_usage(self.args.output_dir).free
            shutil.rmtree(point, ignore_errors=True)
            if isinstance(error, OSError | RuntimeError | SafetensorError):  # torch.save raises RuntimeError
                raise UserError(not_saved(self.args.output_dir, state.global_step, error, free)) from error
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            best = state.best_model_checkpoint
            rotate_checkpoints(output_dir=str(self.folder), save_total_limit=limit, best_model_checkpoint=best)

    def find_best(self, state: TrainerState, point: Path) -> None:
        """Set the path of the best checkpoint so far in a state that was restored from `point`."""
        if not state.best_global_step:
            return
        here = self.folder.is_dir() and self.folder.samefile(point.parent)
        best = (self.folder if here else point.parent) / f"checkpoint-{state.best_global_step}"
        if is_complete(best):
            state.best_model_checkpoint = str(best)
        elif self.args.load_best_model_at_end:
            state.best_metric = state.best_global_step = None
            if self.args.should_log:
                print(
                    f"resumed: the best checkpoint so far, {best}, no longer exists; the best one from now on is kept"
                )

    def read(self, point: Path, model: torch.nn.Module, load: Callable[[], None], *, sharded: bool) -> None:
        """Load a checkpoint: raw weights into the model, averaged weights into the average.

        Args:
            point: folder of the checkpoint.
            model: the model in training.
            load: loads the files of `transformers.Trainer`.
            sharded: whether the model is sharded.

        Raises:
            UserError: the checkpoint does not fit this training.
        """
        check_continuable(point)
        self.criterion.load(point)
        if (point / SHARDED_WEIGHTS).exists() != sharded:
            was, now = ("whole", "sharded") if sharded else ("sharded", "whole")
            raise UserError(
                f"{point} was written from a {was} model, but this one is {now} (FSDP): "
                "resume with the accelerate configuration that the run was started with"
            )
        if self.ema is not None:
            self.ema.follow(model)
        load()
        raw = point / RAW_WEIGHTS
        if raw.exists() != (self.ema is not None):
            was = "true" if raw.exists() else "false"
            raise UserError(f"{point} was written with ema: {was}: resume it with the same setting")
        if self.ema is None:
            return
        self.ema.restart()
        weights, wanted = load_file(raw), self.ema.parameters
        if weights.keys() != wanted.keys():
            odd = sorted(weights.keys() ^ wanted.keys())
            raise UserError(
                f"{point}: its trained weights are not those of this recipe: {', '.join(odd[:3])}, ... "
                f"({len(odd)} names differ): resume it with its own recipe"
            )
        reshard(self.ema.model)
        with torch.no_grad():
            for name, parameter in wanted.items():
                own(parameter).copy_(piece(weights[name], like=parameter))


def _write_state(state: TrainerState, point: Path) -> None:
    """Write the trainer's state without the run's path and intervals, which a resumed run sets again."""
    here = {"best_model_checkpoint": None, "logging_steps": None, "eval_steps": None, "save_steps": None}
    dataclasses.replace(state, **here).save_to_json(str(point / TRAINER_STATE_NAME))
