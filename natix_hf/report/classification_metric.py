"""The metrics of `metrics.py` as an `evaluate.Metric`. It is part of the package, so nothing is downloaded.

It is a separate module because importing `evaluate` takes seconds, which commands without training can save.
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
    positive: id of the positive class for AUROC, if there are two classes; 1 by default.
    probabilities: whether the predictions are probabilities whose rows sum to 1.
"""


class NatixClassificationMetric(evaluate.Metric):
    """`NatixClassificationMetric().compute(predictions=logits, references=labels)` gives `classification_metrics`.

    By default rows stay in memory, so nothing is written to the cache folder of `evaluate`.
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
            # Replace 0 by the smallest positive float: a label with probability 0 then costs 708 nats, not infinity.
            scores = np.log(np.maximum(scores, np.finfo(np.float64).tiny))
        return classification_metrics(scores, references, positive)
