"""Options of training that transformers' `TrainingArguments` does not have, and our defaults for those that it has.

`training_arguments.py` combines the two. This file imports no torch, because `--help` and the check of a recipe read
its fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from natix_hf.options import AT_LEAST_0, AT_LEAST_1, SHARE, SHARE_ABOVE_0, SHARE_BELOW_1, option
from natix_hf.training.epoch_kinds import EpochOptions
from natix_hf.training.losses.check_loss import LossOptions
from natix_hf.training.optimizers import OPTIMIZERS
from natix_hf.training.optimizers.sam import SamOptions

# The values of `metric_for_best_model`: the metrics of NatixClassificationMetric, and the loss.
SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "auroc", "log_loss", "ece", "loss")


# From the linear evaluation of DINOv2 and DINOv3, for 256 rows per step.
PROBE_LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)


def _fixed(value):
    """A field of TrainingArguments whose value a recipe cannot change."""
    return field(default=value, init=False, repr=False)


@dataclass
class _AverageOptions:
    ema: bool = option(True, "evaluate and save the moving average of the trainable weights")
    ema_decay: Annotated[float, SHARE_BELOW_1] = option(0.999, "decay of the average in a long run")
    ema_warmup_steps: Annotated[int, AT_LEAST_1] = option(
        10, "w in the decay min(ema_decay, (1 + t) / (w + t)) after t updates"
    )
    early_stopping_patience: int | None = option(None, "stop after this many evaluations without a better score")


@dataclass
class _MixingOptions:
    mixup_alpha: Annotated[float, AT_LEAST_0] = option(
        0.0, "mix whole photos with weights from Beta(alpha, alpha), e.g. 0.2; 0: off"
    )
    cutmix_alpha: Annotated[float, AT_LEAST_0] = option(
        0.0, "paste a rectangle of one photo into another, share by alpha, e.g. 1; 0: off"
    )
    mix_switch_prob: Annotated[float, SHARE] = option(0.5, "if both are on, the share of batches that cutmix gets")


@dataclass
class _ProbeOptions:
    probe_heads: Literal["one", "grid"] = option(
        "one",
        "method probe: one head; grid: all combinations of the four keys below, the best on val_select is kept",
    )
    probe_learning_rates: list[float] = option(
        list(PROBE_LEARNING_RATES), "grid: learning rates for 256 photos a step, scaled for other batch sizes"
    )
    probe_weight_decays: list[float] = option([0.0], "grid: weight decays")
    probe_poolings: list[str] = option(["cls"], "grid: cls, mean, cls_mean")
    probe_layers: list[int] = option([1], "grid: numbers of last layers to pool, e.g. 1 4")
    probe_epochs: int = option(20, "warm_start: epochs of its heads on the features of train")
    warm_start: Literal["none", "probe"] = option(
        "none",
        "probe: the head starts as the best of a grid of heads on frozen features (probe_learning_rates, ...), and a "
        "LoRA run reports what it adds over that probe",
    )


@dataclass
class TrainingOptions(SamOptions, _ProbeOptions, EpochOptions, LossOptions, _MixingOptions, _AverageOptions):
    """Our options of training, and those of `transformers.TrainingArguments` with another default.

    Args:
        ema: keep an exponential moving average of the trainable weights; the average is evaluated and saved.
        ema_decay: decay of the average in a long run.
        ema_warmup_steps: `w` in the decay `min(ema_decay, (1 + t) / (w + t))` after `t` updates.
        early_stopping_patience: stop after this many evaluations without a better `metric_for_best_model`.
        optim, sam_base, sam_rho, sam_adaptive, layerwise_lr_decay, loraplus_lr_ratio: see `training.optimizers`.
        mixup_alpha, cutmix_alpha, mix_switch_prob: how batches are mixed, see `training.mixing`.
        loss, class_weights, logit_adjustment and the parameters of single losses: see `training.losses`.
        sampling, balance_by, curriculum, curriculum_pacing, ...: the rows of an epoch, see `training.epoch_kinds`.
        overwrite_output_dir: remove an earlier run in `output_dir`.
    """

    _argument_group_name: ClassVar[str] = "training"

    overwrite_output_dir: bool = option(False, "remove an earlier run in output_dir")
    optim: str = option(
        "adamw_torch_fused", f"optimizer: {', '.join(OPTIMIZERS)}, or one of transformers' (adamw_torch, sgd, ...)"
    )
    layerwise_lr_decay: Annotated[float, SHARE_ABOVE_0] = option(
        1.0, "learning rate of each block as a share of the one above it, e.g. 0.75; the head has learning_rate"
    )
    loraplus_lr_ratio: Annotated[float | None, AT_LEAST_1] = option(
        None, "LoRA+: learning rate of the B matrices of adapters as a multiple of A's, e.g. 16; default: the same"
    )

    output_dir: str | None = option(None, "folder of the run")
    learning_rate: float = option(2e-4, "peak learning rate")
    lr_scheduler_type: str = option("cosine", "schedule of the learning rate")
    warmup_steps: float = option(0.1, "warm-up in steps, or as a share of all steps if below 1")
    per_device_train_batch_size: int = option(16, "photos per device and step")
    per_device_eval_batch_size: int = option(32, "photos per device and batch in evaluation")
    num_train_epochs: float = option(3.0, "epochs: passes over train")
    weight_decay: float = option(0.05, "weight decay of matrices; norms, biases, tokens and layer scale have none")
    bf16: bool | None = option(None, "train in bfloat16; default: if the accelerator supports it")
    eval_strategy: str = option("epoch", "when val_select is evaluated: no, steps, epoch")
    save_strategy: str = option("epoch", "when a checkpoint is written: no, steps, epoch, best")
    save_total_limit: int | None = option(2, "number of checkpoints to keep; the best one always stays")
    load_best_model_at_end: bool = option(True, "end with the checkpoint that was best on val_select")
    metric_for_best_model: str | None = option(
        "mcc", "what decides the best checkpoint: " + ", ".join(SCORES[:-1]) + f" or {SCORES[-1]}"
    )
    logging_steps: float = option(10, "steps between lines of the training log")
    report_to: list[str] = option(["none"], "where to log: none, tensorboard, trackio, ...")
    dataloader_num_workers: int = option(2, "processes that decode photos")
    resume_from_checkpoint: str | None = option(None, "true: continue an interrupted run; or a checkpoint folder")
    # Else a resumed run counts its patience from 0.
    restore_callback_states_from_checkpoint: bool = _fixed(True)
    # NatixTrainer checks every loss. The filter would hide a NaN and synchronise the device once more.
    logging_nan_inf_filter: bool = _fixed(False)
    fp16: bool = _fixed(False)
    fp16_full_eval: bool = _fixed(False)
    gradient_checkpointing: bool | None = _fixed(None)
    gradient_checkpointing_kwargs: dict | str | None = _fixed(None)
    # Also options of a recipe (HubOptions), but not passed to the Trainer, which would upload every checkpoint.
    push_to_hub: bool = _fixed(False)
    hub_model_id: str | None = _fixed(None)
    hub_token: str | None = _fixed(None)
    hub_private_repo: bool | None = _fixed(None)
    remove_unused_columns: bool = _fixed(False)
    # In a recipe `label_names` are the class names; for the Trainer they are the keys of a batch that hold labels.
    label_names: list[str] | None = _fixed(None)
    debug: str | list = _fixed("")
