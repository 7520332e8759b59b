"""`transformers.Trainer` for DINOv3 classifiers: LoRA, probe and full fine-tuning in one class.

It adds these parts to its parent: the input and its order (`BatchSource`), the loss, EMA (averaged weights are
evaluated and saved, raw weights are kept for an exact resume), checkpoints that count only if complete
(`CheckpointKeeper`), a stop at the first NaN, and accounting. Norms, biases and tokens have no weight decay. Of the
run folder it only writes checkpoints: `runs.train_run` and `runs.finish_run` write the rest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from natix_hf.data.sources.columns import positive_class
from natix_hf.data.splits.contracts import LockedSplits
from natix_hf.data.splits.lineage import check_lineage
from natix_hf.documents.probe import ProbeSearch
from natix_hf.documents.run_record import Noted
from natix_hf.errors import UserError
from natix_hf.inference.tiled_models import check_same_views
from natix_hf.modeling.adapters import plain_model
from natix_hf.modeling.doran import is_doran
from natix_hf.modeling.packed_linear import packed_linears
from natix_hf.photos.geometry import Geometry
from natix_hf.report.classification_metric import NatixClassificationMetric
from natix_hf.training.accounting import Accounting, PhaseTimes
from natix_hf.training.batch_source import BatchSource
from natix_hf.training.check_training import check_training
from natix_hf.training.checkpoints import begin_at
from natix_hf.training.ema import Ema
from natix_hf.training.finite_losses import FiniteLosses
from natix_hf.training.heads import Setting
from natix_hf.training.losses.training_loss import TrainingLoss
from natix_hf.training.mixing import mixing
from natix_hf.training.optimizers.build_optimizer import build_optimizer, extra_passes
from natix_hf.training.options_without_effect import without_effect
from natix_hf.training.probe import adopt_head, check_probe_layers, grid, search_heads
from natix_hf.training.progress import show_progress
from natix_hf.training.saving import CheckpointKeeper
from natix_hf.training.sharding import check_sharded, fill, keep_precision, sketch
from natix_hf.training.speed_options import SpeedOptions
from natix_hf.training.tiles import checkpointed, memory_line, tiles_top_k
from natix_hf.training.training_arguments import NatixTrainingArguments
from natix_hf.training.training_photos import Collator, EpochSampler
from natix_hf.training.warm_start import WarmStart


class _Epochs(TrainerCallback):
    """Set the epoch of the sampler, and update the EMA after every optimizer step."""

    def __init__(self, trainer: NatixTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.trainer.sampler.epoch = int(state.epoch or 0)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.trainer.ema is not None and not self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.ema.update(state.global_step - 1)


class NatixTrainer(Trainer):
    """Train a `NatixDinov3ForImageClassification` (or its LoRA-wrapped form) on locked splits.

    The method follows from the model: LoRA for a `PeftModel`, a probe on cached features for a model with a frozen
    backbone, full fine-tuning otherwise.

    Args:
        model: from `natix_hf.load_model`.
        args: `NatixTrainingArguments`.
        splits: `LockedSplits` from `natix_hf.load_photos`; training reads `train` and `val_select`.
        processing_class: the checkpoint's image processor; training views have its size.
        augment, challenge_levels: training views, see `inference.augment`; not used by a probe without `fixed_views`.
        sampled_tiles: with tiles, number of random tiles per photo and step; 0: all tiles.
        positive_label: the class for AUROC; default the class of id 1.
        target_prior: the expected class shares, `(classes,)`; a warning is printed if those of training differ much.
        cache_dir: folder of frozen features and pre-resized copies; default `~/.cache/natix_hf`.
        decode_copy: train on pre-resized copies of the photos, made once; no effect on a probe.
        decode_copy_side: short side of the copies in pixels; default `Geometry.copy_side()`.
        cache_gb: size limit of the cached features of a probe, in 10^9 bytes.
        prefix_cache_gb: cache the activations below the last trained blocks, see `training.prefix`.
        fixed_views: see `training_photos.TrainingPhotos`; a probe trains on this many views in addition to each photo.
        checked: whether the caller has called `check_training` already, as the verbs do.
        kwargs: further arguments of `transformers.Trainer`.

    Raises:
        UserError: the classes of model and data differ, or `positive_label` is not a class.
        LeakageError: the backbone was pretrained on photos of val_*.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: NatixTrainingArguments,
        *,
        splits: LockedSplits,
        processing_class: Any,
        augment: str = "basic",
        challenge_levels: Sequence[float] | None = None,
        sampled_tiles: int = 0,
        positive_label: str | None = None,
        target_prior: np.ndarray | None = None,
        cache_dir: str | Path | None = None,
        decode_copy: bool = False,
        decode_copy_side: int | None = None,
        cache_gb: float | None = None,
        prefix_cache_gb: float | None = None,
        fixed_views: int = 0,
        checked: bool = False,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        self.splits, self.method = splits, training_method(model)
        self.label_list: list[str] = list(splits.label_names)
        check_model(model, splits, processing_class)
        self.positive = positive_class(self.label_list, positive_label)
        challenge_levels = None if challenge_levels is None else tuple(challenge_levels)
        speed = {"decode_copy": decode_copy, "fixed_views": fixed_views, "prefix_cache_gb": prefix_cache_gb}
        if not checked:
            check_training(
                args,
                method=self.method,
                head=model.config.head,
                attn_implementation=model.config._attn_implementation,
                augment=augment,
                challenge_levels=challenge_levels,
                use_doran=is_doran(model),
                tiles=model.config.views and model.config.views["aggregate"],
                **speed,
            )
        check_probe_layers(args, model.config.backbone_config.num_hidden_layers)
        self.extra_passes = extra_passes(args)
        counts = splits.training_counts
        self.criterion = TrainingLoss(args, [counts[n] for n in self.label_list], self.label_list, self.positive)
        self.all_parameters = sum(p.numel() for p in model.parameters())
        self.trainable_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if args.should_log and splits.purpose != "range test" and (idle := without_effect(args)):
            print(f"warning: {idle}")
        self.times = PhaseTimes()
        self.source = BatchSource(
            processing_class,
            args,
            self.method,
            times=self.times,
            augment=augment,
            challenge_levels=challenge_levels,
            sampled_tiles=sampled_tiles,
            speed=SpeedOptions(cache_dir=cache_dir, cache_gb=cache_gb, decode_copy_side=decode_copy_side, **speed),
        )
        if self.method == "probe":
            args.dataloader_num_workers = 0  # rows of a memory-mapped file, which workers would only copy
            args.dataloader_prefetch_factor, args.dataloader_persistent_workers = None, False
        self.metric = NatixClassificationMetric()
        with args.main_process_first(desc="frozen features"):
            train, select = self._read_rows(model, args, target_prior)
        stops = [] if args.early_stopping_patience is None else [EarlyStoppingCallback(args.early_stopping_patience)]
        super().__init__(
            model=model,
            args=args,
            data_collator=Collator(processing_class, mixing(len(self.label_list), args)),
            train_dataset=train,
            eval_dataset=select,
            processing_class=processing_class,
            compute_metrics=self._metrics,
            callbacks=[*(callbacks or []), *stops],
            **kwargs,
        )
        self._add_parts()

    def _read_rows(self, model: Any, args: Any, target_prior: np.ndarray | None) -> tuple[Dataset, Dataset | None]:
        """Plan the order of training, and start from a probe if asked; returns the data of training and selection."""
        purpose = self.splits.purpose
        role, step = ("refit", "refit") if purpose == "refit" else ("training", "train")
        rows = self.splits.rows(role, step=step)
        order = self.source.epoch_order(rows, model, self.criterion, self.label_list, target_prior)
        self.sampler, self.curriculum, self.training_shares = order
        train = self.source.training_set(rows, model, scored=self.splits.sizes["val_select"])
        self.warm: WarmStart | None = None
        if purpose not in ("run", "sweep"):  # only those two choose a checkpoint
            return train, None
        select = self.source.selection_set(self.splits.rows("selection", step="choose checkpoint"), model)
        if args.warm_start == "probe":
            with self.times.timed("warm_start"):
                self.warm = WarmStart(model, self.source, self.splits, args, self.positive, self.criterion.weights)
        return train, select

    def _add_parts(self) -> None:
        """Add the parts that need the trainer to be built."""
        args = self.args
        self.search: ProbeSearch | None = None  # results of a grid of heads
        self.sketch: torch.nn.Module | None = None  # receives the weights of a sharded model after training
        average = args.ema and args.probe_heads == "one"
        self.ema = Ema(self.model, args.ema_decay, args.ema_warmup_steps) if average else None
        self.keeper = CheckpointKeeper(args, self.criterion, self.ema)
        self.criterion.attach(self.plain_model(), args.seed)  # after Ema, which must not average it
        self.finite = FiniteLosses(args.output_dir, lag=int(args.device.type != "cpu"))
        self.add_callback(_Epochs(self))
        self.progress = show_progress(self)
        self.accounting = Accounting(args, self.method, self.times, self.source.passes)
        self.add_callback(self.accounting)

    def _metrics(self, prediction: Any) -> dict[str, float]:
        logits = prediction.predictions
        logits = logits[0] if isinstance(logits, tuple) else logits  # the second item: logits of the whole photo alone
        values = self.metric.compute(predictions=logits, references=prediction.label_ids, positive=self.positive)
        return {name: float(value) for name, value in values.items()}

    # -- training -----------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any):
        """Train or resume; afterwards the model has the best weights that were evaluated (the average with EMA).

        Args:
            resume_from_checkpoint: True for the last complete checkpoint of `args.output_dir`, or a folder; default
                `args.resume_from_checkpoint`.

        Raises:
            UserError: the checkpoint is incomplete or does not fit this training, or a loss is not finite.
        """
        point = begin_at(self.args, resume_from_checkpoint)
        begin = time.perf_counter()
        if self.args.probe_heads == "grid":
            output = self._search_heads()
        elif point and self._ended_early(point):
            output = TrainOutput(self.state.global_step, 0.0, {})
        else:
            self.count_operations()
            try:
                with self._packed(frozen=True):
                    output = super().train(resume_from_checkpoint=str(point) if point else None, **kwargs)
            finally:
                self.progress.close()
        self.times["train"] = round(time.perf_counter() - begin, 3)
        if self.ema is not None and not (self.args.load_best_model_at_end and self.state.best_model_checkpoint):
            self.ema.adopt()
        self.ema = self.keeper = None  # only needed in training
        self._become_whole()
        self.criterion.detach(self.plain_model())
        return output

    def _search_heads(self) -> TrainOutput:
        """Train a grid of heads instead of one; the model gets the best one."""
        weights = self.criterion.weights
        head, self.search = search_heads(
            self.train_dataset,
            self.eval_dataset,
            self.wanted_heads(),
            self.args,
            classes=len(self.label_list),
            positive=self.positive,
            class_weights=None if weights is None else weights.tolist(),
            top_k=tiles_top_k(self.plain_model()),
        )
        adopt_head(self.plain_model(), head, [self.train_dataset, self.eval_dataset])
        self.state.global_step = self.state.max_steps = self.search.steps
        return TrainOutput(self.search.steps, 0.0, {})

    def wanted_heads(self) -> list[Setting]:
        """The settings of the heads to train."""
        return grid(self.args)

    def count_operations(self) -> None:
        """Count the operations of a step, unless the model is compiled or sharded."""
        if self.args.torch_compile or self.is_fsdp_enabled:
            return
        item = dict(self.train_dataset[0, 0])
        item.pop("seed", None)  # no mixing: there is only one photo
        self.accounting.count_operations(self.accelerator.unwrap_model(self.model), self.data_collator([item]))
        if self.method != "probe" and self.plain_model().config.views is not None and self.args.should_log:
            print(self._memory_line(views=len(item["pixel_values"])))

    def _memory_line(self, views: int) -> str:
        kept, checkpointing = self.accounting.kept, self.args.activation_checkpointing
        if checkpointing:
            config, geometry = self.plain_model().config.backbone_config, Geometry.of(self.processing_class)
            tokens_of_all = geometry.tokens(config.patch_size, beside=1 + config.num_register_tokens)
            tokens = views * tokens_of_all // geometry.shape[0]
            kept = checkpointed(kept, config.num_hidden_layers, tokens, config.hidden_size)
        return memory_line(kept, self.args.per_device_train_batch_size, views, checkpointing)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> EpochSampler:
        return self.sampler

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        batches = super().get_batch_samples(*args, **kwargs)
        self.accounting.waiting(time.perf_counter() - begin)
        return batches

    def _ended_early(self, point: Path) -> bool:
        """Whether the run had ended at this checkpoint; if so, restore its state and weights.

        The parent does not store that early stopping ended the run, and would train on.
        """
        state = TrainerState.load_from_json(str(point / TRAINER_STATE_NAME))
        stopped = False
        if self.args.early_stopping_patience is not None and state.global_step < state.max_steps:
            stopped = state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
        # If max_steps ends within an epoch, the parent would take one more step of it.
        if not stopped and not 0 < self.args.max_steps <= state.global_step:
            return False
        self.state = state
        self.keeper.find_best(state, point)
        self._load_from_checkpoint(str(point))
        if self.args.load_best_model_at_end and state.best_model_checkpoint:
            self._load_best_model()
        return True

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any):
        """The loss of the recipe in training, plain cross-entropy in evaluation."""
        loss, outputs = self.criterion.compute(model, inputs)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], num_items_in_batch: Any = None):
        self.accounting.seen(len(inputs["labels"]) * self.args.world_size)
        once = partial(self.one_pass, model, inputs, num_items_in_batch)
        return once() if self.extra_passes is None else self.extra_passes(once, self, model, inputs)

    def one_pass(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], num_items_in_batch: Any
    ) -> torch.Tensor:
        """One forward and backward pass; some optimizers need several per step."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.finite.seen(self.state.global_step + 1, loss)
        return loss

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self.finite.check()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, torch.Tensor]) -> int:
        """Not counted: the formula of the parent is for language models."""
        return 0

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Only weight matrices: no norms, biases, tokens, layer scale, nor magnitudes and floors of adapters."""
        kept = super().get_decay_parameter_names(model)
        single = ("cls_token", "mask_token", "register_tokens", "lambda1", ".magnitude", ".log_tau")
        return [n for n in kept if not n.endswith(single) and ".lora_magnitude_vector." not in n]

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        model = self.model if model is None else model
        if self.optimizer is None:
            decayed = set(self.get_decay_parameter_names(model))
            self.optimizer = build_optimizer(model, self.args, decayed, self.planned_steps())
        return super().create_optimizer(model)

    def planned_steps(self) -> int:
        """The number of steps that schedules are built for."""
        return self.state.max_steps

    def _finalize_training(self, *args: Any) -> TrainOutput:
        self.finite.check()
        # Schedule-free optimizers put their average into the model; this must happen before the best weights load.
        self.optimizer.eval()
        return super()._finalize_training(*args)

    def _packed(self, *, frozen: bool = False) -> AbstractContextManager:
        """See `packed_linears`."""
        if self.args.torch_compile or self.is_fsdp_enabled:  # sharded weights are gathered anew for every pass
            return nullcontext()
        return packed_linears(self.model, frozen=frozen)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        with self._packed():
            return super().evaluation_loop(*args, **kwargs)

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"):
        """Evaluate `val_select` or the given data; in training with EMA, evaluate and log the raw weights too."""
        if self.ema is None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        raw = self.evaluation_loop(
            self.get_eval_dataloader(eval_dataset),
            description="raw weights",
            ignore_keys=ignore_keys,
            metric_key_prefix=f"{metric_key_prefix}_raw",
        )
        self.log({k: v for k, v in raw.metrics.items() if not k.endswith("_time")})
        with self.ema.weights():
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    # -- checkpoints and sharded models -------------------------------------------------------------------------------

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        check_sharded(self.args, self.is_fsdp_enabled)
        if self.is_fsdp_enabled:
            keep_precision(self.accelerator.state.fsdp_plugin)

    def _prepare_for_training(self, *args: Any) -> Any:
        if self.is_fsdp_enabled:
            self.sketch = sketch(self.model)
        prepared = super()._prepare_for_training(*args)
        if self.ema is not None:
            self.ema.follow(self.model)  # sharding replaces the parameters
        return prepared

    def _become_whole(self) -> None:
        """After training: give every process the whole model if it was sharded."""
        if not self.is_fsdp_enabled:
            return
        if self.sketch is not None:
            self.model = fill(self.sketch, self.model)
            self.model_wrapped = self.callback_handler.model = self.model
            self.sketch = self.optimizer = self.callback_handler.optimizer = None
        self.accelerator.free_memory()  # so that evaluation prepares the new model
        self.is_fsdp_enabled = False

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.keeper.folder)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        self.optimizer.eval()  # schedule-free: puts the evaluated weights into the model
        save = partial(super()._save_checkpoint, model, trial)
        self.keeper.write(self.state, save, self.accelerator.wait_for_everyone)

    def _init_training_state(self, max_steps: int, *args: Any) -> tuple[int, int]:
        started = super()._init_training_state(max_steps, *args)
        point = args[-2]  # resume_from_checkpoint
        if point is not None:
            self.state.compute_steps(self.args, max_steps)
            self.keeper.find_best(self.state, Path(point))
        return started

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        load = partial(super()._load_from_checkpoint, resume_from_checkpoint, model)
        trained = self.model if model is None else model
        self.keeper.read(Path(resume_from_checkpoint), trained, load, sharded=self.is_fsdp_enabled)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        if self.method == "probe" and state_dict is None:
            trainable = {name for name, p in self.model.named_parameters() if p.requires_grad}
            state_dict = {name: t for name, t in self.model.state_dict().items() if name in trainable}
        super()._save(output_dir, state_dict)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """The warning of the parent, without the frozen weights that a checkpoint never contains."""
        missing = load_result.missing_keys
        if self.method == "probe":  # `_save` leaves the backbone out
            trained = {name for name, p in self.model.named_parameters() if p.requires_grad}
            missing = [name for name in missing if name in trained]
        super()._issue_warnings_after_load(type(load_result)(missing, load_result.unexpected_keys))

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def logits(self, rows: Any) -> np.ndarray:
        """Logits `(n, classes)` float32 of rows as in inference, in order, computed by all processes together."""
        return np.asarray(self._predictions(rows), dtype=np.float32)

    def logits_by_stage(self, rows: Any) -> tuple[np.ndarray, np.ndarray]:
        """Like `logits`, for a model with tiles: logits of the whole photo alone, and logits of all views."""
        # Empty, because by default `Trainer` drops the outputs that the configuration names.
        full, whole = self._predictions(rows, ignore_keys=[])
        return np.asarray(whole, dtype=np.float32), np.asarray(full, dtype=np.float32)

    def _predictions(self, rows: Any, ignore_keys: list[str] | None = None) -> Any:
        with self.args.main_process_first(desc="frozen features"):
            data = self.source.client_set(rows, self.plain_model())
        return self.predict(data, ignore_keys, metric_key_prefix="predict").predictions

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As in the parent; a model with tiles also returns the logits of the whole photo alone."""
        if self.plain_model().config.views is not None:
            inputs = {**inputs, "output_whole_logits": True}
        return super().prediction_step(model, inputs, *args, **kwargs)

    def logits_of_photos(self, photos: Dataset) -> np.ndarray:
        """Logits `(n, classes)` float32 of a data set of photos; a probe too reads photos here, not features."""
        workers, self.args.dataloader_num_workers = self.args.dataloader_num_workers, self.source.decode_workers
        predicted = self.predict(photos, metric_key_prefix="predict").predictions
        self.args.dataloader_num_workers = workers
        return np.asarray(predicted, dtype=np.float32)

    def probe_predictions(self) -> dict[str, tuple[str | None, Any, np.ndarray]]:
        """`WarmStart.predictions`; empty if training did not start from a probe."""
        return self.warm.predictions(self.accelerator.unwrap_model(self.model)) if self.warm else {}

    def noted(self) -> Noted:
        """Further entries of `run.json`, for subclasses."""
        return {}

    def plain_model(self) -> Any:
        """The model without adapters and without the wrappers of training."""
        return plain_model(self.accelerator.unwrap_model(self.model))


def check_model(model: torch.nn.Module, splits: LockedSplits, processor: Any) -> None:
    """Raise `UserError` if a model has other classes than the data or other views than the image processor.

    Raises:
        LeakageError: the backbone was pretrained on photos of val_*.
    """
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    if names != list(splits.label_names):
        raise UserError(
            f"the classes of the model {names} differ from those of the data {list(splits.label_names)}: set the same "
            "label_names"
        )
    base = model.config.name_or_path or "the backbone"
    check_lineage(plain_model(model).config.backbone_config, splits.description, base)
    check_same_views(model.config.views, processor)


def training_method(model: torch.nn.Module) -> str:
    """`lora`, `probe` or `full`, depending on which weights are trainable."""
    if isinstance(model, PeftModel):
        return "lora"
    return "full" if any(p.requires_grad for p in model.backbone.parameters()) else "probe"
