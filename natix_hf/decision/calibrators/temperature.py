"""One temperature for all classes (Guo et al., 2017)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from natix_hf.decision.calibrators.calibrator import Calibrator, Fitted

if TYPE_CHECKING:
    import numpy as np

FIRST_STEP = 0.1


def fit(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None) -> Fitted:
    import numpy as np

    from natix_hf.decision.temperature import fit_temperature

    return {"temperature": np.full(logits.shape[1], fit_temperature(logits, labels, groups))}


TEMPERATURE = Calibrator(fit, description="a temperature", least_rows=30, step=FIRST_STEP, again="temperature")
