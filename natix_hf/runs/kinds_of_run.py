"""Says how each kind of run (`runs.purpose`) builds its trainer, trains, and completes its folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from natix_hf.runs.decision_options import DecisionOptions
    from natix_hf.runs.purpose import PurposeOptions
    from natix_hf.training.trainer import NatixTrainer


class KindOfRun(NamedTuple):
    """How a run of one kind is carried out.

    Attributes:
        trainer: builds the trainer; takes what `NatixTrainer` takes.
        train: trains with it; `recipe_text` is what `recipe.yaml` will hold.
        finish: completes the folder; returns its results.
        lines: the printed lines for these results.
    """

    trainer: Callable[..., NatixTrainer]
    train: Callable[..., Any]
    finish: Callable[[Any, DecisionOptions], Any]
    lines: Callable[[Any, Any], list[str]]


def kind_of_run(purpose: PurposeOptions) -> KindOfRun:
    """The kind of run that a recipe asks for. Imports only what this kind needs."""
    from natix_hf.training.trainer import NatixTrainer

    if purpose.kind == "range test":
        from natix_hf.runs.range_test import RangeTest, finish_range_test, range_test_lines, train_range_test

        return KindOfRun(RangeTest, train_range_test, finish_range_test, range_test_lines)
    from natix_hf.runs.finish_run import finish_run, run_lines
    from natix_hf.runs.train_run import begin_run, train_run

    if purpose.kind == "refit":
        from natix_hf.runs.refit import Refit, finish_refit

        return KindOfRun(partial(Refit, honest=Path(purpose.refit_from)), train_run, finish_refit, run_lines)
    if purpose.kind == "sweep":
        from natix_hf.runs.many_runs.sweep_runs import finish_member, member_lines

        if purpose.trial is not None:
            from natix_hf.runs.many_runs.pruning import Trial

            return KindOfRun(partial(Trial, number=purpose.trial), train_run, finish_member, member_lines)
        return KindOfRun(NatixTrainer, train_run, finish_member, member_lines)
    if purpose.until == "split":
        return KindOfRun(NatixTrainer, begin_run, lambda trainer, decision: None, lambda trainer, results: [])
    return KindOfRun(NatixTrainer, train_run, partial(finish_run, until=purpose.until), run_lines)
