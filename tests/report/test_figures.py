"""Figures are written completely, show their input, and are identical for the same run."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from natix_hf.report import figures


def draw(classes=2):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, 150)
    logits = generator.normal(size=(150, classes))
    logits[np.arange(150), labels] += 2
    return logits, labels


@pytest.fixture
def drawn(monkeypatch):
    """The figures as objects, beside the files."""
    kept: list[Figure] = []
    save = figures.save_figure
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: (kept.append(figure), save(figure, path)))
    return kept


@pytest.mark.parametrize("classes", [2, 13])
def test_confusion_shows_label_by_row(tmp_path, drawn, classes):
    logits, labels = draw(classes)
    predicted = logits.argmax(axis=1)
    figures.confusion(labels, predicted, [f"kind {i}" for i in range(classes)], tmp_path / "confusion.png")
    shown = {text.get_position()[::-1]: int(text.get_text()) for text in drawn[0].axes[0].texts}
    assert shown[(0, 1)] == np.sum((labels == 0) & (predicted == 1))
    assert sum(shown.values()) == 150


def test_the_same_figure_gives_the_same_bytes_and_leaves_nothing_beside_it(tmp_path):
    logits, labels = draw()
    for name in ("a.png", "b.png"):
        figures.confusion(labels, logits.argmax(axis=1), ["None", "Roadwork"], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.filterwarnings("error")
def test_a_heat_map_of_one_head_has_room_for_its_titles(tmp_path):
    """Its axes had collapsed, and their scale ran from 0.4 to 0.4 plus a billionth."""
    from natix_hf.report.figures_probe import heat_map

    head = {"pooling": "cls", "layers": 1, "learning_rate": 0.1, "weight_decay": 0.0, "mcc": 0.4, "log_loss": 0.5}
    heat_map([head], head, tmp_path / "probe.png")
    assert (tmp_path / "probe.png").stat().st_size > 0
