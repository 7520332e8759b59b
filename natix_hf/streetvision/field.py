"""The scores of the other participants, with which a score becomes a relative pay and a rank.

A participant's share of the pay is its score divided by the sum of all scores. Relative to an average participant this
is score / mean score.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from natix_hf.documents.reward import ParticipantScores
from natix_hf.errors import UserError

STEPS = np.linspace(0, 1, 1001)  # levels at which the quantile function is evaluated


@dataclass(frozen=True)
class Field:
    """The distribution of the participants' scores as a quantile function.

    Args:
        name: source of the scores.
        confirmed: whether the source can be checked.
        n: number of participants.
        levels: levels of the quantiles, increasing from 0 to 1.
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
        """Percentage of participants with a lower score. Participants with the same score count half."""
        quantiles = np.interp(STEPS, self.levels, self.scores)
        below, same = np.mean(quantiles < score - 1e-12), np.mean(np.abs(quantiles - score) <= 1e-12)
        return float(100 * (below + same / 2))

    def document(self) -> ParticipantScores:
        """The field as a document: name, whether it is confirmed, participants, mean and quantiles."""
        shown = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
        quantiles = {f"{q:g}": float(np.interp(q, self.levels, self.scores)) for q in shown}
        return ParticipantScores(
            name=self.name, confirmed=self.confirmed, n=self.n, mean=self.mean, quantiles=quantiles
        )


# From a single record of quantiles, which has no end points. The lower end is extrapolated linearly from the first two
# quantiles, and the upper end is the best possible score.
LATE_2025 = Field(
    name="one record of late 2025",
    confirmed=False,
    n=251,
    levels=np.array([0, 0.25, 0.5, 0.75, 0.9, 1]),
    scores=np.array([0.875, 0.912, 0.949, 0.977, 0.997, 1]),
)


def read_field(path: str | Path) -> Field:
    """Read scores from a CSV file: one score per line, or a column called `score` with a header.

    Raises:
        UserError: the file does not exist, or a line has no score from 0 to 1; the message names the line.
    """
    path, wanted = Path(path), "expected one score from 0 to 1 per line, or a column called score"
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
            raise UserError(f"--field {path}: line {number}: {text!r} is not a score: {wanted}")
        scores.append(score)
    if not scores:
        raise UserError(f"--field {path}: no scores in the file: {wanted}")
    if not any(scores):
        raise UserError(f"--field {path}: expected at least one positive score, found only zeros")
    # Each score is a step of equal width, so mean and ranks are exactly those of the list.
    edges = np.repeat(np.arange(len(scores) + 1) / len(scores), 2)[1:-1]
    return Field(path.name, True, len(scores), edges, np.repeat(np.sort(scores), 2))
