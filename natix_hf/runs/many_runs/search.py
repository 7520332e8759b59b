"""A search: each run's values are chosen by how earlier runs scored on `val_select` (TPE; Bergstra et al., 2011).

Processes started with the same command share one study. Each asks for a trial, trains it as a run of the sweep, and
reports its score. If a process dies, another one resumes its trial. `val_test` stays locked, as in every sweep.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.several_runs import Search, Sweep
from natix_hf.errors import UserError, one_line
from natix_hf.options import RecipeValue
from natix_hf.report.metrics import LOWER_IS_BETTER
from natix_hf.runs.lease import Lease, LeaseLost, take, time_of, waited_for
from natix_hf.runs.many_runs.fan_out import lease_of, note_failure, outcomes, train_one
from natix_hf.runs.many_runs.processes import Outcome
from natix_hf.runs.many_runs.study import JOURNAL, Axis, ask, begin_study, check_installed, open_study, tell, under_way
from natix_hf.runs.many_runs.sweep_plan import REFUSED, Member, Request, member, place_of
from natix_hf.runs.many_runs.sweep_runs import score

_RANGE = re.compile(r"(?P<low>[^.]*(?:\.\d[^.]*)?)\.\.(?P<high>.+?)(?P<log>:log)?$")
FORM = "expected key=low..high, key=low..high:log or key=value,value, for example lora_r=4..64:log"


class TpeSearch:
    """A sweep whose runs are the trials of a search.

    Args:
        request: from `sweep_plan.read_request`.
        parse: a command line of `natix_hf.train` -> its recipe.
        resolved: a recipe -> the text of its recipe.yaml.

    Raises:
        UserError: the search is not possible, or Optuna is not installed.
    """

    noun = "trial"

    def __init__(self, request: Request, parse: Callable[[list[str]], Any], resolved: Callable[[Any], str]) -> None:
        own = request.own
        if own["search"] != ["tpe"]:
            raise UserError(f"--search: expected tpe, found {' '.join(own['search']) or 'nothing'}")
        if odd := next((key for key in ("grid", "seeds") if key in own), None):
            raise UserError(
                f"--{odd}: cannot be combined with --search: remove one of them; to repeat the best trial afterwards, "
                "use --grid and --seeds"
            )
        if len(own.get("trials", [])) != 1 or not own["trials"][0].isdecimal() or int(own["trials"][0]) < 1:
            raise UserError(
                f"--trials: expected a number, such as 40; found {' '.join(own.get('trials', [])) or 'nothing'}"
            )
        if own.get("only") not in (None, [], ["next"]):
            raise UserError(
                f"--only: expected next (one trial) or nothing (the table) in a search, found {' '.join(own['only'])}"
            )
        check_installed()
        self.parse, self.resolved = parse, resolved
        self.output, self.rest = place_of(request.rest, parse)
        self.only = own.get("only")
        base = self._values([])
        self.space = read_space(own.get("space", []), self._values)
        words = {word.partition("=")[0]: word.partition("=")[2] for word in own["space"]}
        self.search = Search(sampler="tpe", seed=base["seed"], space=words, trials=int(own["trials"][0]))
        metric = parse(self.rest).training.metric_for_best_model.removeprefix("eval_")
        self.larger_is_better = metric not in (*LOWER_IS_BETTER, "loss")
        self.recipe = base
        self._refused: dict[str, Outcome] = {}
        self._members: dict[int, Member] = {}

    def _values(self, words: list[str]) -> dict[str, RecipeValue]:
        """The values of a recipe of the search, by key."""
        return yaml.safe_load(self.resolved(self.parse([*self.rest, *words, "--sweep", "true"])))

    def begin(self) -> None:
        """Create the study, or open the existing one.

        Raises:
            UserError: the folder holds a study with other options, or a sweep that is not a search.
        """
        if Sweep.there(self.output) and not (self.output / JOURNAL).exists():
            raise UserError(f"{self.output}: holds a sweep that is not a search: choose another --output_dir")
        self.output.mkdir(parents=True, exist_ok=True)
        common = {key: value for key, value in self.recipe.items() if key not in (*self.space, "output_dir")}
        with waited_for(lease_of(self.output, ".study")):
            begin_study(
                self.output,
                {"space": self.search.space, "seed": self.search.seed, **common},
                larger_is_better=self.larger_is_better,
            )

    def done(self) -> bool:
        """Whether this process has nothing left to train."""
        return self.only == [] or not self.left()

    def left(self) -> list[str]:
        """The values of `--only`, one per unfinished trial."""
        trials = open_study(self.output).get_trials(deepcopy=False)
        return ["next"] * (self.search.trials - sum(not under_way(trial) for trial in trials))

    def runs(self) -> list[Member]:
        """The trials so far."""
        return [self._member(trial.number, trial.params) for trial in open_study(self.output).trials]

    def outcomes(self) -> dict[str, Outcome]:
        """The state of each trial."""
        runs = self.runs()
        whole = [run for run in runs if run.name not in self._refused]
        return outcomes(self.output, whole, "search") | self._refused

    def _member(self, number: int, values: Mapping[str, RecipeValue]) -> Member:
        """The run of a trial. If a recipe refuses the values, the run counts as failed."""
        if number not in self._members:
            name = f"trial-{number:03d}"
            words = [word for key in self.space for word in (f"--{key}", _word(values[key]))]
            own = [*self.rest, *words, "--trial", str(number)]
            try:
                made = member(self.output, name, own, list(self.space), self.parse, self.resolved, cell=name)
            except UserError as error:
                self._refused[name] = Outcome("failed", one_line(error))
                made = Member(name, own, "", {key: values[key] for key in self.space}, name)
            self._members[number] = made
        return self._members[number]

    def work(self, after: Callable[[], None]) -> None:
        """Run trials until the requested number is reached; with `--only next` run one."""
        began = time_of(self.output / "leases")
        while self.only != [] and (taken := self._next()):
            number, lease = taken
            run = self._member(number, open_study(self.output).trials[number].params)
            label = f"trial {number + 1}/{self.search.trials} {run.name}"
            try:
                if run.name in self._refused:
                    note_failure(self.output, run, label, self._refused[run.name].reason)
                else:
                    train_one(self.output, run, label, "search", began, lease)
                self._tell(number, run)
            except LeaseLost:
                print(f"{label}: taken over by another process", flush=True)
                continue
            finally:
                lease.release()
            after()
            if self.only:
                return

    def _next(self) -> tuple[int, Lease] | None:
        """The next trial to train and its lease: an abandoned one, else a new one."""
        with waited_for(lease_of(self.output, ".study")):
            trials, held = open_study(self.output).get_trials(deepcopy=False), []
            for trial in filter(under_way, trials):
                lease = take(lease_of(self.output, f"trial-{trial.number:03d}"))
                if isinstance(lease, Lease):
                    return trial.number, lease
                held.append(f"trial {trial.number + 1}/{self.search.trials}: in use by {lease}")
            if len(trials) < self.search.trials:
                number = ask(self.output, self.space, seed=self.search.seed).number
                return number, take(lease_of(self.output, f"trial-{number:03d}"))
        print(*held, sep="\n", end="\n" * bool(held), flush=True)
        return None

    def _tell(self, number: int, run: Member) -> None:
        if self.outcomes()[run.name].status != "finished":
            tell(self.output, number, None)
            return
        pruned = bool(RunRecord.read(self.output / run.name).pruned)
        tell(self.output, number, score(self.output / run.name).score.value, pruned=pruned)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def read_space(words: Sequence[str], values: Callable[[list[str]], dict[str, RecipeValue]]) -> dict[str, Axis]:
    """The search space, by key. The recipe checks both ends of a range and every choice.

    Args:
        words: of `--space`.
        values: words of a command line -> the values of the recipe with them.

    Raises:
        UserError: a word is neither a range nor a list of choices, or the recipe refuses a value.
    """
    space: dict[str, Axis] = {}
    for word in words:
        key, _, text = word.partition("=")
        if not key or not text:
            raise UserError(f"--space: {FORM}; found {word}")
        if key in space:
            raise UserError(f"--space: {key} is given twice: give it once with all its values")
        if key in REFUSED:
            raise UserError(f"--space {word}: {key} cannot be varied: {REFUSED[key]}")
        space[key] = _range(word, key, text, values) if ".." in text else _choices(word, key, text, values)
    if not space:
        raise UserError("--space: no key given; for example --space lora_r=4..64:log learning_rate=1e-5..1e-3:log")
    return space


def _range(word: str, key: str, text: str, values: Callable[[list[str]], dict[str, RecipeValue]]) -> Axis:
    ends = _RANGE.match(text)
    if ends is None:
        raise UserError(f"--space: {FORM}; found {word}")
    low, high = (values([f"--{key}", ends[end]])[key] for end in ("low", "high"))
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high)):
        raise UserError(f"--space {word}: {key} is not a number: list its values as {key}=value,value")
    whole, log = isinstance(low, int) and isinstance(high, int), ends["log"] is not None
    if not low < high:
        raise UserError(f"--space {word}: {low:g} is not less than {high:g}")
    if log and low <= 0:
        raise UserError(f"--space {word}: a logarithmic range must start above 0")
    return Axis(low, high, log, whole)


def _choices(word: str, key: str, text: str, values: Callable[[list[str]], dict[str, RecipeValue]]) -> Axis:
    choices = text.split(",")
    if not all(choices) or len(choices) < 2:
        raise UserError(f"--space: {FORM}; found {word}")
    if len({str(values([f"--{key}", choice])[key]) for choice in choices}) < len(choices):
        raise UserError(f"--space {word}: a value is given twice: remove one")
    return Axis(choices=choices)
