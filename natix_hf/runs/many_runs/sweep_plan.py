"""Parses the command line of a sweep and builds the command lines of its runs.

All runs of a sweep have the same split and, unless seeds are compared, the same seed. The caller passes in how a
recipe is parsed. `search.py` chooses the values of a search.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from natix_hf.errors import UserError
from natix_hf.options import RecipeValue, typed_keys, without_keys
from natix_hf.runs.many_runs.fan_out import Planned, outcomes, work
from natix_hf.runs.many_runs.processes import Outcome
from natix_hf.runs.many_runs.study import JOURNAL

OWN = ("grid", "seeds", "search", "trials", "space", "only", "emit", "flavor", "timeout", "bucket", "package")

_OTHER_ROWS = "the runs would be scored on different photos, so their scores could not be compared"
_OTHER_SCORE = "the runs would be ranked by different scores"
_ONE_START = "the sweep sets it for each run"
_NO_MODEL = "runs of a sweep leave no model to publish"
_LUCK = "the luckiest seed would win; repeat the sweep with another --seed, or give --seeds 0 1 2"
# Keys that cannot be varied, and why.
REFUSED = {
    **dict.fromkeys(("dataset_name", "dataset_config", "image_column_name", "label_column_name"), _OTHER_ROWS),
    **dict.fromkeys(("group_column", "near_duplicates", "test_split", "label_names"), _OTHER_ROWS),
    **dict.fromkeys(("test_on", "hold_out_each"), _OTHER_ROWS),
    **dict.fromkeys(("split_ratios", "split_seed", "broken_photos"), _OTHER_ROWS),
    **dict.fromkeys(("metric_for_best_model", "greater_is_better", "positive_label"), _OTHER_SCORE),
    **dict.fromkeys(("seed", "data_seed"), _LUCK),
    **dict.fromkeys(("output_dir", "overwrite_output_dir", "resume_from_checkpoint"), _ONE_START),
    **dict.fromkeys(("sweep", "trial", "refit", "refit_from", "find_lr"), _ONE_START),
    **dict.fromkeys(("push_to_hub", "hub_model_id", "hub_format", "model_version", "hotkey"), _NO_MODEL),
}
NEVER = ("sweep", "trial", "find_lr", "refit", "refit_from", "resume_from_checkpoint", "overwrite_output_dir")


class Cell(NamedTuple):
    """One combination of values: its folder name, and the command-line words that set them."""

    name: str
    words: list[str]
    keys: list[str]


@dataclass(frozen=True)
class Member(Planned):
    """A run of a sweep: its values, its combination, and its seed if there are several."""

    values: dict[str, RecipeValue]
    cell: str
    seed: int | None = None


class Request(NamedTuple):
    """A parsed command line: options of the sweep (option -> its words), and the words of the recipe."""

    own: dict[str, list[str]]
    rest: list[str]


def read_request(argv: Sequence[str], usage: str = "") -> Request:
    """Split a command line into options of the sweep and words of the recipe. Some errors end with `usage`.

    Raises:
        UserError: an option of the sweep is given twice, there is nothing to try, or a key is one that the sweep sets.
    """
    own: dict[str, list[str]] = {}
    rest: list[str] = []
    into = rest
    for word in argv:
        key = word[2:] if word.startswith("--") else None
        if key in OWN:
            if key in own:
                raise UserError(f"--{key}: expected once, found twice: {usage}")
            into = own[key] = []
            continue
        into = rest if key is not None else into
        into.append(word)
    if not {"grid", "seeds", "search"} & own.keys():
        raise UserError(f"expected one of --grid, --seeds and --search; found none: {usage}")
    for key in NEVER:
        if key in typed_keys(rest):
            raise UserError(f"--{key} cannot be set: {REFUSED[key]}")
    return Request(own, rest)


def read_grid(words: Sequence[str]) -> list[Cell]:
    """All combinations of `key=value,value,...`; the last key varies fastest.

    Spaces separate the items of a value that is a list, as in `"image_size=224,256 448"`.

    Raises:
        UserError: a word has another form, a key or value is given twice, or a key cannot be varied.
    """
    axes: dict[str, list[str]] = {}
    for word in words:
        key, _, listed = word.partition("=")
        values = listed.split(",")
        if not key or not all(map(str.strip, values)):
            raise UserError(f"--grid: expected key=value,value, for example lora_r=8,16,32; found {word}")
        if key in axes:
            raise UserError(f"--grid: {key} is given twice: give it once with all its values")
        if key in REFUSED:
            raise UserError(f"--grid {word}: {key} cannot be varied: {REFUSED[key]}")
        if len(set(values)) < len(values):
            raise UserError(f"--grid {word}: a value is given twice: remove one")
        axes[key] = values
    if not axes:
        raise UserError("--grid: no key given; for example --grid lora_r=8,16,32 learning_rate=1e-4,3e-4")
    cells = []
    for values in itertools.product(*axes.values()):
        pairs = list(zip(axes, values))
        name = ",".join(f"{key}={re.sub(r'[^A-Za-z0-9._+@-]', '_', value)}" for key, value in pairs)
        # Spaces separate the items of a value that is a list.
        cells.append(Cell(name, [word for key, value in pairs for word in (f"--{key}", *value.split())], list(axes)))
    if len({cell.name for cell in cells}) < len(cells):
        raise UserError(
            "--grid: two combinations would have the same folder: use values that differ in letters or digits"
        )
    return cells


def read_seeds(words: Sequence[str]) -> list[int]:
    """The seeds of `--seeds 0 1 2`.

    Raises:
        UserError: a word is not an integer, a seed is given twice, or there is only one seed.
    """
    if not all(word.isdecimal() for word in words) or len(set(map(int, words))) < max(2, len(words)):
        given = " ".join(words) or "nothing"
        raise UserError(f"--seeds: expected two or more different integers, such as 0 1 2; found {given}")
    return [int(word) for word in words]


def place_of(rest: Sequence[str], parse: Callable[[list[str]], Any]) -> tuple[Path, list[str]]:
    """The folder of the sweep, and the command line without `--output_dir`."""
    ending = "" if "output_dir" in typed_keys(rest) else "-sweep"
    return Path(f"{parse(list(rest)).training.output_dir}{ending}"), without_keys(rest, ["output_dir"])


def member(
    output: Path,
    name: str,
    words: list[str],
    keys: Sequence[str],
    parse: Callable[[list[str]], Any],
    resolved: Callable[[Any], str],
    **more: Any,
) -> Member:
    """A run of a sweep: `words`, plus the options that every run of a sweep has."""
    words = [*words, "--output_dir", str(output / name), "--sweep", "true"]
    # A recipe file may set overwrite_output_dir for its own run; this must not apply to the runs of a sweep.
    text = resolved(parse([*words, "--overwrite_output_dir", "false"]))
    known = yaml.safe_load(text)
    return Member(name, words, text, {key: known.get(key) for key in keys}, **more)


class Grid:
    """A sweep over a grid, over several seeds, or both.

    Args:
        request: from `read_request`.
        parse: a command line of `natix_hf.train` -> its recipe.
        resolved: a recipe -> the text of its recipe.yaml.

    Raises:
        UserError: the grid is invalid. Every recipe is parsed here, before any run starts.
    """

    noun = "run"
    search = None

    def __init__(self, request: Request, parse: Callable[[list[str]], Any], resolved: Callable[[Any], str]) -> None:
        own = request.own
        if odd := next((key for key in ("trials", "space") if key in own), None):
            raise UserError(f"--{odd}: only for a search: add --search tpe, or remove --{odd}")
        cells = read_grid(own["grid"]) if "grid" in own else [Cell("", [], [])]
        seeds = read_seeds(own["seeds"]) if "seeds" in own else [None]
        if seeds != [None] and "seed" in typed_keys(request.rest):
            raise UserError("--seed cannot be set: --seeds sets it for each run")
        self.output, rest = place_of(request.rest, parse)
        self._runs: list[Member] = []
        for cell, seed in itertools.product(cells, seeds):
            seeded = [] if seed is None else [f"seed={seed}"]
            name = ",".join(filter(None, [cell.name, *seeded]))
            words = [*rest, *cell.words, *(["--seed", str(seed)] if seeded else [])]
            about = {"cell": cell.name or "the recipe", "seed": seed}
            run = member(self.output, name, words, cell.keys, parse, resolved, **about)
            if twin := next((one for one in self._runs if (one.values, one.seed) == (run.values, run.seed)), None):
                raise UserError(f"--grid: {twin.name} and {run.name} are the same run: remove one")
            self._runs.append(run)
        self._mine = self._named(own["only"]) if "only" in own else self._runs
        self.recipe = yaml.safe_load(self._runs[0].text)

    def _named(self, names: Sequence[str]) -> list[Member]:
        """The runs that `--only` names. Without a name no run is trained and only the table is written."""
        known = [run.name for run in self._runs]
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"--only {unknown[0]}: not a run of this sweep: its runs are {', '.join(known)}")
        return [run for run in self._runs if run.name in names]

    def begin(self) -> None:
        """Raise `UserError` if a folder holds something other than its run, or the folder of the sweep a search."""
        if (self.output / JOURNAL).exists():
            raise UserError(f"{self.output}: holds a search: choose another --output_dir")
        self.outcomes()

    def done(self) -> bool:
        """Whether this process has nothing left to train."""
        return not self._mine or not self.left()

    def left(self) -> list[str]:
        """The names of the unfinished runs, as `--only` takes them."""
        return [name for name, outcome in self.outcomes().items() if outcome.status != "finished"]

    def runs(self) -> list[Member]:
        """All runs."""
        return self._runs

    def outcomes(self) -> dict[str, Outcome]:
        """The state of each run."""
        return outcomes(self.output, self._runs, "sweep")

    def work(self, after: Callable[[], None]) -> None:
        """Train unfinished runs that no other process is training; call `after` after each run."""
        work(self.output, self._mine, noun=self.noun, whose="sweep", after=after)
