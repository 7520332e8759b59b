"""`transformers.Trainer` for pretraining on photos without labels, built from the parts of `NatixTrainer`.

It trains a `Student`, keeps its moving average, writes the average as a plain checkpoint at milestones, and lets a
guard check the features. The caller chooses the best milestone by labels.
"""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import DINOv3ViTConfig, Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from natix_hf.data.splits.contracts import LockedSplits
from natix_hf.data.splits.lineage import KEY, lineage
from natix_hf.errors import UserError
from natix_hf.inference.batches import client_pixels
from natix_hf.modeling.evaluation_mode import evaluating
from natix_hf.photos.geometry import Geometry
from natix_hf.training.checkpoints import begin_at, step_of
from natix_hf.training.ema import Ema
from natix_hf.training.finite_losses import FiniteLosses
from natix_hf.training.optimizers.parameter_groups import parameter_groups
from natix_hf.training.pretrain.crops_and_masks import OnePhotoOfAGroup, PretrainCollator, PretrainPhotos
from natix_hf.training.pretrain.guard import Guard
from natix_hf.training.pretrain.objectives import OBJECTIVES
from natix_hf.training.pretrain.plain_checkpoint import write_plain
from natix_hf.training.pretrain.pretrain_options import PretrainOptions
from natix_hf.training.pretrain.pretraining_arguments import PretrainingArguments
from natix_hf.training.pretrain.schedules import Phases, RisingAverage
from natix_hf.training.pretrain.student import Student, merged_weights
from natix_hf.training.progress import show_progress
from natix_hf.training.saving import CheckpointKeeper

SMALL_BATCH = 64  # photos; with fewer, losses that compare photos are known to collapse
MILESTONES = "milestones"


def milestone_folder(run: Path, step: int) -> Path:
    """The folder of the model of a milestone."""
    return Path(run) / MILESTONES / f"step-{step:06d}"


def milestones(run: Path) -> list[Path]:
    """The milestones of a run, earliest first."""
    return sorted(path for path in (Path(run) / MILESTONES).glob("step-*") if (path / "config.json").is_file())


