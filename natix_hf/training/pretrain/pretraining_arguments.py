"""The arguments of the pretraining loop: `NatixTrainingArguments` without the options that need labels.

`schedules.py` has the schedules, the optimizer is AdamW, and there is no evaluation during training.
"""

from __future__ import annotations

from dataclasses import dataclass

from natix_hf.errors import UserError
from natix_hf.options import check_bounds
from natix_hf.training.pretrain.pretraining_options import PretrainLoopOptions, fewer
from natix_hf.training.training_arguments import NatixTrainingArguments


@dataclass
class PretrainingArguments(PretrainLoopOptions, fewer(NatixTrainingArguments)):
    """The arguments of `PretrainTrainer`; names and meanings are those of `NatixTrainingArguments`.

    Raises:
        UserError: a value is out of range, or two options exclude each other.
    """

    @property
    def metric(self) -> str:
        """The metric that chooses a milestone."""
        name = (self.metric_for_best_model or "mcc").removeprefix("eval_")
        return "log_loss" if name == "loss" else name

    def __post_init__(self) -> None:
        check_bounds(self, PretrainingArguments)
        if self.save_strategy == "best":
            raise UserError(
                "save_strategy: expected no, steps or epoch, found best, but pretraining has no evaluation"
            )
        super().__post_init__()
        if self.sharded:
            raise UserError(
                "pretraining does not support a sharded model (FSDP): use recipes/accelerate/multi_gpu.yaml"
            )
