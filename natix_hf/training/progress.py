"""What a run prints during training: a progress bar, and a line for each logging step and each evaluation."""

from __future__ import annotations

import math
from typing import Any

from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from natix_hf.errors import UserError, one_line

SHOWN = ("accuracy", "balanced_accuracy", "mcc", "auroc", "log_loss", "ece")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def check_trackers(names: list[str]) -> None:
    """Raise `UserError` if a tracker in `report_to` is unknown or not installed."""
    try:
        for callback in get_reporting_integration_callbacks(names):
            callback()
    except (ValueError, ImportError, RuntimeError) as error:
        raise UserError(f"report_to: {one_line(error)}") from None


class Progress(TrainerCallback):
    """A tqdm bar over optimizer steps, with lines printed above it; with `disable_tqdm`, the lines only."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.scoring: tqdm | None = None
        self.raw: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and not args.disable_tqdm:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the bar, so that the next output, including an error, starts on a new line."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and not args.disable_tqdm:
            if self.scoring is None:
                self.scoring = tqdm(total=len(eval_dataloader), desc="score", unit="batch", leave=False)
            self.scoring.update()
            if self.scoring.n >= len(eval_dataloader):
                self.scoring.close()
                self.scoring = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        if any(key.startswith("eval_raw_") for key in logs):
            self.raw = {key.removeprefix("eval_raw_"): value for key, value in logs.items()}
            return
        scores = {key.removeprefix("eval_"): value for key, value in logs.items() if key.startswith("eval_")}
        step = f"step {state.global_step}/{state.max_steps}, epoch {_number(state.epoch or 0)}"
        if scores:
            parts = []
            for name in (name for name in SHOWN if name in scores):
                raw = f" (raw {_number(self.raw[name])})" if name in self.raw else ""
                parts.append(f"{name} {_number(scores[name])}{raw}")
            self.raw = {}
            self._say(f"{step}: val_select: {', '.join(parts)}")
        elif "loss" in logs:
            norm = f", gradient norm {_number(logs['grad_norm'])}" if "grad_norm" in logs else ""
            rate = _number(logs["learning_rate"])
            self._say(f"{step}: loss {_number(logs['loss'])}{norm}, learning rate {rate}")

    def _say(self, line: str) -> None:
        tqdm.write(line) if self.bar is not None else print(line, flush=True)


def show_progress(trainer: Trainer) -> Progress:
    """Print one short line per evaluation instead of transformers' dictionaries; trackers still get every value."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    progress = Progress()
    trainer.add_callback(progress)
    return progress
