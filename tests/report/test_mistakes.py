"""The photos that a person should look at: mistakes by confidence, labels by confident learning."""

import numpy as np

from natix_hf.report.mistakes import confident_mistakes, suspected_label_errors


def test_mistakes_come_by_the_probability_of_what_was_decided():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    labels, decided = np.array([1, 0, 0, 1]), np.array([0, 1, 1, 1])
    assert confident_mistakes(probabilities, labels, decided, 9).tolist() == [0, 2, 1]
    assert confident_mistakes(probabilities, labels, decided, 2).tolist() == [0, 2]


def literally(probabilities, labels):
    """Confident learning as the paper writes it, row by row."""
    n, classes = probabilities.shape
    threshold = {
        j: np.mean([probabilities[i, j] for i in range(n) if labels[i] == j]) for j in range(classes) if j in labels
    }
    found = {}
    for i in range(n):
        reached = [j for j in threshold if probabilities[i, j] >= threshold[j]]
        if reached:
            best = max(reached, key=lambda j: probabilities[i, j])
            if best != labels[i]:
                found[i] = best
    return found


def test_suspected_labels_are_those_of_the_paper():
    generator = np.random.default_rng(0)
    for classes in (2, 5):
        probabilities = generator.dirichlet([0.5] * classes, 300)
        labels = np.where(
            generator.random(300) < 0.7, probabilities.argmax(axis=1), generator.integers(0, classes, 300)
        )
        rows, counted = suspected_label_errors(probabilities, labels, 300)
        assert dict(zip(rows.tolist(), counted.tolist())) == literally(probabilities, labels)


def test_a_class_without_photos_suspects_nobody():
    probabilities = np.array([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    assert suspected_label_errors(probabilities, np.array([0, 0, 1]), 9)[0].tolist() == []


def test_swapped_labels_are_found_and_the_surest_come_first():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 500)
    logits = generator.normal(size=500) + np.where(labels == 1, 4, -4)
    probabilities = np.stack([1 / (1 + np.exp(logits)), 1 / (1 + np.exp(-logits))], axis=1)
    swapped = generator.choice(500, 20, replace=False)
    labels[swapped] = 1 - labels[swapped]
    rows, _ = suspected_label_errors(probabilities, labels, 20)
    assert len(set(rows) & set(swapped)) >= 18
    margin = probabilities[rows, labels[rows]]
    assert (np.diff(margin) >= 0).all()
