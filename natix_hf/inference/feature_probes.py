"""Probes of frozen features: logistic regression on few and on all labels, and nearest neighbours.

Works on arrays. All compared networks get the same subsets and settings.
"""

from __future__ import annotations

import numpy as np

from natix_hf.threads import one_blas_thread

STRENGTH = 0.1  # C of the regression on standardised features
NEIGHBOURS = 20
MOST_STEPS = 2000
BARELY = 1e-6  # share of the largest standard deviation; features with less are treated as constant


def probe_logits(features: np.ndarray, labels: np.ndarray, judged: np.ndarray, classes: int) -> np.ndarray:
    """Logits `(n', classes)` of a logistic regression on standardised features.

    Args:
        features: `(n, dim)` of the rows to fit on.
        labels: `(n,)` class ids, of at least two classes.
        judged: `(n', dim)` of the rows to predict.
        classes: number of classes; a class without labels is never predicted.
    """
    from sklearn.linear_model import LogisticRegression

    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread <= BARELY * spread.max()] = np.inf
    with one_blas_thread():
        model = LogisticRegression(C=STRENGTH, max_iter=MOST_STEPS).fit((features - mean) / spread, labels)
    logits = np.full((len(judged), classes), -30.0)
    logits[:, model.classes_] = np.log(model.predict_proba((judged - mean) / spread).clip(np.exp(-30.0)))
    return logits


def neighbour_logits(features: np.ndarray, labels: np.ndarray, judged: np.ndarray, classes: int) -> np.ndarray:
    """Log class shares `(n', classes)` among the 20 nearest rows by cosine similarity.

    One extra vote is spread evenly over the classes, so that no share is 0. Arguments as for `probe_logits`.
    """
    fitted, queries = (f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-12) for f in (features, judged))
    count = min(NEIGHBOURS, len(features))
    nearest = np.argpartition(-(queries @ fitted.T), count - 1, axis=1)[:, :count]
    votes = np.eye(classes)[labels[nearest]].sum(axis=1)
    return np.log((votes + 1 / classes) / (count + 1))


def few_labels(labels: np.ndarray, groups: np.ndarray, share: float, seed: int) -> np.ndarray | None:
    """Rows of whole groups that make up at least a share of all and hold every class; None if that takes far more.

    Args:
        labels: `(n,)` class ids.
        groups: `(n,)`.
        share: share of the rows to reach.
        seed: seed of the draw.
    """
    if share >= 1:
        return np.arange(len(labels))
    least, classes = max(2.0, share * len(labels)), len(np.unique(labels))
    names, number = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    rank = np.empty(len(names), dtype=int)
    rank[order] = np.arange(len(names))
    by_draw = np.argsort(rank[number], kind="stable")
    ends = np.flatnonzero(np.diff(rank[number][by_draw], append=-1))  # the last row of each group
    counts = [len(np.unique(labels[by_draw[: end + 1]])) for end in ends[: 1 + int(np.searchsorted(ends, 3 * least))]]
    for end, class_count in zip(ends, counts):
        if end + 1 >= least and class_count == classes:
            return np.sort(by_draw[: end + 1])
    return None
