"""An increasing step function of each class's probability, one against the rest (Zadrozny and Elkan, 2002)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from natix_hf.decision.calibrators.calibrator import Calibrator, Fitted

if TYPE_CHECKING:
    import numpy as np


def fit(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> Fitted:
    """Fit the knots of each class against the rest, kept away from 0 and 1 by the rule of succession: 1 / (n + 2)."""
    import numpy as np
    from sklearn.isotonic import IsotonicRegression

    from natix_hf.logits import softmax

    probabilities, n = softmax(logits), len(labels)

    def knots(of_class: np.ndarray, is_class: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        steps = IsotonicRegression(y_min=1 / (n + 2), y_max=(n + 1) / (n + 2), out_of_bounds="clip")
        steps.fit(of_class, is_class.astype(np.float64))
        return steps.X_thresholds_, steps.y_thresholds_

    if logits.shape[1] > 2:
        return {"isotonic": tuple(knots(column, labels == k) for k, column in enumerate(probabilities.T))}
    x, y = knots(probabilities[:, 1], labels == 1)  # the other class is its mirror image, so both sum to 1
    return {"isotonic": ((1 - x[::-1], 1 - y[::-1]), (x, y))}


ISOTONIC = Calibrator(
    fit, description="isotonic regression", least_rows=300, least_of_a_class=30, step=1.0, again="vector"
)
