"""The figures of `metrics.py` as an `evaluate.Metric` that comes with the package, so that nothing is downloaded.

Apart from `metrics.py` because importing `evaluate` takes seconds that a command without training need not spend.
"""

from __future__ import annotations

import datasets
import evaluate
import numpy as np

from natix_hf.report.metrics import METRICS, classification_metrics

DESCRIPTION = f"{', '.join(METRICS)} of a classifier with two or more classes, from logits or probabilities."
INPUTS = """
Args:
    predictions: `(n, classes)` logits, or probabilities with `probabilities=True`.
    references: `(n,)` class ids.
    positive: class id that AUROC judges where there are two classes; 1 by default.
    probabilities: whether the predictions are probabilities whose rows sum to 1.
"""


class NatixClassificationMetric(evaluate.Metric):
    """`NatixClassificationMetric().compute(predictions=logits, references=labels)` gives `classification_metrics`.

    Rows are kept in memory unless told otherwise, so that nothing is written to the cache folder of `evaluate`.
    """

    def __init__(self, keep_in_memory: bool = True, **kwargs):
        super().__init__(keep_in_memory=keep_in_memory, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references, positive: int = 1, probabilities: bool = False) -> dict[str, float]:
        scores = np.asarray(predictions, dtype=np.float64)
        if probabilities:
            # The smallest positive float in place of 0: where such a class is the label, 708 nats and not infinity.
            scores = np.log(np.maximum(scores, np.finfo(np.float64).tiny))
        return classification_metrics(scores, references, positive)
