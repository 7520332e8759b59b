"""A fitted calibration: calibrator, class prior and threshold, applied to logits in this order.

The parts are separate, so each can be reported, changed or left out. The head of a published model holds their sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np

from natix_hf.documents.calibration import CalibrationFile
from natix_hf.logits import softmax

TINY = np.finfo(np.float64).tiny


class DecisionRule(TypedDict):
    """`decision` in a model's config: how the model decides, and the parts of its biases.

    Attributes:
        positive: class id.
        threshold: on the calibrated probability of the positive class.
        prior_bias, threshold_bias: one value per class.
        abstain_band: `[low, high]` on that probability. Between them the model gives no answer; None: it always
            answers.
        views: the test-time views, if the calibration was fitted on averages over several.
    """

    positive: int
    threshold: float
    prior_bias: list[float]
    threshold_bias: list[float]
    abstain_band: list[float] | None
    views: NotRequired[list[str]]


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration, as stored in `calibration.json`.

    Args:
        calibrator: `none`, `temperature`, `vector` or `isotonic`.
        temperature: `(classes,)`, by which the logits are divided; for `temperature` the same value repeated.
        calibrator_bias: `(classes,)`; zeros except for `vector`.
        prior_bias: `(classes,)` log(expected / observed class share); zeros without a target prior.
        threshold_bias: `(classes,)` moves the threshold to 0.5; zeros unless it is folded in.
        threshold: on the calibrated probability of `positive`; 0.5 unless another one is used.
        isotonic: knots `(x, y)` of each class on its softmax probability; None for the other calibrators.
    """

    calibrator: str
    temperature: np.ndarray
    calibrator_bias: np.ndarray
    prior_bias: np.ndarray
    threshold_bias: np.ndarray
    positive: int = 1
    threshold: float = 0.5
    isotonic: tuple[tuple[np.ndarray, np.ndarray], ...] | None = None

    @property
    def logit_bias(self) -> np.ndarray:
        """Sum of the three biases, `(classes,)`."""
        return self.calibrator_bias + self.prior_bias + self.threshold_bias

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """Logits `(n, classes)` whose softmax is a probability under the expected class shares, without threshold."""
        logits = np.asarray(logits, dtype=np.float64)
        if self.isotonic is not None:
            logits = isotonic_logits(softmax(logits), self.isotonic)
        return logits / self.temperature + self.calibrator_bias + self.prior_bias

    def served(self, logits: np.ndarray) -> np.ndarray:
        """Logits `(n, classes)` of the published head: `calibrated` with the threshold moved to 0.5."""
        return self.calibrated(logits) + self.threshold_bias

    def decisions(self, logits: np.ndarray) -> np.ndarray:
        """Class ids `(n,)`: the argmax, or with two classes the positive one if its probability exceeds the threshold.

        A probability equal to the threshold is negative.
        """
        calibrated = self.calibrated(logits)
        if calibrated.shape[1] != 2:
            return calibrated.argmax(axis=1)
        above = softmax(calibrated)[:, self.positive] > self.threshold
        return np.where(above, self.positive, 1 - self.positive)

    @classmethod
    def from_document(cls, document: CalibrationFile) -> Calibration:
        """Read from `calibration.json`."""
        return cls(
            calibrator=document.calibrator,
            temperature=np.array(document.temperature, dtype=np.float64),
            calibrator_bias=np.array(document.calibrator_bias, dtype=np.float64),
            prior_bias=np.array(document.prior_bias, dtype=np.float64),
            threshold_bias=np.array(document.threshold_bias, dtype=np.float64),
            positive=document.positive,
            threshold=document.threshold,
            isotonic=knots_of(document.isotonic),
        )


def knots_of(stored: list | None) -> tuple[tuple[np.ndarray, np.ndarray], ...] | None:
    """The `isotonic` of a `Calibration` from that of a document."""
    return tuple((np.array(x), np.array(y)) for x, y in stored) if stored else None


def decision_rule(document: CalibrationFile) -> DecisionRule:
    """How a model with this `calibration.json` decides."""
    calibration, guarantee = Calibration.from_document(document), document.guarantee
    banded = guarantee is not None and guarantee.low is not None
    return {
        "positive": calibration.positive,
        "threshold": calibration.threshold,
        "prior_bias": calibration.prior_bias.tolist(),
        "threshold_bias": calibration.threshold_bias.tolist(),
        "abstain_band": [guarantee.low, guarantee.high] if banded else None,
    }


def isotonic_logits(probabilities: np.ndarray, knots: tuple[tuple[np.ndarray, np.ndarray], ...]) -> np.ndarray:
    """Map each class's probability `(n, classes)` by its knots, normalise the rows to 1, and return the logarithm."""
    columns = [np.interp(probabilities[:, k], x, y) for k, (x, y) in enumerate(knots)]
    mapped = np.maximum(np.stack(columns, axis=1), TINY)
    return np.log(mapped / mapped.sum(axis=1, keepdims=True))
