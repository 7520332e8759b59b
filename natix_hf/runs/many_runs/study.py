"""The Optuna study of a search: its trials and their scores, on a disk that the machines share.

Optuna keeps the study in a journal file that every process appends to, so no server is needed. `search.py` trains the
trials.
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
    """The values to search for one key: numbers from `low` to `high`, or one of `choices`."""

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
    """Raise `UserError` if Optuna is not installed."""
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
    """Create the study of a search in its folder, or continue the existing one.

    Args:
        folder: of the search.
        options: the options that all trials share, as JSON types; stored in the study.
        larger_is_better: whether a higher score is better.

    Raises:
        UserError: the folder holds a study with other options.
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
                f"{folder}: holds a study with other options: {key} ({options.get(key)} here, {recorded.get(key)} "
                "there): choose another --output_dir, or use the same options"
            )


def open_study(folder: Path, *, seed: int = 0) -> Study:
    """The study of a search. Its sampler is deterministic for a given seed and given earlier trials.

    Each trial has its own random stream. So machines that share a study draw different points, and a resumed study
    does not repeat its first points.
    """
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.load_study(study_name=NAME, storage=_storage(folder), pruner=optuna.pruners.MedianPruner())
        stream = np.random.SeedSequence([seed, len(study.get_trials(deepcopy=False))])
        study.sampler = optuna.samplers.TPESampler(seed=int(stream.generate_state(1)[0]), constant_liar=True)
    return study


def trial_of(study: Study, number: int) -> Trial:
    """A trial that another process started."""
    from optuna.trial import Trial

    storage = study._storage  # Optuna has no public way to reach a running trial
    identity = storage.get_study_id_from_name(study.study_name)
    return Trial(study, storage.get_trial_id_from_study_id_trial_number(identity, number))


def under_way(trial: FrozenTrial) -> bool:
    return not trial.state.is_finished()


def ask(folder: Path, space: Mapping[str, Axis], *, seed: int) -> FrozenTrial:
    """A new trial with a value for each key."""
    study = open_study(folder, seed=seed)
    number = study.ask({key: axis.distribution() for key, axis in space.items()}).number
    return study.get_trials(deepcopy=False)[number]


def tell(folder: Path, number: int, value: float | None, *, pruned: bool = False) -> None:
    """End a trial with its score, as failed (`value` is None), or as pruned with its last reported score."""
    from optuna.trial import TrialState

    study = open_study(folder)
    if pruned:
        study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
    elif value is None:
        study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    else:
        study.tell(number, value, skip_if_finished=True)
