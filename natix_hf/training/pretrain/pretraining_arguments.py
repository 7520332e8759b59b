"""What a recipe may say of the loop of pretraining: `NatixTrainingArguments` without what speaks of labels.

Schedules are those of `schedules.py`, the optimizer is AdamW, and nothing is scored on the way.
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
        UserError: where two settings exclude each other.
    """

    @property
    def metric(self) -> str:
        """The figure by which milestones are chosen."""
        name = (self.metric_for_best_model or "mcc").removeprefix("eval_")
        return "log_loss" if name == "loss" else name

    def __post_init__(self) -> None:
        check_bounds(self, PretrainingArguments)
        if self.save_strategy == "best":
            raise UserError("save_strategy: best given, but nothing is scored on the way: no, steps or epoch expected")
        super().__post_init__()
        if self.sharded:
            raise UserError(
                "pretraining with a sharded model (FSDP) was never tried: use recipes/accelerate/multi_gpu.yaml"
            )
