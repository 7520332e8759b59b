"""Reports the `val_select` scores of a running trial to the study, which may stop it early."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from natix_hf.documents.run_record import Noted
from natix_hf.runs.many_runs.study import open_study, trial_of
from natix_hf.training.trainer import NatixTrainer


class Pruning(TrainerCallback):
    """Report each score to the study, and stop training if the trial is below the median of the others.

    Trials are compared at the same evaluation, counted from the first. Scores are on `val_select` only.

    Args:
        number: of the trial. The study is in the parent of the run folder.
    """

    def __init__(self, number: int) -> None:
        self.number, self.pruned = number, False
        self.trial: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.trial = trial_of(open_study(Path(args.output_dir).parent), self.number)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        key = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        if self.trial is None or not math.isfinite(metrics[key]) or state.global_step >= state.max_steps:
            return
        self.trial.report(metrics[key], sum(key in entry for entry in state.log_history))
        if self.trial.should_prune():
            print(
                f"step {state.global_step}/{state.max_steps}: pruned: its {key} is worse than the median of the others"
            )
            self.pruned = control.should_training_stop = True


class Trial(NatixTrainer):
    """Trainer for a trial; takes the arguments of `NatixTrainer`.

    Args:
        number: of the trial.
    """

    def __init__(self, *args: Any, number: int, callbacks: list[TrainerCallback] | None = None, **kwargs: Any) -> None:
        self.pruning = Pruning(number)
        super().__init__(*args, callbacks=[*(callbacks or []), self.pruning], **kwargs)

    def noted(self) -> Noted:
        return {"pruned": True} if self.pruning.pruned else {}
