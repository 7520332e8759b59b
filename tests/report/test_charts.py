"""Positions on a chart match its axes, and values can be read back from them."""

import re

import numpy as np
import pytest
from finished_run import THRESHOLD_CHOICE
from PIL import Image
from two_stages import cascade_documents

from natix_hf.documents.calibration import ThresholdChoice
from natix_hf.report import page_charts
from natix_hf.report.chart_pictures import draw_charts
from natix_hf.report.charts import Axis, Chart, number, svg_path, table_of_curves


def chart(**more):
    return Chart("t", "d", **{"x": Axis("x", 0, 10), "y": Axis("y", -1, 1)} | more)


def read_back(drawn, d):
    """The values of a path, by the scales that the page's script uses."""
    x0, x1, left, right = drawn.x_scale
    y0, y1, bottom, top = drawn.y_scale
    places = [tuple(map(float, pair)) for pair in re.findall(r"[ML]([-\d.]+),([-\d.]+)", d)]
    return [
        (x0 + (x - left) / (right - left) * (x1 - x0), y0 + (y - bottom) / (top - bottom) * (y1 - y0))
        for x, y in places
    ]


def test_a_curve_is_read_back_from_its_path_and_gaps_are_left_out():
    drawn = chart()
    drawn.line([0, 2.5, 5, 10], [-1, 0.5, None, float("nan")], "blue", "a")
    found = np.array(read_back(drawn, svg_path(drawn.shapes[0])))
    np.testing.assert_allclose(found, [(0, -1), (2.5, 0.5)], atol=0.02)
    assert drawn.legend == [("blue", "a")]


def test_a_picture_shows_the_shapes_of_the_page_at_the_same_places(tmp_path, monkeypatch):
    from natix_hf.report import chart_pictures

    kept, save = [], chart_pictures.save_figure
    monkeypatch.setattr(chart_pictures, "save_figure", lambda figure, path: (kept.append(figure), save(figure, path)))
    first, second = chart(note="a note"), chart()
    first.line([0, 5, 10], [-1, 1, 0], "blue", "curve")
    second.line([0, 10], [0, 0], "gray dash thin")
    second.dot(5, 0.5, "orange", "here")
    draw_charts([first, second], tmp_path / "two.png")
    (axes,) = kept[0].axes
    corner = chart_pictures.GAP, chart_pictures.HEAD + chart_pictures.LEGEND
    drawn = [line.get_xydata() - corner for line in axes.lines]
    assert any(np.array_equal(line, first.shapes[0].points) for line in drawn)
    (dot,) = axes.patches
    right = corner[0] + first.width + chart_pictures.GAP
    assert dot.center == (right + second.px(5), corner[1] + second.py(0.5))
    words = [text.get_text() for text in axes.texts]
    assert {"t", "x", "y", "curve", "a note"} <= set(words)
    assert Image.open(tmp_path / "two.png").width > 1500


def test_somebodys_dollar_signs_are_no_formula(tmp_path):
    drawn = chart(note="$\\broken$")
    drawn.line([0, 1], [0, 1], "blue", "a $ and another $")
    draw_charts([drawn], tmp_path / "a.png")
    draw_charts([drawn], tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_ticks_stand_inside_the_axes_and_count_in_whole_numbers():
    drawn = chart(x=Axis("x", 0, 3, counts=True))
    assert [text for _, text in drawn.x_ticks] == ["0", "1", "2", "3"]
    assert all(drawn.left <= place <= drawn.right for place, _ in drawn.x_ticks)
    assert [text for _, text in chart(y=Axis("y", 0, 1)).y_ticks] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]


def test_axes_of_one_value_still_have_a_width():
    drawn = chart(y=Axis("y", 0.5, 0.5))
    assert drawn.py(0.5) == pytest.approx((drawn.top + drawn.bottom) / 2)


def test_a_table_of_curves_keeps_both_ends():
    table = table_of_curves("x", np.arange(101), double=2 * np.arange(101))
    assert (table.rows[0], table.rows[-1]) == (["0.000", "0.000"], ["100", "200"])
    assert len(table.rows) == 25


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (float("nan"), "-"), (12.0, "12"), (0.12345, "0.123")])
def test_numbers(value, text):
    assert number(value) == text


