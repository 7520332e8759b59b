"""Cameras whose photos two stages judge: the population from which the tests of a cascade draw."""

from __future__ import annotations

import numpy as np

from natix_hf.decision.cascade import StageRows, TwoStages, cascade_figures, fit_cascade
from natix_hf.decision.selective import selective_document
from natix_hf.documents.cascade import Cascade
from natix_hf.documents.selective import Selective

CAMERAS = 6_000


class Streets:
    """6,000 cameras of 1 to 8 photos; a camera misleads the first stage on all of its photos alike.

    The second stage adds evidence of its own to the first one's, and its logits are on another scale.
    """

    def __init__(self, seed: int = 0):
        self.generator = generator = np.random.default_rng(seed)
        self.sizes = generator.integers(1, 9, CAMERAS)
        camera = np.repeat(np.arange(CAMERAS), self.sizes)
        self.start = np.cumsum(self.sizes) - self.sizes
        n = len(camera)
        mostly = generator.random(CAMERAS) < 0.5
        labels = np.where(generator.random(n) < 0.85, mostly[camera], ~mostly[camera])
        sign = np.where(labels, 1.0, -1.0)
        first = 1.2 * sign + generator.normal(0, 0.85, CAMERAS)[camera] + generator.normal(0, 0.35, n)
        second = first + 1.5 * sign + generator.normal(0, 0.9, n)
        self.all = StageRows(_logits(2.5 * first), _logits(4 * second), labels.astype(np.int64), camera)

    def draw(self, cameras: int) -> StageRows:
        """The photos of so many cameras, drawn with replacement; one drawn twice counts as two."""
        drawn = self.generator.integers(0, CAMERAS, cameras)
        rows = np.concatenate([np.arange(self.start[c], self.start[c] + self.sizes[c]) for c in drawn])
        groups = np.repeat(np.arange(cameras), self.sizes[drawn])
        return StageRows(self.all.early[rows], self.all.full[rows], self.all.labels[rows], groups)


def cascade_documents() -> tuple[Cascade, Selective]:
    """A fitted cascade, and `selective.json` with what it gives on other photos."""
    fit, control, test = (Streets(seed).draw(cameras) for seed, cameras in ((0, 200), (1, 300), (2, 60)))
    cascade = fit_cascade(fit, control, "risk", alpha=0.05, class_names=["None", "Roadwork"])
    logits = TwoStages.from_document(cascade).composite(test.early, test.full).logits
    figures = cascade_figures(cascade, test, n_boot=50)
    return cascade, selective_document(logits, test.labels, test.groups, None, 1, cascade=figures, n_boot=20)


def _logits(log_odds: np.ndarray) -> np.ndarray:
    return np.stack([-log_odds / 2, log_odds / 2], axis=1)
