"""The options of the pretraining loop: the options of training without those that need labels.

Imports no torch, like `training/training_options.py`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from natix_hf.options import ABOVE_0, SHARE_ABOVE_0, defaults, option

FIXED = {
    "eval_strategy": "no",
    "load_best_model_at_end": False,
    "ema": False,  # pretraining has its own average
    "optim": "adamw_torch_fused",
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "dataloader_drop_last": True,  # losses that compare photos need full batches
}
_KEPT = (
    *("overwrite_output_dir", "output_dir", "num_train_epochs", "max_steps", "per_device_train_batch_size"),
    *("per_device_eval_batch_size", "gradient_accumulation_steps", "learning_rate", "layerwise_lr_decay"),
    *("weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon", "seed", "data_seed"),
    *("metric_for_best_model", "resume_from_checkpoint", "save_strategy", "save_steps", "save_total_limit"),
    *("logging_strategy", "logging_steps", "logging_first_step", "report_to", "run_name", "project"),
    *("disable_tqdm", "log_level", "bf16", "tf32", "use_cpu", "activation_checkpointing"),
    *("activation_checkpointing_kwargs", "dataloader_num_workers", "dataloader_pin_memory"),
    *("dataloader_persistent_workers", "dataloader_prefetch_factor", "ddp_backend", "ddp_timeout"),
)


def _fixed(name: str, value: Any) -> tuple[str, Any, dataclasses.Field]:
    default = {"default_factory": value.copy} if isinstance(value, list | dict) else {"default": value}
    return name, Any, dataclasses.field(init=False, repr=False, **default)


def fewer(arguments: type) -> type:
    """A dataclass of training arguments in which all options that pretraining does not use are fixed."""
    known = defaults(arguments).items()
    fixed = [_fixed(name, FIXED.get(name, value)) for name, value in known if name not in _KEPT]
    return dataclasses.make_dataclass("Fewer", fixed, bases=(arguments,))


@dataclass
class PretrainLoopOptions:
    """The options of the loop with another default or meaning than in training."""

    learning_rate: Annotated[float, ABOVE_0] = option(5e-5, "learning rate of the backbone after the ramp")
    layerwise_lr_decay: Annotated[float, SHARE_ABOVE_0] = option(
        0.9, "learning rate of each block as a share of the one above it"
    )
    weight_decay: float = option(0.04, "weight decay of matrices; norms, biases, tokens and layer scale have none")
    max_grad_norm: float = option(3.0, "gradients are clipped to this norm")
    per_device_train_batch_size: int = option(64, "photos per device and step")
    num_train_epochs: float = option(10.0, "epochs: passes over train and the pool, with one photo of each group")
    max_steps: int = option(-1, "number of steps, instead of num_train_epochs")
    save_strategy: str = option("no", "when to write a checkpoint besides milestones: no, steps, epoch")
    save_total_limit: int | None = option(1, "number of checkpoints to keep; milestones always stay")
    metric_for_best_model: str | None = option("mcc", "figure by which the probe chooses a milestone")