class _Steps(TrainerCallback):
    """Update the average, write milestones and run the guard after each optimizer step."""

    def __init__(self, trainer: PretrainTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.trainer.sampler.epoch = int(state.epoch or 0)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if not self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.average.update(state.global_step - 1)
        self.trainer.after_step(state.global_step)
        control.should_save |= state.global_step in self.trainer.milestone_steps


class PretrainTrainer(Trainer):
    """Pretrain a backbone on `train` and the pool of locked splits.

    Args:
        student: the network to train.
        args: of the loop.
        options: crops, masks, schedules, milestones, guard.
        splits: dedicated to `pretrain`; reads `train` and the pool, if there is one.
        processing_class: the checkpoint's image processor; sets the size of the large crops.
        base: name of the checkpoint.
        base_config: its published configuration, which milestones get.
        checked: whether the caller has called `check_pretraining` already, as the verb does.
        kwargs: further arguments of `transformers.Trainer`.

    Raises:
        UserError: crops smaller than a patch, a batch that does not fit the objective, or more photos in a batch than
            groups.
    """

    def __init__(
        self,
        student: Student,
        args: PretrainingArguments,
        options: PretrainOptions,
        *,
        splits: LockedSplits,
        processing_class: Any,
        base: str,
        base_config: DINOv3ViTConfig,
        checked: bool = False,
        **kwargs: Any,
    ) -> None:
        self.options, self.base, self.base_config = options, base, base_config
        objective, patch = student.objective, student.backbone.config.patch_size
        if not checked:
            check_pretraining(options, args, patch=patch)
        parts = [splits.rows("training", step="pretrain")]
        if splits.pool is not None:
            parts.append(splits.rows("unlabelled", step="pretrain"))
        seed = args.seed if args.data_seed is None else args.data_seed
        self.photos = sum(map(len, parts))
        self.sampler = one_photo_of_a_group(parts, seed, args.per_device_train_batch_size * args.world_size)
        self.total = args.max_steps = total_steps(args, len(self.sampler))
        self.phases = Phases.of(options, self.total)
        self.milestone_steps = self.phases.milestones(options.pretrain_milestones)
        train = PretrainPhotos(
            parts,
            options,
            views=objective.views,
            size=Geometry.of(processing_class).shape[-1],
            patch=patch,
            mask_share=objective.mask_share(options),
            local_crops=objective.local_crops(options),
            seed=seed,
        )
        super().__init__(
            model=student,
            args=args,
            data_collator=PretrainCollator(processing_class),
            train_dataset=train,
            processing_class=processing_class,
            **kwargs,
        )
        earlier = getattr(student.backbone.config, KEY, None)
        self.lineage = lineage(parts, base=base, certificate=splits.description, earlier=earlier)
        self.watched = watched_photos(parts, options.pretrain_guard_photos, processing_class, seed)
        self._add_parts()

    def _add_parts(self) -> None:
        """Add the parts that need the trainer to be built."""
        args, options, objective = self.args, self.options, self.plain_model().objective
        self.average = RisingAverage(self.model, options.pretrain_momentum, self.total)
        # Adapters start as zero, so these are the original weights.
        self.original = Ema(self.model, 0.0) if not objective.by_teacher else None
        self.entropy: torch.Tensor | None = None
        self.keeper = CheckpointKeeper(args, objective, self.average)
        self.finite = FiniteLosses(args.output_dir, lag=int(args.device.type != "cpu"))
        self.guard = Guard(Path(args.output_dir), options.pretrain_guard_steps, self.features, writes=args.should_save)
        self.trainable_parameters = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self.add_callback(_Steps(self))
        self.progress = show_progress(self)

    # -- training -----------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """Pretrain or resume; the results are the milestones.

        Raises:
            UserError: the features collapse, the loss is not finite, or the checkpoint does not fit this training.
        """
        point = begin_at(self.args, resume_from_checkpoint)
        self.guard.go_on(step_of(point) if point else 0)
        if point and step_of(point) >= self.total:
            self.state = TrainerState.load_from_json(str(point / TRAINER_STATE_NAME))
            return TrainOutput(self.total, 0.0, {})
        try:
            return super().train(resume_from_checkpoint=str(point) if point else None, **kwargs)
        finally:
            self.progress.close()

    def line(self) -> str:
        """One line on the model, its trained part and the steps."""
        everything = sum(p.numel() for p in self.model.parameters()) / 1e6
        return (
            f"model: {self.base}, {everything:.1f} M parameters with heads; {self.options.pretrain_train} trains "
            f"{self.trainable_parameters / 1e6:.3f} M of them for {self.total} steps of {self.facts()['batch']} of "
            f"{self.photos} photos, the first {self.phases.heads} steps for the heads only"
        )

    def facts(self) -> dict[str, Any]:
        """The facts about the training for the model card."""
        batch = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return {"steps": self.total, "batch": batch, "rate": self.args.learning_rate}

    def _get_train_sampler(self, train_dataset: Any = None) -> OnePhotoOfAGroup:
        return self.sampler

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any):
        """The loss of the objective, with the schedules of the current step."""
        step = self.state.global_step
        outputs = model(
            **inputs,
            targets_by=self.original or self.average,
            temperature=self.phases.temperature(step, self.options.pretrain_teacher_temperature),
            heads_only=self.phases.heads_only(step),
        )
        self.entropy = outputs.get("teacher_entropy")
        self.finite.seen(step + 1, outputs["loss"])
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def after_step(self, step: int) -> None:
        """Write a milestone and check the features, if due."""
        if step in self.milestone_steps and self.args.should_save:
            self.finite.check()
            self.write_milestone(step)
        if step % self.guard.every == 0 or step == self.total:
            entropy = None if self.entropy is None else float(self.entropy)
            self.guard.look(step, entropy, lambda: next(iter(self._earlier(step)), None))

    def _earlier(self, step: int) -> list[Path]:
        """The milestones up to the last successful check of the guard, latest first."""
        last = max((look.step for look in self.guard.looks[:-1]), default=0)
        written = milestones(Path(self.args.output_dir))
        return [path for path in reversed(written) if int(path.name.rpartition("-")[2]) <= last]

    def write_milestone(self, step: int) -> None:
        """Write the average as a plain checkpoint."""
        with self.average.weights():
            weights = merged_weights(self.plain_model().backbone)
        folder = milestone_folder(Path(self.args.output_dir), step)
        write_plain(folder, self.base_config, weights, self.processing_class, self.lineage)

    @torch.no_grad()
    def features(self) -> np.ndarray:
        """Class tokens `(n, hidden)` of the photos of the guard, by the average."""
        model = self.plain_model()
        with evaluating(model), self.average.weights():
            tokens = [
                model.backbone(pixels.to(self.args.device)).pooler_output.float().cpu()
                for pixels in self.watched.split(self.args.per_device_eval_batch_size)
            ]
        return torch.cat(tokens).numpy()

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.control.should_log or self.control.should_save:
            self.finite.check()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the formula of the parent is for language models."""
        return 0

    # -- optimizer ----------------------------------------------------------------------------------------------------

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Only weight matrices: no norms, biases, mask token, layer scale."""
        kept = super().get_decay_parameter_names(model)
        return [name for name in kept if not name.endswith(("mask_token", "lambda1"))]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = self._adamw(self.model if model is None else model)
        return self.optimizer

    def _adamw(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW over groups of equal rate; `heads` marks those of the objective."""
        heads = {id(p) for p in model.objective.parameters()}
        decayed = set(self.get_decay_parameter_names(model))
        groups = []
        for group in parameter_groups(model, self.args, decayed):
            for of_heads in (False, True):
                params = [p for p in group["params"] if (id(p) in heads) == of_heads]
                rate = group["lr"] * (self.options.pretrain_heads_lr_ratio if of_heads else 1.0)
                groups.append({**group, "params": params, "lr": rate, "heads": of_heads})
        kind, kwargs = Trainer.get_optimizer_cls_and_kwargs(self.args)
        groups.sort(key=lambda group: group["heads"])  # the log shows the first group's rate
        return kind([group for group in groups if group["params"]], **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        if self.lr_scheduler is None:
            optimizer = self.optimizer if optimizer is None else optimizer
            rates = {True: self.phases.head_rate, False: self.phases.backbone_rate}
            self.lr_scheduler = LambdaLR(optimizer, [rates[group["heads"]] for group in optimizer.param_groups])
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def plain_model(self) -> Student:
        """The student without the wrappers of training."""
        return self.accelerator.unwrap_model(self.model)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.keeper.folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        save = partial(super()._save_checkpoint, model, trial)
        self.keeper.write(self.state, save, self.accelerator.wait_for_everyone)

    def _init_training_state(self, max_steps: int, *args: Any) -> tuple[int, int]:
        started = super()._init_training_state(max_steps, *args)
        self.state.compute_steps(self.args, max_steps)  # which a checkpoint leaves out
        return started

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load = partial(super()._load_from_checkpoint, resume_from_checkpoint, model)
        self.keeper.read(Path(resume_from_checkpoint), self.model if model is None else model, load, sharded=False)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        trained = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        super()._save(output_dir, trained)
        with suppress(FileNotFoundError):
            Path(output_dir, "training_args.bin").unlink()  # a pickle

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """The warning of the parent, without the frozen weights that a checkpoint never contains."""
        trained = {name for name, p in self.model.named_parameters() if p.requires_grad}
        missing = [name for name in load_result.missing_keys if name in trained]
        super()._issue_warnings_after_load(type(load_result)(missing, load_result.unexpected_keys))


def total_steps(args: PretrainingArguments, photos: int) -> int:
    """The number of optimizer steps of a run with `photos` photos per epoch."""
    if args.max_steps > 0:
        return args.max_steps
    batches = photos // (args.per_device_train_batch_size * args.world_size)
    return max(1, math.ceil(args.num_train_epochs * math.ceil(batches / args.gradient_accumulation_steps)))


def check_pretraining(options: PretrainOptions, args: PretrainingArguments, *, patch: int) -> None:
    """Reject options that cannot work, before any data is read; warns about a small batch.

    Args:
        patch: of the network, in pixels.

    Raises:
        UserError: crops that are not a multiple of the patch, a batch too small, accumulation that has no effect.
    """
    objective = OBJECTIVES[options.pretrain_objective]
    local = options.pretrain_local_size
    if options.pretrain_objective == "dino" and options.pretrain_local_crops and (local < patch or local % patch):
        raise UserError(
            f"pretrain_local_size: expected a multiple of the network's patch of {patch} pixels, found {local}: "
            f"use for example {max(patch, local // patch * patch)}"
        )
    batch = args.per_device_train_batch_size * args.world_size
    if batch < 2:
        raise UserError(
            f"per_device_train_batch_size: expected at least 2, found {batch}, because the photos of a step are "
            f"compared with each other: {SMALL_BATCH} and more are known to work"
        )
    steps = args.gradient_accumulation_steps
    if steps > 1 and not objective.alone:
        raise UserError(
            f"gradient_accumulation_steps: {steps} given, but {options.pretrain_objective} compares the photos of a "
            f"batch with each other, and accumulated batches of {batch} stay batches of {batch}: leave it out "
            "with --gradient_accumulation_steps 1 and use activation_checkpointing for larger ones, or use "
            "--pretrain_objective distill"
        )
    if batch < SMALL_BATCH and args.should_log and not objective.alone:
        print(
            f"warning: per_device_train_batch_size: {batch} photos per step; {options.pretrain_objective} is known to "
            f"collapse with few, {SMALL_BATCH} and more are known to work; the guard ends a run that collapses"
        )


def one_photo_of_a_group(parts: list[Any], seed: int, batch: int) -> OnePhotoOfAGroup:
    """The order of the photos; `UserError` if a batch has more photos than there are groups."""
    groups = np.unique([group for part in parts for group in part["group"][:]], return_inverse=True)[1]
    sampler = OnePhotoOfAGroup(groups, seed)
    if batch > len(sampler):
        raise UserError(
            f"per_device_train_batch_size: {batch} photos per step, but the {len(groups)} photos form "
            f"{len(sampler)} groups, and a batch takes one photo of each: use a smaller batch or more photos"
        )
    return sampler


def watched_photos(parts: list[Any], count: int, processor: Any, seed: int) -> torch.Tensor:
    """Pixels `(n, 3, H, W)` of a fixed random choice of photos, prepared as in inference."""
    places = [(part, row) for part in parts for row in range(len(part))]
    chosen = np.random.default_rng(seed).permutation(len(places))[:count]
    return torch.stack([client_pixels(places[i][0][places[i][1]]["image"], processor) for i in sorted(chosen)])
