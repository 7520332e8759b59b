"""`transformers.Trainer` for DINOv3 classifiers: LoRA, probe and full fine-tuning in one class.

What it adds to its parent: datasets from locked splits, the frozen features of a probe computed once, EMA (scored and
saved, raw weights kept for exact resume), checkpoints that count only when whole, a stop at the first NaN, and no
weight decay on norms, biases and tokens. Saving and loading stand in `saving.py`, what happens once after
training (calibration, test, the run folder) in `final.py`.
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
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import TrainOutput

from natix_hf.data.sources.columns import as_name
from natix_hf.data.splits.contracts import LockedSplits
from natix_hf.data.splits.slicing import check_slices
from natix_hf.documents.probe import OverProbe
from natix_hf.errors import UserError
from natix_hf.files import home, read_json
from natix_hf.modeling.packed_linear import packed_linears
from natix_hf.report.classification_metric import NatixClassificationMetric
from natix_hf.report.summary import summary_lines
from natix_hf.runs import folder as run_folder
from natix_hf.runs.calibrate_run import check_decision
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.measure_robustness import check_photos
from natix_hf.runs.saved_logits import read_predictions
from natix_hf.training.accounting import Accounting, keep_speed
from natix_hf.training.bottleneck import speed_lines
from natix_hf.training.checkpoints import asked_to_resume, remove_incomplete, resume_point, resumed_line
from natix_hf.training.curriculum import check_curriculum
from natix_hf.training.ema import Ema
from natix_hf.training.feeding import FeedsPhotos
from natix_hf.training.finite_losses import FiniteLosses
from natix_hf.training.losses.check_loss import check_loss
from natix_hf.training.losses.training_loss import TrainingLoss
from natix_hf.training.mixing import check_views, mixing
from natix_hf.training.optimizers.build_optimizer import build_optimizer, check_optimizer, extra_passes
from natix_hf.training.options_without_effect import without_effect
from natix_hf.training.probe import HeadSearch, check_probe, write_search
from natix_hf.training.progress import Progress
from natix_hf.training.sampling import check_sampling
from natix_hf.training.training_arguments import NatixTrainingArguments
from natix_hf.training.training_photos import Collator
from natix_hf.training.warm_start import WarmStart, check_warm_start, over_probe, over_probe_lines


class _Epochs(TrainerCallback):
    """Tells the sampler the epoch and moves the EMA after every optimizer step."""

    def __init__(self, trainer: NatixTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.trainer.sampler.epoch = int(state.epoch or 0)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.trainer.ema is not None and not self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.ema.update(state.global_step - 1)


class NatixTrainer(FeedsPhotos):
    """Train a `NatixDinov3ForImageClassification` (or its LoRA-wrapped form) on locked splits.

    The method follows from the model: a `PeftModel` is trained with LoRA, a model with a frozen backbone as a probe on
    features that are computed once, any other in full.

    Args:
        model: from `natix_hf.load_model`.
        args: `NatixTrainingArguments`.
        splits: `LockedSplits` from `natix_hf.load_photos`; `train` and `val_select` are taken here, the others in
            `finish`.
        processing_class: the checkpoint's image processor; training makes squares of photos as it does.
        augment, challenge_levels: training views, see `inference.augment`; a probe sees none.
        positive_label: the class that AUROC speaks of; default the class of id 1.
        decision: how logits become decisions, see `runs.decision_options`; a line is printed where training sees
            quite other class shares than its `target_prior`.
        cache_dir: folder of frozen features and pre-resized copies; default `~/.cache/natix_hf`.
        decode_copy: train on pre-resized copies of the photos, made once; a probe has no use for them.
        decode_copy_side: their short side in pixels; default `photos.copies.copy_side(image_size)`.
        cache_gb: the most that cached features of a probe may take, in 10^9 bytes.
        prefix_cache_gb: keep the activations below the last trained blocks, see `training.prefix`.
        fixed_views: see `training_photos.TrainingPhotos`; a probe sees so many views beside each photo.
        recipe_text: the text of the run's `recipe.yaml`; written by the verb.
        kwargs: what `transformers.Trainer` takes beside these.

    Raises:
        UserError: the model's classes are not the data's, or a class that is not there is called positive.
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
        positive_label: str | None = None,
        decision: DecisionOptions | None = None,
        cache_dir: str | Path | None = None,
        decode_copy: bool = False,
        decode_copy_side: int | None = None,
        cache_gb: float | None = None,
        prefix_cache_gb: float | None = None,
        fixed_views: int = 0,
        recipe_text: str | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        self.splits, self.recipe_text, self.decision = splits, recipe_text, decision or DecisionOptions()
        self.label_list: list[str] = list(splits.label_names)
        names = [model.config.id2label[i] for i in range(model.config.num_labels)]
        if names != self.label_list:
            raise UserError(f"the model's classes {names} are not the data's {self.label_list}: set label_names alike")
        positive_label = as_name(positive_label)
        if positive_label is not None and positive_label not in self.label_list:
            raise UserError(f"positive_label {positive_label}: the classes are {', '.join(self.label_list)}")
        self.positive = 1 if positive_label is None else self.label_list.index(positive_label)
        self.method = training_method(model)
        check_optimizer(args, method=self.method, attn_implementation=model.config._attn_implementation)
        self.extra_passes = extra_passes(args)
        check_loss(args, self.method)
        check_sampling(args)
        check_curriculum(args)
        self.target_prior = check_decision(self.decision, self.label_list, self.positive)
        counts = splits.training_counts
        self.criterion = TrainingLoss(args, [counts[n] for n in self.label_list], self.label_list, self.positive)
        self.all_parameters = sum(p.numel() for p in model.parameters())
        self.trainable_parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self.times: dict[str, float] = {}  # seconds by phase, for run.json
        self.cache_dir = Path(cache_dir or home())
        self.decode_copy, self.decode_copy_side = decode_copy, decode_copy_side
        self.cache_gb, self.prefix_cache_gb, self.fixed_views = cache_gb, prefix_cache_gb, fixed_views
        speed = {"decode_copy": decode_copy, "fixed_views": fixed_views, "prefix_cache_gb": prefix_cache_gb}
        check_views(self.method, augment, args, challenge_levels=challenge_levels, **speed)
        check_photos(splits, [augment, self.decision.calibrate_on, *self.decision.robustness])
        self.challenge_levels = challenge_levels
        if args.should_log and splits.purpose != "range test" and (idle := without_effect(args)):
            print(f"warning: {idle}")
        check_probe(args, self.method, head=model.config.head, layers=model.config.backbone_config.num_hidden_layers)
        check_warm_start(args, self.method, model.config.head)
        self.decode_workers = args.dataloader_num_workers
        if self.method == "probe":
            args.dataloader_num_workers = 0  # rows of a memory-mapped file: a worker process would only copy them
            args.dataloader_prefetch_factor, args.dataloader_persistent_workers = None, False
        self.metric = NatixClassificationMetric()
        with args.main_process_first(desc="frozen features"):
            read = ("refit", "refit") if splits.purpose == "refit" else ("training", "train")
            rows = splits.rows(read[0], step=read[1])
            check_slices(rows, self.decision.slices)
            self.sampler = self.make_sampler(rows, model, processing_class, args)
            train = self.training_set(rows, model, processing_class, augment, args)
            select = None
            if splits.purpose in ("run", "sweep"):  # the others choose no checkpoint
                select = splits.rows("selection", step="choose checkpoint")
                select = self.selection_set(select, model, processing_class, args)
            self.warm = None
            if args.warm_start == "probe" and splits.purpose in ("run", "sweep"):
                with self.timed("warm_start"):
                    self.warm = WarmStart(self, model, processing_class, args)
        callbacks = list(callbacks or [])
        if args.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
        super().__init__(
            model=model,
            args=args,
            data_collator=Collator(processing_class, mixing(len(self.label_list), args)),
            train_dataset=train,
            eval_dataset=select,
            processing_class=processing_class,
            compute_metrics=self._metrics,
            callbacks=callbacks,
            **kwargs,
        )
        average = args.ema and args.probe_heads == "one"
        self.ema = Ema(self.model, args.ema_decay, args.ema_warmup_steps) if average else None
        self.criterion.attach(self._plain_model(), args.seed)  # not averaged: nothing reads it after training
        self.finite = FiniteLosses(args.output_dir, lag=int(args.device.type != "cpu"))
        self.add_callback(_Epochs(self))
        # One short line per evaluation in place of the parent's dictionaries; trackers still get every value.
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.progress = Progress()
        self.add_callback(self.progress)
        self.accounting = Accounting(self)
        self.add_callback(self.accounting)

    def _metrics(self, prediction: Any) -> dict[str, float]:
        values = self.metric.compute(
            predictions=prediction.predictions, references=prediction.label_ids, positive=self.positive
        )
        return {name: float(value) for name, value in values.items()}

    # -- training -----------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any):
        """Train, from a whole checkpoint where asked; the model ends with the weights that were scored (EMA, best).

        Args:
            resume_from_checkpoint: True for the last whole checkpoint of `args.output_dir`, or a folder; by default
                what `args.resume_from_checkpoint` says.

        Raises:
            UserError: the folder holds another run, or the loss is not finite.
        """
        asked = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        with self.args.main_process_first(desc="run folder"):
            point, resume = resume_point(self.args.output_dir, asked), asked_to_resume(asked)
            if resume and self.args.should_log:
                print(resumed_line(self.args.output_dir, point))
            if self.args.should_save:
                run_folder.begin(
                    self.args.output_dir,
                    resume=resume,
                    point=point,
                    overwrite=self.args.overwrite_output_dir,
                    recipe_text=self.recipe_text,
                    splits=self.splits.description,
                    processes=self.args.world_size,
                )
                remove_incomplete(self.args.output_dir)
                if self.curriculum is not None:
                    print(self.curriculum.told())
                    self.curriculum.draw(Path(self.args.output_dir) / "figures" / "curriculum.png", self.label_list)
        begin = time.perf_counter()
        if self.args.probe_heads == "grid":
            output = self._search_heads()
        elif point and self._ended_early(point):
            output = TrainOutput(self.state.global_step, 0.0, {})
        else:
            self._count_operations()
            try:
                with self._packed(frozen=True):
                    output = super().train(resume_from_checkpoint=str(point) if point else None, **kwargs)
            finally:
                self.progress.close()
        self.times["train"] = round(time.perf_counter() - begin, 3)
        if self.ema is not None and not (self.args.load_best_model_at_end and self.state.best_model_checkpoint):
            self.ema.adopt()
        self.ema = None
        self.become_whole()
        self.criterion.detach(self._plain_model())
        return output

    def _search_heads(self) -> TrainOutput:
        """Train the grid of heads in place of one; the model ends with the best of them."""
        search = HeadSearch(self).run()
        if self.args.should_save:
            print("\n".join(write_search(Path(self.args.output_dir), search)))
        return TrainOutput(search.steps, 0.0, {})

    def _count_operations(self) -> None:
        item = dict(self.train_dataset[0, 0])
        item.pop("seed", None)  # nothing to mix a lone photo with
        self.accounting.count_operations(self.data_collator([item]))

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        batches = super().get_batch_samples(*args, **kwargs)
        self.accounting.waiting(time.perf_counter() - begin)
        return batches

    def _ended_early(self, point: Path) -> bool:
        """Whether early stopping had ended the run at this checkpoint; its state and weights are then in place.

        The parent forgets that it was told to stop, and would train on.
        """
        state = TrainerState.load_from_json(str(point / TRAINER_STATE_NAME))
        told = state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
        stopped = self.args.early_stopping_patience is not None and told and state.global_step < state.max_steps
        # max_steps may end within an epoch, of which the parent would then take one more step.
        if not stopped and not 0 < self.args.max_steps <= state.global_step:
            return False
        self.state = state
        self._find_best(point)
        self._load_from_checkpoint(str(point))
        if self.args.load_best_model_at_end and state.best_model_checkpoint:
            self._load_best_model()
        return True

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any):
        """The recipe's loss where the model trains, plain cross-entropy where it is scored."""
        loss, outputs = self.criterion.compute(model, inputs)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None):
        self.accounting.seen(len(inputs["labels"]) * self.args.world_size)
        once = partial(self._pass, model, inputs, num_items_in_batch)
        return once() if self.extra_passes is None else self.extra_passes(once, self, model, inputs)

    def _pass(self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.finite.seen(self.state.global_step + 1, loss)
        return loss

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self.finite.check()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted here: the parent's formula is that of a language model."""
        return 0

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Weight matrices only: no norms, biases, class and register tokens, layer scale, magnitudes of DoRA."""
        kept = super().get_decay_parameter_names(model)
        single = ("cls_token", "mask_token", "register_tokens", "lambda1")
        return [n for n in kept if not n.endswith(single) and ".lora_magnitude_vector." not in n]

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        model = self.model if model is None else model
        if self.optimizer is None:
            decayed = set(self.get_decay_parameter_names(model))
            self.optimizer = build_optimizer(model, self.args, decayed, self.planned_steps())
        return super().create_optimizer(model)

    def planned_steps(self) -> int:
        """The steps that schedules are laid out for."""
        return self.state.max_steps

    def _finalize_training(self, *args: Any) -> TrainOutput:
        self.finite.check()
        # Schedule-free optimizers leave the model with their average, and do so before the best weights are loaded.
        self.optimizer.eval()
        return super()._finalize_training(*args)

    def _packed(self, *, frozen: bool = False) -> AbstractContextManager:
        """See `packed_linears`."""
        whole = not (self.args.torch_compile or self.is_fsdp_enabled)  # pieces come together anew for every pass
        return packed_linears(self.model, frozen=frozen) if whole else nullcontext()

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        with self._packed():
            return super().evaluation_loop(*args, **kwargs)

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"):
        """Score `val_select` (or the data given); while training with EMA, raw weights are scored and logged too."""
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

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def logits(self, rows: Any) -> np.ndarray:
        """Logits `(n, classes)` float32 of rows on the client's path, in order, computed by all processes together."""
        with self.args.main_process_first(desc="frozen features"):
            rows = self.client_set(rows, self._plain_model(), self.processing_class, self.args)
        return np.asarray(self.predict(rows, metric_key_prefix="predict").predictions, dtype=np.float32)

    def _plain_model(self) -> Any:
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if isinstance(model, PeftModel) else model

    def finish(self) -> dict[str, Any]:
        """Calibrate on `val_calib`, test once on `val_test`, and complete the run folder; returns `metrics.json`."""
        from natix_hf.runs.finish_run import finish

        run, probe = Path(self.args.output_dir), self.warm and self.warm.predictions()
        document = finish(self)
        if self.args.should_save:
            keep_speed(run, self.accounting.document())
            if probe:
                over_probe(run, probe, read_predictions(run, "val_test"), self.positive)
        return document

    def told(self, metrics: dict[str, Any]) -> list[str]:
        """What is printed of the finished run: the lines about what `finish` returned."""
        run = Path(self.args.output_dir)
        record, lines = read_json(run / "run.json"), summary_lines(metrics, read_json(run / "calibration.json"))
        if OverProbe.there(run):
            lines += over_probe_lines(OverProbe.read(run))
        return lines + speed_lines(record.get("speed"), record["time"])


def training_method(model: torch.nn.Module) -> str:
    """`lora`, `probe` or `full`, read off which weights can change."""
    if isinstance(model, PeftModel):
        return "lora"
    return "full" if any(p.requires_grad for p in model.backbone.parameters()) else "probe"
