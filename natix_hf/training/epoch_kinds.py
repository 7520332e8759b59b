"""Samplings and curricula: the options of each, and the checks on them.

`sampling.py` draws the rows; `curriculum.py` ranks them by difficulty and decides when each is admitted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from natix_hf.errors import UserError
from natix_hf.options import SHARE_ABOVE_0, composed, off, option


@dataclass(frozen=True)
class Natural:
    description: ClassVar[str] = "an epoch has every row once"


@dataclass(frozen=True)
class Balanced:
    balance_by: Literal["class", "source", "class_and_source"] = option(
        "class", "what balanced sampling equalises: classes, sources of the data, or sources within each class"
    )

    description: ClassVar[str] = "as long, with equal shares; rare rows repeat"


SAMPLINGS = {"natural": Natural, "balanced": Balanced}

# Progress from the first share of rows to all of them, by the share of the ramp that is over (Wu et al., 2021); `step`
# is that of Hacohen and Weinshall.
PACINGS = {"linear": lambda time: time, "root": math.sqrt, "step": lambda time: 0.0}


@dataclass(frozen=True)
class NoCurriculum:
    pass


@dataclass(frozen=True)
class EasyFirst:
    """A measure of difficulty: `(n,)` from log probabilities `(n, classes)` and class ids `(n,)`, larger is harder."""

    curriculum_pacing: Literal[tuple(PACINGS)] = option(
        "linear", "how the share of photos grows: evenly, quickly at first, or all at once"
    )
    curriculum_start: Annotated[float, SHARE_ABOVE_0] = option(
        0.3, "share of each class, its easiest photos, in the first epoch"
    )
    curriculum_end: Annotated[float, SHARE_ABOVE_0] = option(
        0.5, "share of the training after which all photos are used"
    )

    @staticmethod
    def hard(log_probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class ByLoss(EasyFirst):
    """`-log p(label)`."""

    @staticmethod
    def hard(log_probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return -log_probabilities[np.arange(len(labels)), labels]


class ByMargin(EasyFirst):
    """`max p(other) - p(label)`, from -1 to 1."""

    @staticmethod
    def hard(log_probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
        rows, others = np.arange(len(labels)), log_probabilities.copy()
        others[rows, labels] = -np.inf
        return np.exp(others.max(axis=1)) - np.exp(log_probabilities[rows, labels])


CURRICULA = {"none": NoCurriculum, "loss": ByLoss, "margin": ByMargin}


@dataclass
class _Sampling:
    sampling: Literal[tuple(SAMPLINGS)] = option(
        "natural", "; ".join(f"{name}: {kind.description}" for name, kind in SAMPLINGS.items())
    )


@dataclass
class _Curriculum:
    curriculum: Literal[tuple(CURRICULA)] = option(
        "none",
        "train on easy photos first, by the loss or the margin of a cross-fitted probe on frozen features of train; "
        "epochs keep their length, so a few photos repeat",
    )


EpochOptions = composed("EpochOptions", (_Sampling, *SAMPLINGS.values(), _Curriculum, *CURRICULA.values()))


def check_sampling(args: Any) -> None:
    """Raise `UserError` if balanced sampling and another option would correct the class shares twice.

    Args:
        args: `NatixTrainingArguments`.
    """
    if args.sampling != "balanced":
        return
    twice = None
    if args.logit_adjustment:
        twice = "logit_adjustment"
    elif args.class_weights and [*np.atleast_1d(args.class_weights)] == ["balanced"]:
        twice = "class_weights: balanced"
    if twice:
        way = off(args, twice.partition(":")[0])
        raise UserError(
            f"sampling: balanced together with {twice} would correct the class shares twice, because the latter "
            f"uses the shares in train, not those that are sampled: leave one of the two out with {way} or --sampling "
            "natural"
        )


def check_curriculum(args: Any) -> None:
    """Raise `UserError` for a curriculum with too few epochs to admit all rows.

    Args:
        args: `NatixTrainingArguments`; with `max_steps` the number of epochs is not known yet.
    """
    if args.curriculum != "none" and args.max_steps <= 0:
        check_epochs(args, args.num_train_epochs)


def check_epochs(args: Any, epochs: float) -> None:
    """Like `check_curriculum`, for a known number of epochs."""
    last = math.ceil(epochs) - 1
    if last < 1:
        raise UserError(
            f"curriculum: photos are added from epoch to epoch: expected more than one, found {epochs:g}: "
            f"add --num_train_epochs 2, or leave it out with {off(args, 'curriculum')}"
        )
    if last / epochs < args.curriculum_end - 1e-9:
        raise UserError(
            f"curriculum_end: {args.curriculum_end} given, but the last of {epochs:g} epochs begins at "
            f"{last / epochs:.2f} of the training and would not use all photos: add --curriculum_end "
            f"{math.floor(100 * last / epochs) / 100:g}, or train for more epochs"
        )
