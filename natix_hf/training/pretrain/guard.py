"""The guard of pretraining: do features still distinguish photos, and how far are they from the original ones?

Works on features of a fixed set of photos. The loss may fall although features collapse, so features are checked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from natix_hf.documents.pretraining import GuardRecord, Look
from natix_hf.errors import UserError

LEAST_SHARE = 0.5  # of the effective rank at the start


def effective_rank(features: np.ndarray) -> float:
    """RankMe: the exponential of the entropy of the singular values of `(n, dim)` features (Garrido et al., 2023)."""
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    shares = values / max(values.sum(), np.finfo(float).tiny)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def neighbour_distance(features: np.ndarray) -> float:
    """Mean distance of each row, as a unit vector, to its nearest neighbour; 0 if all rows are the same."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -1.0)
    return float(np.sqrt(np.maximum(2 - 2 * similarity.max(axis=1), 0)).mean())


def linear_cka(one: np.ndarray, other: np.ndarray) -> float:
    """Centred kernel alignment of `(n, dim)` features, 1 for the same up to rotation and scale (Kornblith, 2019)."""
    one, other = (f.astype(np.float64) - f.mean(axis=0) for f in (one, other))
    norm = np.linalg.norm(one.T @ one) * np.linalg.norm(other.T @ other)
    return float(np.linalg.norm(one.T @ other) ** 2 / norm) if norm > 0 else 0.0


def mean_cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Mean cosine between corresponding rows."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / np.maximum(norms, 1e-12)).mean())


class Guard:
    """Check the features every few steps, and end a run if their effective rank has halved.

    Args:
        run: folder for `guard.json`.
        every: steps between two checks.
        features: returns `(n, dim)` class tokens of the fixed photos, by the current average.
        writes: whether this process writes files.
    """

    def __init__(self, run: Path, every: int, features: Callable[[], np.ndarray], *, writes: bool) -> None:
        self.run, self.every, self.features, self.writes = run, every, features, writes
        self.original = features()
        self.looks = [self._look(0, self.original, None)]

    def _look(self, step: int, features: np.ndarray, entropy: float | None) -> Look:
        return Look(
            step=step,
            rank=effective_rank(features),
            neighbour_distance=neighbour_distance(features),
            cosine=mean_cosine(features, self.original),
            cka=linear_cka(features, self.original),
            teacher_entropy=entropy,
        )

    def go_on(self, step: int) -> None:
        """Restore the checks of an interrupted run, up to the step from which it resumes."""
        if step and GuardRecord.there(self.run):
            self.looks = [look for look in GuardRecord.read(self.run).looks if look.step <= step]

    def look(self, step: int, entropy: float | None, milestone: Callable[[], Path | None]) -> Look:
        """Check the features after a step.

        Args:
            step: the number of steps done.
            entropy: of the teacher, if there is one.
            milestone: returns the milestone to go back to; called if the run ends.

        Raises:
            UserError: the effective rank is less than half of that at the start.
        """
        look = self._look(step, self.features(), entropy)
        self.looks.append(look)
        if self.writes:
            GuardRecord(looks=self.looks).write(self.run)
        first = self.looks[0].rank
        if look.rank < LEAST_SHARE * first:
            back = milestone()
            way = f"go back to {back}" if back else "there is no milestone yet, only the original checkpoint"
            raise UserError(
                f"step {step}: the features collapse: their effective rank fell from {first:.1f} to {look.rank:.1f}, "
                f"below half: {way}; start again with a lower learning_rate, a larger batch or "
                "--pretrain_objective distill"
            )
        return look
