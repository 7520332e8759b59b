"""The study of a search, on the disk that its machines share: which trials there are, and how they scored.

Optuna keeps it in a journal, a file to which every process appends, and needs no server. This module knows Optuna and
no training.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from natix_hf.errors import UserError
from natix_hf.options import RecipeValue

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

JOURNAL, NAME = "study.journal", "search"
NEEDS = "--search needs Optuna: pip install 'natix_hf[search]'"


class Axis(NamedTuple):
    """What is searched for one key: numbers from `low` to `high`, or one of `choices`."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    choices: Sequence[str] = ()

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        kind = IntDistribution if self.whole else FloatDistribution
        return kind(self.low, self.high, log=self.log)


def check_installed() -> None:
    """Raise `UserError` where Optuna is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError(NEEDS) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _storage(folder: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))


def begin_study(folder: Path, options: Mapping[str, RecipeValue], *, larger_is_better: bool) -> None:
    """Begin the study of a search in its folder, or go on with the one that is there.

    Args:
        folder: of the search.
        options: what its trials have in common, as JSON types; written down with it.
        larger_is_better: which way the score points.

    Raises:
        UserError: a study of other options is there.
    """
    import optuna

    try:
        study = optuna.load_study(study_name=NAME, storage=_storage(folder))
    except KeyError:
        direction = "maximize" if larger_is_better else "minimize"
        study = optuna.create_study(study_name=NAME, storage=_storage(folder), direction=direction)
    if "options" not in study.user_attrs:
        study.set_user_attr("options", dict(options))
    recorded = study.user_attrs["options"]
    for key in dict.fromkeys([*options, *recorded]):
        if recorded.get(key) != options.get(key):
            raise UserError(
                f"{folder}: holds a study of other options: {key} ({options.get(key)} here, {recorded.get(key)} "
                "there): choose another --output_dir, or the same options"
            )


def open_study(folder: Path, *, seed: int = 0) -> Study:
    """The study of a search; its sampler draws the same for the same seed and the same trials before.

    Every trial has a stream of random numbers of its own, so that machines that share a study do not draw the same
    points, and one that goes on does not draw the first ones again.
    """
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.load_study(study_name=NAME, storage=_storage(folder), pruner=optuna.pruners.MedianPruner())
        stream = np.random.SeedSequence([seed, len(study.get_trials(deepcopy=False))])
        study.sampler = optuna.samplers.TPESampler(seed=int(stream.generate_state(1)[0]), constant_liar=True)
    return study


def trial_of(study: Study, number: int) -> Trial:
    """A trial that was asked for in another process."""
    from optuna.trial import Trial

    storage = study._storage  # the only way to a trial that is under way
    identity = storage.get_study_id_from_name(study.study_name)
    return Trial(study, storage.get_trial_id_from_study_id_trial_number(identity, number))


def under_way(trial: FrozenTrial) -> bool:
    return not trial.state.is_finished()


def ask(folder: Path, space: Mapping[str, Axis], *, seed: int) -> FrozenTrial:
    """The next trial, with values for all keys."""
    study = open_study(folder, seed=seed)
    number = study.ask({key: axis.distribution() for key, axis in space.items()}).number
    return study.get_trials(deepcopy=False)[number]


def tell(folder: Path, number: int, value: float | None, *, pruned: bool = False) -> None:
    """End a trial: with its score, without one (it failed), or pruned, by the last score that it reported."""
    from optuna.trial import TrialState

    study = open_study(folder)
    if pruned:
        study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
    elif value is None:
        study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    else:
        study.tell(number, value, skip_if_finished=True)
