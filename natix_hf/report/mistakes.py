"""Selects photos for a person to look at: the most confident mistakes, and labels that look wrong."""

from __future__ import annotations

import numpy as np


def confident_mistakes(probabilities: np.ndarray, labels: np.ndarray, decided: np.ndarray, most: int) -> np.ndarray:
    """Return rows with a wrong decision, the most confident first.

    Args:
        probabilities: `(n, classes)`.
        labels, decided: `(n,)` class ids.
        most: maximum number of rows.

    Returns:
        Row numbers; rows of equal confidence keep their order.
    """
    wrong = np.flatnonzero(decided != labels)
    return wrong[np.argsort(-probabilities[wrong, decided[wrong]], kind="stable")][:most]


def suspected_label_errors(probabilities: np.ndarray, labels: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows whose label the model contradicts with more than its usual confidence, the strongest first.

    Confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
    JAIR 70, 2021): the threshold of class j is the mean probability of j over the photos labelled j. A photo counts as
    the likeliest class whose threshold it reaches, and is suspected if that is not its label. Rows are sorted by
    the normalised margin, p(label) - max p(other). Use it only for rows that training has not seen.

    Args:
        probabilities: `(n, classes)`.
        labels: `(n,)` class ids.
        most: maximum number of rows.

    Returns:
        Row numbers, and for each row the class that it is counted for.
    """
    rows = np.arange(len(labels))
    classes = probabilities.shape[1]
    present = np.bincount(labels, minlength=classes) > 0
    of_label = probabilities[rows, labels]
    # A class without photos has no usual confidence, so no photo can reach it.
    threshold = np.bincount(labels, of_label, classes) / np.maximum(np.bincount(labels, minlength=classes), 1)
    reached = (probabilities >= threshold) & present
    counted = np.where(reached, probabilities, -1.0).argmax(axis=1)
    suspected = np.flatnonzero(reached.any(axis=1) & (counted != labels))
    others = probabilities.copy()
    others[rows, labels] = -1.0
    margin = of_label - others.max(axis=1)
    order = suspected[np.argsort(margin[suspected], kind="stable")][:most]
    return order, counted[order]
