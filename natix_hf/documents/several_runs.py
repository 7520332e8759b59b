"""`sweep.json` and `folds.json`: several runs of one recipe."""

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
    """The score by which a finished run of a sweep is ranked.

    Attributes:
        score: value of `metric` on `val_select`.
        fingerprint: fingerprint of the rows of val_select.
        seconds: duration of training.
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
    """One run of a sweep. A finished run has all fields of `SweepScore`.

    Attributes:
        name: name of its folder.
        status: `pruned` means stopped early because of a bad score, which is not ranked.
        failed: the reason of a failure.
        cell: the combination of values that it belongs to, if each combination has several seeds.
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
    """Mean over seeds of a combination's score minus that of the best one, with an interval over resampled groups.

    Attributes:
        spread: standard deviation of the differences over seeds.
        better: number of seeds in which the combination scored better than the best one.
    """

    spread: Amount | None
    better: Count


class SweepCell(Part):
    """One combination of values with every seed.

    Attributes:
        scores: one score per seed; None: not finished, or not defined.
        mean, log_loss: means over seeds; None unless all seeds are finished.
        spread: standard deviation of the scores over seeds.
        beside_best: None for the best combination itself.
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
    """The optimism of the best score, which comes from choosing and scoring on the same photos.

    In each resample of whole groups the best one is chosen again and scored on the groups that were not drawn.

    Attributes:
        score: score of the best one on all photos.
        elsewhere: mean score on the groups not drawn; `low` and `high` enclose the share `level` of the resamples.
        by: the optimism, by which `score` is better than `elsewhere`.
        chosen_again: share of resamples in which the same one was chosen.
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
        space: key -> the searched range, as the user typed it.
        trials: number of requested trials, pruned and failed ones included.
    """

    sampler: Literal["tpe"]
    seed: Count
    space: dict[str, str]
    trials: Some


class Sweep(Document, Resampled):
    """The runs of a sweep, best first, ranked by their score on `val_select`. `val_test` was not read.

    Attributes:
        seeds, cells: the seeds and the combinations, if each combination has several seeds; combinations are ranked
            then.
        search: how a search chose the runs, or None.
        flattery: the optimism of the best score, or None.
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
    """A run that was tested only on photos with one value of a column.

    Attributes:
        labels: class -> number of photos with the value.
        reason: why it failed or was skipped.
        trained_on: number of photos in train.
        set_aside: number of photos with other values that are tied to test photos.
        fingerprint: fingerprint of the rows of val_test.
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
    """Mean over folds with Student's interval, and the range of the folds."""

    folds: Count
    smallest: float | None
    largest: float | None


class Folds(Document):
    """Runs that were each tested on one value of a column and trained on the other values."""

    file_name: ClassVar[str] = "folds.json"

    column: str
    split: Literal["val_test"]
    level: Level
    folds: Annotated[list[FoldRun], Field(min_length=2)]
    mean: dict[str, FoldMean] | None