def test_reliability_counts_every_photo_once_in_each_series():
    generator = np.random.default_rng(0)
    before, after = (generator.dirichlet([1, 1, 1], 200) for _ in range(2))
    drawn = page_charts.reliability_chart(before, after, generator.integers(0, 3, 200))
    told = [re.match(r"(\w+): (\d+) photos", shape.text).groups() for shape in drawn.below.shapes]
    assert {name: sum(int(n) for of, n in told if of == name) for name in ("before", "after")} == {
        "before": 200,
        "after": 200,
    }
    assert sum(int(row[1]) for row in drawn.table.rows) == 200


def test_cost_and_error_of_a_cascade_meet_at_both_stages():
    _, selective = cascade_documents()
    found = selective.cascade
    drawn = page_charts.cost_chart(found, "val_test")
    curve = next(shape for shape in drawn.shapes if shape.kind == "line" and shape.name == "wrong")
    places = read_back(drawn, svg_path(curve))
    ends = (sum(found.cost), found.error_of_second.value), (found.cost[0], found.error_of_first.value)
    np.testing.assert_allclose([places[0], places[-1]], ends, atol=0.02)
    dots = [(shape.x, shape.y) for shape in drawn.shapes if shape.kind == "dot"]
    used = found.mean_cost.value, found.error.value
    assert dots == [(drawn.px(x), drawn.py(y)) for x, y in (*ends[::-1], used)]


def test_a_threshold_is_drawn_where_its_curve_is_best():
    changed = {"threshold": 0.4, "low": 0.3, "high": 0.6, "n": 48, "groups": 30}
    changed |= {"curve": {"threshold": [0.1, 0.4, 0.9], "value": [0.2, 0.9, 0.1]}}
    drawn = page_charts.threshold_chart(ThresholdChoice.check(THRESHOLD_CHOICE | changed, ""), "val_calib/fit")
    band = next(shape for shape in drawn.shapes if shape.kind == "area")
    assert {x for x, _ in band.points} == {drawn.px(0.3), drawn.px(0.6)}
    curve = [shape for shape in drawn.shapes if shape.kind == "line"][-1]
    np.testing.assert_allclose(read_back(drawn, svg_path(curve)), [(0.1, 0.2), (0.4, 0.9), (0.9, 0.1)], atol=0.01)
    assert "48 photos in 30 groups of val_calib/fit" in drawn.note


def test_the_dot_of_a_ranking_lies_where_the_decisions_fall():
    is_positive = np.array([True, True, True, True, False, False])
    score = np.array([0.9, 0.8, 0.7, 0.2, 0.6, 0.1])
    roc, curve = page_charts.ranking_charts(score, is_positive, score > 0.5, "Roadwork")
    (dot,) = (shape for shape in roc.shapes if shape.kind == "dot")
    assert (dot.x, dot.y) == (roc.px(0.5), roc.py(0.75))
    (dot,) = (shape for shape in curve.shapes if shape.kind == "dot")
    assert (dot.x, dot.y) == (curve.px(0.75), curve.py(0.75))
    assert roc.note.endswith("4 photos of Roadwork, 2 others.")


def test_training_shows_the_logged_points_and_raw_weights_beside_the_average():
    log = [{"step": 10, "loss": 0.75}, {"step": 20, "loss": 0.4}, {"step": 20, "eval_loss": 0.5, "eval_mcc": 0.8}]
    log += [{"step": 20, "eval_raw_mcc": 0.6}]
    losses, scores = page_charts.training_charts(log)
    assert losses.table.rows == [["10", "0.750", "-"], ["20", "0.400", "0.500"]]
    assert scores.table.heads == ["step", "MCC", "raw weights"]
    assert scores.table.rows == [["20", "0.800", "0.600"]]
    np.testing.assert_allclose(read_back(losses, svg_path(losses.shapes[0])), [(10, 0.75), (20, 0.4)], atol=0.05)


def test_training_without_evaluations_has_one_chart_and_without_a_log_none():
    assert page_charts.training_charts([]) == []
    assert [c.title for c in page_charts.training_charts([{"step": 1, "loss": 0.5}])] == ["Loss during training"]
