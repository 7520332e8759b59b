"""`sweep.json` and `folds.json`: many runs of one recipe."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from natix_hf.documents.document import Document, Part
from natix_hf.documents.figures import Amount, Count, Difference, Interval, Level, Resampled, Share, Some
from natix_hf.options import RecipeValue


def _needs(part: Part, names: tuple[str, ...]) -> None:
    if missing := [name for name in names if getattr(part, name) is None]:
        raise ValueError(f"{part.status}, but no {', '.join(missing)}")


class SweepScore(Part):
    """What a finished run of a sweep is ranked by.

    Attributes:
        score: by `metric`, on `val_select`.
        fingerprint: of the rows of val_select.
        seconds: of training.
    """

    metric: str
    score: Interval
    log_loss: Interval
    n: Some
    groups: Some
    fingerprint: str
    best_step: int | None
    steps: Some
    seconds: Amount


class SweepRun(Part):
    """One run of a sweep; of a finished one all that `SweepScore` says.

    Attributes:
        name: its folder.
        status: pruned: stopped early since it fell behind, by its score so far, which is not ranked.
        failed: the reason.
        cell: the combination that it belongs to, where each was run with several seeds.
    """

    name: str
    values: dict[str, RecipeValue]
    rank: Some | None
    status: Literal["finished", "pruned", "failed", "waiting"]
    failed: str | None = None
    cell: str | None = None
    seed: Count | None = None
    metric: str | None = None
    score: Interval | None = None
    log_loss: Interval | None = None
    n: Some | None = None
    groups: Some | None = None
    fingerprint: str | None = None
    best_step: int | None = None
    steps: Some | None = None
    seconds: Amount | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.status in ("finished", "pruned"):
            _needs(self, ("metric", "score", "log_loss", "n", "groups", "fingerprint", "steps"))
        return self


class BesideBest(Difference):
    """A combination less the best one, seed by seed: the mean, with an interval over resampled groups.

    Attributes:
        spread: standard deviation of the differences over seeds.
        better: in how many seeds it scored better than the best one.
    """

    spread: Amount | None
    better: Count


class SweepCell(Part):
    """One combination of values with every seed.

    Attributes:
        scores: of the seeds, in their order; None: not finished, or not defined.
        mean: over seeds, as the log loss; only where all of them are finished.
        spread: standard deviation over seeds.
        beside_best: None for the best one itself.
    """

    name: str
    values: dict[str, RecipeValue]
    rank: Some | None
    scores: list[float | None]
    mean: float | None = None
    spread: Amount | None = None
    log_loss: float | None = None
    beside_best: BesideBest | None = None


class Flattery(Part):
    """How much the best one's score flatters itself, since it was chosen on the photos that it is scored on.

    In each resample of whole groups the best is chosen anew, and scored on the groups that were not drawn.

    Attributes:
        score: of the best on all photos.
        elsewhere: mean score on the groups not drawn; `low` and `high` hold `level` of the resamples.
        by: how much better `score` is.
        chosen_again: share of resamples in which the best one was chosen.
    """

    score: float
    elsewhere: float
    low: float
    high: float
    by: float
    chosen_again: Share
    among: Some
    resamples: Some


class Search(Part):
    """How the runs of a search were chosen.

    Attributes:
        space: key -> what was searched, as it was typed.
        trials: that were asked for, pruned and failed ones included.
    """

    sampler: Literal["tpe"]
    seed: Count
    space: dict[str, str]
    trials: Some


class Sweep(Document, Resampled):
    """The runs of a sweep, best first, ranked by their score on `val_select`; `val_test` was not read.

    Attributes:
        seeds, cells: where each combination was run with several seeds, the combinations are what is ranked.
        search: where a search chose the runs.
    """

    file_name: ClassVar[str] = "sweep.json"

    split: Literal["val_select"]
    metric: str | None
    runs: list[SweepRun]
    seeds: list[Count] | None = None
    cells: list[SweepCell] | None = None
    search: Search | None = None
    flattery: Flattery | None = None


class FoldRun(Part):
    """A run that was tested on one value of a column alone.

    Attributes:
        labels: photos of each class that have the value.
        reason: why it failed or was skipped.
        trained_on: photos of train.
        set_aside: photos of other values that are tied to the test.
        fingerprint: of the rows of val_test.
    """

    value: str
    name: str
    labels: dict[str, Count]
    status: Literal["finished", "failed", "waiting", "skipped"]
    reason: str | None = None
    n: Some | None = None
    groups: Some | None = None
    trained_on: Some | None = None
    set_aside: Count | None = None
    metrics: dict[str, Interval] | None = None
    fingerprint: str | None = None
    times_read_before: Count | None = None
    seconds: Amount | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.status == "finished":
            _needs(self, ("n", "groups", "trained_on", "set_aside", "metrics", "fingerprint", "times_read_before"))
        if self.status in ("failed", "skipped"):
            _needs(self, ("reason",))
        return self


class FoldMean(Interval):
    """Student's interval over folds, and their range."""

    folds: Count
    smallest: float | None
    largest: float | None


class Folds(Document):
    """Runs that were each tested on one value of a column and trained on the others."""

    file_name: ClassVar[str] = "folds.json"

    column: str
    split: Literal["val_test"]
    level: Level
    folds: Annotated[list[FoldRun], Field(min_length=2)]
    mean: dict[str, FoldMean] | None
