"""The pictures are written whole, show what they are given, and are the same for the same run."""

import numpy as np
import pytest
import scipy.special
from matplotlib.figure import Figure
from PIL import Image

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


def test_training_curve_draws_the_logged_points(tmp_path, drawn):
    log = [{"step": 10, "loss": 0.7}, {"step": 20, "loss": 0.4}, {"step": 20, "eval_loss": 0.5, "eval_mcc": 0.8}]
    figures.training_curve(log, tmp_path / "curve.png")
    losses, scores = drawn[0].axes
    assert losses.lines[0].get_xydata().tolist() == [[10, 0.7], [20, 0.4]]
    assert losses.lines[1].get_xydata().tolist() == [[20, 0.5]]
    assert scores.lines[0].get_xydata().tolist() == [[20, 0.8]]
    assert (scores.get_ylabel(), len(scores.lines)) == ("MCC", 1)


def test_training_curve_shows_raw_weights_beside_the_average(tmp_path, drawn):
    log = [{"step": 5, "eval_accuracy": 0.9, "eval_raw_accuracy": 0.8}]
    figures.training_curve(log, tmp_path / "curve.png", metric="accuracy")
    assert [line.get_ydata().tolist() for line in drawn[0].axes[1].lines] == [[0.9], [0.8]]


def test_a_log_without_evaluations_still_makes_a_picture(tmp_path):
    figures.training_curve([{"step": 1, "loss": 0.5}], tmp_path / "curve.png")
    assert Image.open(tmp_path / "curve.png").size[0] > 600


@pytest.mark.parametrize("classes", [2, 13])
def test_reliability_names_both_ece_and_n(tmp_path, drawn, classes):
    logits, labels = draw(classes)
    before, after = scipy.special.softmax(logits * 3, axis=1), scipy.special.softmax(logits, axis=1)
    figures.reliability(before, after, labels, tmp_path / "reliability.png")
    legend = drawn[0].axes[0].get_legend()
    texts = [legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())]
    assert texts[0] == "150 photos"
    assert texts[1].startswith("before: ECE 0.")
    assert texts[2].startswith("after: ECE 0.")


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
