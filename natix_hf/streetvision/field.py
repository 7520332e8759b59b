"""The scores of other participants, which turn a score into a share of pay and a rank.

Pay is a score divided by the sum of all scores; beside an average participant that is score / mean score.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from natix_hf.documents.reward import ParticipantScores
from natix_hf.errors import UserError

STEPS = np.linspace(0, 1, 1001)  # of the quantile function


@dataclass(frozen=True)
class Field:
    """Scores of participants, as their quantile function.

    Args:
        name: where they come from.
        confirmed: whether somebody can check that.
        n: participants.
        levels: rising from 0 to 1.
        scores: the quantiles at `levels`, in [0, 1].
    """

    name: str
    confirmed: bool
    n: int
    levels: np.ndarray
    scores: np.ndarray

    @property
    def mean(self) -> float:
        """The mean score: the area under the quantile function."""
        return float(np.trapezoid(self.scores, self.levels))

    def percentile(self, score: float) -> float:
        """Per cent of the participants with a lower score; those with the same count half."""
        quantiles = np.interp(STEPS, self.levels, self.scores)
        below, same = np.mean(quantiles < score - 1e-12), np.mean(np.abs(quantiles - score) <= 1e-12)
        return float(100 * (below + same / 2))

    def document(self) -> ParticipantScores:
        """For a JSON file: name, whether it is confirmed, participants, mean, quartiles and ends."""
        shown = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
        quantiles = {f"{q:g}": float(np.interp(q, self.levels, self.scores)) for q in shown}
        return ParticipantScores(
            name=self.name, confirmed=self.confirmed, n=self.n, mean=self.mean, quantiles=quantiles
        )


# One record of quantiles. Both ends are not in it: the lower goes on as straight as between the first two quantiles,
# the upper ends at the best possible score.
LATE_2025 = Field(
    name="one record of late 2025",
    confirmed=False,
    n=251,
    levels=np.array([0, 0.25, 0.5, 0.75, 0.9, 1]),
    scores=np.array([0.875, 0.912, 0.949, 0.977, 0.997, 1]),
)


def read_field(path: str | Path) -> Field:
    """The scores in a CSV: one a line, or a column called `score` below a header.

    Raises:
        UserError: no such file, or a line without a score from 0 to 1; names the line.
    """
    path, wanted = Path(path), "expected one score from 0 to 1 a line, or a column called score"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if any(map(str.strip, row))]
    except FileNotFoundError:
        raise UserError(f"--field {path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--field {path}: cannot be read as CSV ({type(error).__name__}): {wanted}") from None
    column, heads = 0, [cell.strip().lower() for cell in rows[0][1]] if rows else []
    if "score" in heads:
        column, rows = heads.index("score"), rows[1:]
    elif len(heads) > 1:
        raise UserError(
            f"--field {path}: line {rows[0][0]} has {len(heads)} columns and none is called score: {wanted}"
        )
    scores = []
    for number, row in rows:
        text = row[column].strip() if column < len(row) else ""
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not 0 <= score <= 1:
            raise UserError(f"--field {path}: line {number}: {text!r} is no score: {wanted}")
        scores.append(score)
    if not scores:
        raise UserError(f"--field {path}: holds no score: {wanted}")
    if not any(scores):
        raise UserError(f"--field {path}: all scores are 0: nothing can be compared with them")
    # Each score is a step of equal width, so that mean and rank are those of the list itself.
    edges = np.repeat(np.arange(len(scores) + 1) / len(scores), 2)[1:-1]
    return Field(path.name, True, len(scores), edges, np.repeat(np.sort(scores), 2))
