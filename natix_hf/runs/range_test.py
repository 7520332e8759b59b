"""The learning-rate finder: an exponential range test (Smith, "Cyclical Learning Rates", 2017) on `train` alone.

The recipe trains as usual, but the learning rate rises from `LOW` to `HIGH` by a constant factor per step, without
warm-up, schedule or EMA, until the loss diverges. The curve and a suggested rate go to `OUTPUT_DIR-find_lr`, so that
the run folder stays free. No weights are kept, and no other split is read.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from natix_hf.documents.learning_rates import LearningRates
from natix_hf.errors import UserError
from natix_hf.files import check_writable, replacing
from natix_hf.report import figures
from natix_hf.training.bottleneck import speed_lines
from natix_hf.training.optimizers.build_optimizer import inner_name
from natix_hf.training.trainer import NatixTrainer

if TYPE_CHECKING:
    from natix_hf.runs.decision_options import DecisionOptions

LOW, HIGH, STEPS = 1e-7, 10.0, 120
QUIET = 15  # steps at the lowest rates, which leave the weights almost unchanged: they give initial loss and noise
REACH = 5  # the smoothed loss is a mean over this many steps on either side, almost an octave and a half
RULE = (
    "the smaller of: the rate at which the smoothed loss falls most steeply, and a tenth of the rate at which it is "
    "back at its start"
)
# optim -> why a range test does not apply.
REFUSED = {
    "schedule_free": "it weighs the steps of its average by their rate, so that a rising rate is another method",
    "lomo": "it moves weights within the backward pass",
    "adalomo": "it moves weights within the backward pass, by a rate relative to each weight",
}


def folder(output_dir: str | Path) -> Path:
    """The folder for the curve of a run."""
    return Path(f"{Path(output_dir)}-find_lr")


def check_range_test(args: Any) -> None:
    """Raise `UserError` if the test does not apply to the optimizer, or the folder holds something else."""
    name = inner_name(args)
    for start, why in REFUSED.items():
        if name.startswith(start):
            raise UserError(
                f"find_lr: optim {name}: {why}: choose the rate by the score on val_select (natix_hf.sweep)"
            )
    if args.learning_rate <= 0:
        raise UserError(f"find_lr: learning_rate: expected a number above 0, found {args.learning_rate}")
    place = folder(args.output_dir)
    check_writable(place, "output_dir")
    if place.is_dir() and any(place.iterdir()) and not (place / "find_lr.json").is_file():
        raise UserError(
            f"find_lr: {place}: not empty, and has no earlier curve: move it, or choose another output_dir"
        )


class _Rising(TrainerCallback):
    """Stops the test on all processes when the loss has diverged."""

    def __init__(self, trainer: RangeTest) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.step_is_over():
            control.should_training_stop = True


class RangeTest(NatixTrainer):
    """A trainer that raises the learning rate at each step and records the loss.

    Takes the arguments of `NatixTrainer`; the purpose of the splits is a range test.
    """

    def __init__(self, model: torch.nn.Module, args: Any, **kwargs: Any) -> None:
        self.output = folder(args.output_dir)
        args.output_dir = str(self.output)
        args.max_steps, args.learning_rate, args.lr_scheduler_type = STEPS, HIGH, "constant"
        args.ema, args.early_stopping_patience, args.load_best_model_at_end = False, None, False
        args.eval_strategy, args.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
        args.eval_on_start, args.report_to, args.curriculum = False, [], "none"
        self.within: list[torch.Tensor] = []  # losses of the passes since the last step, each its share of the step's
        self.losses: list[float] = []
        super().__init__(model, args, **kwargs)
        self.add_callback(_Rising(self))

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        # Each parameter group has its own share of HIGH, so layer-wise rates keep their ratios.
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: float(rates(step + 1)[-1]) / HIGH
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train without a run folder, until the loss diverges or `HIGH` is reached."""
        try:
            with self.times.timed("train"):
                return Trainer.train(self)
        finally:
            self.progress.close()

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.within.append(loss.detach())
        return loss

    def one_pass(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], num_items_in_batch: Any
    ) -> torch.Tensor:
        return Trainer.training_step(self, model, inputs, num_items_in_batch)  # a NaN loss ends the curve

    def step_is_over(self) -> bool:
        """Record the loss of a step as the mean over processes; returns whether the loss has diverged."""
        loss = self.accelerator.reduce(torch.stack(self.within).sum(), reduction="mean")
        self.within.clear()
        self.losses.append(float(loss))
        return diverged(np.array(self.losses))


