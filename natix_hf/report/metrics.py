"""Metrics of a classifier with two or more classes, from logits and labels.

Classes that do not occur among the labels are treated as in scikit-learn, see `classification_metrics`. A metric that
is not defined on the given rows is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.special
import sklearn.metrics

from natix_hf.documents.figures import METRICS as METRICS
from natix_hf.logits import checked, expected_calibration_error, nll, softmax

LOWER_IS_BETTER = ("log_loss", "ece")


def classification_metrics(logits: np.ndarray, labels: np.ndarray, positive: int = 1) -> dict[str, float]:
    """Accuracy, balanced accuracy, macro F1, MCC, AUROC, log loss and ECE.

    The decision is the class with the largest logit; ties go to the lower id.

    - balanced accuracy: mean recall over the classes that occur among the labels.
    - macro F1: mean over the classes that occur among labels or decisions.
    - MCC: 0 if all labels or all decisions are of one class (Gorodkin's R_K for more than two classes).
    - AUROC: for two classes, how often a positive photo ranks above a negative one; for more, the mean of one class
      against the rest over the classes that occur. NaN if all labels are of one class.
    - log loss: mean of -log p(label) in nats, without clipping.
    - ECE: see `logits.expected_calibration_error`.

    Args:
        logits: `(n, classes)`; log-probabilities are logits too.
        labels: `(n,)` class ids.
        positive: the class whose ranking AUROC measures. It is used for two classes only, for which both choices give
            the same figure.

    Returns:
        `{name: float}` in the order of `METRICS`.

    Raises:
        UserError: no rows, shapes that do not fit, a label outside the classes, a logit that is not finite.
    """
    logits, labels = checked(logits, labels)
    confusion = confusion_counts(labels, logits.argmax(axis=1), logits.shape[1])
    decided = confusion_figures(confusion[None].astype(np.float64))
    return {
        **{name: float(values[0]) for name, values in decided.items()},
        "auroc": _auroc(logits, labels, positive),
        "log_loss": float(nll(logits, labels).mean()),
        "ece": expected_calibration_error(softmax(logits), labels),
    }


def class_counts(labels: np.ndarray, label_names: Sequence[str]) -> dict[str, int]:
    """Number of photos of each class, from class ids `(n,)`."""
    return dict(zip(label_names, np.bincount(labels, minlength=len(label_names)).tolist(), strict=True))


def confusion_counts(labels: np.ndarray, decided: np.ndarray, classes: int) -> np.ndarray:
    """Number of photos by label (rows) and decision (columns), `(classes, classes)`, from class ids `(n,)`."""
    return np.bincount(labels * classes + decided, minlength=classes**2).reshape(classes, classes)


def confusion_figures(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, balanced accuracy, macro F1 and MCC of confusion matrices `(b, classes, classes)`, each `(b,)`."""
    size = confusion.sum(axis=(1, 2))
    right = np.diagonal(confusion, axis1=1, axis2=2)  # (b, classes)
    of_label, of_decision = confusion.sum(axis=2), confusion.sum(axis=1)
    occurs, appears = of_label > 0, of_label + of_decision > 0
    hits = right.sum(axis=1)
    recall = np.divide(right, of_label, out=np.zeros_like(right), where=occurs)
    f1 = np.divide(2 * right, of_label + of_decision, out=np.zeros_like(right), where=appears)
    covariance = hits * size - (of_label * of_decision).sum(axis=1)
    spread = (size**2 - (of_label**2).sum(axis=1)) * (size**2 - (of_decision**2).sum(axis=1))
    return {
        "accuracy": hits / size,
        "balanced_accuracy": recall.sum(axis=1) / occurs.sum(axis=1),
        "macro_f1": f1.sum(axis=1) / appears.sum(axis=1),
        "mcc": np.divide(covariance, np.sqrt(spread), out=np.zeros_like(size), where=spread > 0),
    }


def log_odds(logits: np.ndarray) -> np.ndarray:
    """log p / (1 - p) of each class, `(n, classes)`. It ranks like the probability, but without ties at 1."""
    columns = [
        logits[:, k] - scipy.special.logsumexp(np.delete(logits, k, axis=1), axis=1) for k in range(logits.shape[1])
    ]
    return np.stack(columns, axis=1)


def judged_classes(labels: np.ndarray, classes: int, positive: int) -> np.ndarray:
    """The classes that AUROC averages over: the positive one of two, otherwise all that occur among the labels."""
    return np.array([positive]) if classes == 2 else np.unique(labels)


def _auroc(logits: np.ndarray, labels: np.ndarray, positive: int) -> float:
    if len(np.unique(labels)) < 2:
        return float("nan")
    odds = log_odds(logits)
    judged = judged_classes(labels, logits.shape[1], positive)
    return float(np.mean([sklearn.metrics.roc_auc_score(labels == k, odds[:, k]) for k in judged]))
