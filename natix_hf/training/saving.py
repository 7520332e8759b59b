"""How `NatixTrainer` writes its checkpoints and goes on from them.

A checkpoint counts when it is whole (`checkpoints.py`). With EMA it holds the averaged weights, which were scored, and
the raw ones beside them, from which training goes on. A sharded model is written in whole tensors, by one process.
What is trained and when a checkpoint is due is the trainer's business.
"""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME, rotate_checkpoints

from natix_hf.errors import UserError
from natix_hf.training.checkpoints import check_continuable, is_complete, mark_complete, not_saved
from natix_hf.training.sharding import (
    check_sharded,
    check_sharding,
    fill,
    keep_precision,
    own,
    piece,
    reshard,
    sketch,
    whole,
)

RAW_WEIGHTS = "raw_trainable.safetensors"
SHARDED_WEIGHTS = "pytorch_model_fsdp.bin"  # accelerate's name for what it loads into a sharded model


class SavesWholeCheckpoints(Trainer):
    """The part of `NatixTrainer` that saves and loads; it reads its `ema`, `criterion` and `method`."""

    sketch: torch.nn.Module | None = None  # what a sharded model becomes after training

    def create_accelerator_and_postprocess(self) -> None:
        check_sharding(self.args, self.method, prefix_cache_gb=self.prefix_cache_gb)
        super().create_accelerator_and_postprocess()
        check_sharded(self.args, self.is_fsdp_enabled)
        if self.is_fsdp_enabled:
            keep_precision(self.accelerator.state.fsdp_plugin)

    def _prepare_for_training(self, *args: Any) -> Any:
        if self.is_fsdp_enabled:
            self.sketch = sketch(self.model)
        prepared = super()._prepare_for_training(*args)
        if self.ema is not None:
            self.ema.follow(self.model)  # to shard a model is to give it other parameters
        return prepared

    def become_whole(self) -> None:
        """After training: where the model is sharded, every process gets all of it, and it is sharded no more."""
        if not self.is_fsdp_enabled:
            return
        if self.sketch is not None:
            self.model = fill(self.sketch, self.model)
            self.model_wrapped = self.callback_handler.model = self.model
            self.sketch = self.optimizer = self.callback_handler.optimizer = None
        self.accelerator.free_memory()  # which also has it prepare the model anew, for evaluation alone
        self.is_fsdp_enabled = False

    def _get_output_dir(self, trial: Any) -> str:
        return str(Path(self.args.output_dir) / "checkpoints")

    def _folder_now(self, trial: Any) -> Path:
        return Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        # The parent would remove older checkpoints before this one counts: do it after.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        self.optimizer.eval()  # a schedule-free optimizer then has the weights in place that are scored
        try:
            with self.ema.weights() if self.ema is not None else nullcontext():
                super()._save_checkpoint(model, trial)
            raw = {} if self.ema is None else {name: whole(p) for name, p in self.ema.parameters.items()}
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._keep_state(self._folder_now(trial))
                if self.ema is not None:
                    raw = {name: tensor.contiguous() for name, tensor in raw.items()}
                    save_file(raw, self._folder_now(trial) / RAW_WEIGHTS)
                self.criterion.save(self._folder_now(trial))
                mark_complete(self._folder_now(trial))
        except BaseException as error:
            # A full disk, or Ctrl-C: nothing half-written stays.
            free = shutil.disk_usage(self.args.output_dir).free
            shutil.rmtree(self._folder_now(trial), ignore_errors=True)
            if isinstance(error, OSError | RuntimeError | SafetensorError):  # torch.save says RuntimeError
                raise UserError(not_saved(self.args.output_dir, self.state.global_step, error, free)) from error
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=self._get_output_dir(trial),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )

    def _keep_state(self, folder: Path) -> None:
        """Write the trainer's state without what belongs to this start alone: where the run lies, and its rhythm."""
        here = {"best_model_checkpoint": None, "logging_steps": None, "eval_steps": None, "save_steps": None}
        dataclasses.replace(self.state, **here).save_to_json(str(folder / TRAINER_STATE_NAME))

    def _init_training_state(self, max_steps: int, *args: Any) -> tuple[int, int]:
        started = super()._init_training_state(max_steps, *args)
        point = args[-2]  # resume_from_checkpoint
        if point is not None:
            self.state.compute_steps(self.args, max_steps)
            self._find_best(Path(point))
        return started

    def _find_best(self, point: Path) -> None:
        """Tell the restored state where the best checkpoint so far lies now."""
        state, folder = self.state, Path(self._get_output_dir(None))
        if not state.best_global_step:
            return
        if not folder.is_dir() or not folder.samefile(point.parent):
            folder = point.parent
        best = folder / f"checkpoint-{state.best_global_step}"
        if is_complete(best):
            state.best_model_checkpoint = str(best)
        elif self.args.load_best_model_at_end:
            state.best_metric = state.best_global_step = None
            if self.args.should_log:
                print(f"resumed: the best checkpoint so far, {best}, is gone: the best of what follows is taken")

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.method == "probe" and state_dict is None:
            trainable = {name for name, p in self.model.named_parameters() if p.requires_grad}
            state_dict = {name: t for name, t in self.model.state_dict().items() if name in trainable}
        super()._save(output_dir, state_dict)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """The parent's warning, but for weights that a checkpoint never has since they are not trained."""
        trained = {name for name, p in self.model.named_parameters() if p.requires_grad}
        missing = load_result.missing_keys
        if self.method == "probe":  # `_save` leaves the backbone out
            missing = [name for name in missing if name in trained]
        super()._issue_warnings_after_load(type(load_result)(missing, load_result.unexpected_keys))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        check_continuable(Path(resume_from_checkpoint))
        self.criterion.load(resume_from_checkpoint)
        if (Path(resume_from_checkpoint) / SHARDED_WEIGHTS).exists() != self.is_fsdp_enabled:
            was, now = ("whole", "sharded") if self.is_fsdp_enabled else ("sharded", "whole")
            raise UserError(
                f"{resume_from_checkpoint} was written while the model was {was}, and here it is {now} (FSDP): "
                "resume with the configuration of accelerate that the run was started with"
            )
        if self.ema is not None:
            self.ema.follow(self.model if model is None else model)
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        raw = Path(resume_from_checkpoint) / RAW_WEIGHTS
        if self.ema is None:
            if raw.exists():
                raise UserError(
                    f"{resume_from_checkpoint} was written with ema: true; resume it with the same setting"
                )
            return
        if not raw.exists():
            raise UserError(f"{resume_from_checkpoint} was written with ema: false; resume it with the same setting")
        self.ema.restart()
        weights = load_file(raw)
        wanted = self.ema.parameters
        if weights.keys() != wanted.keys():
            odd = sorted(weights.keys() ^ wanted.keys())
            raise UserError(
                f"{resume_from_checkpoint}: trained with other layers than this recipe: {', '.join(odd[:3])}, ... "
                f"({len(odd)} names differ)"
            )
        reshard(self.ema.model)
        with torch.no_grad():
            for name, parameter in wanted.items():
                own(parameter).copy_(piece(weights[name], like=parameter))