def train_range_test(trainer: RangeTest, recipe_text: str | None = None) -> None:
    """Train. A range test writes neither a run folder nor a `recipe.yaml`."""
    trainer.train()


def finish_range_test(trainer: RangeTest, decision: DecisionOptions | None = None) -> LearningRates:
    """Write `find_lr.json` and `figures/find_lr.png`; returns the document. `decision` is not used."""
    finite, args = np.array(trainer.losses), trainer.args
    finite = finite[: int(np.isfinite(finite).cumprod().sum())]
    document = LearningRates(
        rule=RULE,
        **suggestion(finite),
        diverged=diverged(np.array(trainer.losses)),
        rates=rates(len(finite)).tolist(),
        losses=finite.tolist(),
        smoothed=smooth(finite).tolist(),
        photos_a_step=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        optim=inner_name(args),
        method=trainer.method,
        seed=args.seed,
    )
    if args.should_save:
        document.write(trainer.output)
        with replacing(trainer.output / "figures" / "find_lr.png") as path:
            figures.learning_rates(document, path)
    return document


def range_test_lines(trainer: RangeTest, found: LearningRates) -> list[str]:
    """The printed summary of a range test."""
    steps, last = len(found.rates), found.rates[-1]
    end = "the loss diverged" if found.diverged else "the end of the range, and no divergence"
    lines = [f"{steps} steps of {found.photos_a_step} photos, rate {LOW:g} to {last:.2g}: {end}"]
    if found.suggestion is None:
        lines.append("no rate is suggested, because the loss never fell by more than its noise: use larger batches")
    else:
        lines.append(f"suggestion: learning_rate {found.suggestion:.2g} ({found.rule})")
    lines.append(f"the curve is in {trainer.output / 'figures' / 'find_lr.png'}")
    return lines + speed_lines(trainer.accounting.document(), trainer.times)


def rates(steps: int) -> np.ndarray:
    """Learning rates `(steps,)` of the first `steps` steps, including the quiet ones."""
    return LOW * (HIGH / LOW) ** (np.arange(steps) / (STEPS - 1))


def smooth(losses: np.ndarray) -> np.ndarray:
    """Running mean `(n,)` over `REACH` steps to either side, fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    i = np.arange(len(losses))
    reach = np.minimum(REACH, np.minimum(i, len(losses) - 1 - i))  # symmetric, so that a slope is not shifted
    return (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1)


def diverged(losses: np.ndarray) -> bool:
    """Whether the loss has diverged.

    True if a loss is not finite. Also true if the mean of the last three losses exceeds the initial loss by more than
    the largest improvement so far, and by more than half of the initial loss.
    """
    if len(losses) and not np.isfinite(losses).all():
        return True
    if len(losses) < QUIET + 3:
        return False
    start = losses[:QUIET].mean()
    gained = max(start - smooth(losses).min(), abs(start) / 2)
    return bool(losses[-3:].mean() > start + gained)


def suggestion(losses: np.ndarray) -> dict[str, float | None]:
    """The suggested rate of a curve, by `RULE`.

    Args:
        losses: `(n,)` finite, one a step.

    Returns:
        `suggestion`, `steepest` (the rate of the steepest fall), `lowest` (of the lowest smoothed loss), `risen` (at
        which the smoothed loss is back at its start after the lowest; None where it never was). All None where the
        loss never fell by more than its noise.
    """
    nothing = {"suggestion": None, "steepest": None, "lowest": None, "risen": None}
    if len(losses) <= QUIET:
        return nothing
    curve, rate = smooth(losses), rates(len(losses))
    start, noise = losses[:QUIET].mean(), losses[:QUIET].std(ddof=1)
    lowest = int(curve.argmin())
    # Three standard errors of a smoothed point; the last bits of equal losses are no fall either.
    if lowest < QUIET or start - curve[lowest] <= max(3 * noise / math.sqrt(2 * REACH + 1), 1e-6 * abs(start)):
        return nothing
    steepest = int(np.gradient(curve)[: lowest + 1].argmin())
    above = np.flatnonzero(curve[lowest:] >= start)
    risen = float(rate[lowest + above[0]]) if len(above) else None
    suggested = min(float(rate[steepest]), risen / 10 if risen else math.inf)
    return {"suggestion": suggested, "steepest": float(rate[steepest]), "lowest": float(rate[lowest]), "risen": risen}
