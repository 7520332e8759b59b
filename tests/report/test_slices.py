"""Slices: right figures, the truly bad one first, small and one-class ones not taken for bad ones."""

from __future__ import annotations

import numpy as np
import pytest

from natix_hf.documents.figures import Interval
from natix_hf.documents.slices import Slices
from natix_hf.report.intervals import bootstrap_intervals
from natix_hf.report.metrics import classification_metrics
from natix_hf.report.slices import slice_lines, slices_document

NAMES = ["None", "Roadwork"]


def street(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Logits, labels, groups of two and columns; 10 % mistakes, 30 % in fog; three photos of snow, all mistaken."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n)
    weather = np.array(["clear", "fog", "rain", "wind"], dtype=object)[np.arange(n) // 2 % 4]
    weather[:3] = "snow"
    wrong = generator.random(n) < np.where(weather == "fog", 0.3, 0.1)
    wrong[:3] = True
    predicted = np.where(wrong, 1 - labels, labels)
    logits = np.eye(2)[predicted] * generator.uniform(0.5, 3, n)[:, None]
    city = np.array([f"city {i // 2 % 5}" for i in range(n)], dtype=object)
    return logits, labels, np.arange(n) // 2, {"weather": weather, "city": city, "one": np.full(n, "x")}


@pytest.fixture(scope="module")
def document() -> Slices:
    return slices_document(*street(), NAMES, 1, n_boot=400)


def test_every_figure_is_that_of_the_slices_rows(document):
    logits, labels, groups, slices = street()
    assert Slices.parse(document.text(), "") == document
    assert document.columns == {"weather": 5, "city": 5}
    assert document.looked_at == 10 == len(document.slices)
    for one in document.slices:
        rows = slices[one.column] == one.value
        assert one.n == rows.sum()
        assert one.groups == len(set(groups[rows]))
        assert sum(one.labels.values()) == one.n
        if len(set(labels[rows])) == 2:
            plain = classification_metrics(logits[rows], labels[rows])
            assert {name: interval.value for name, interval in one.metrics.items()} == pytest.approx(plain)
            rest = classification_metrics(logits[~rows], labels[~rows])
            for name in plain.keys() - {"ece"}:
                assert one.difference[name].difference == pytest.approx(plain[name] - rest[name])
    fog = document.slices[0]
    rows = slices["weather"] == "fog"
    figures = bootstrap_intervals(logits[rows], labels[rows], groups[rows], n_boot=400)
    assert {name: interval.plain() for name, interval in fog.metrics.items()} == figures


def test_the_two_kinds_of_mistakes_stand_apart_where_a_slice_can_have_them():
    logits, labels, groups, _ = street()
    sizes = np.where(labels == 0, "none", np.where(np.arange(len(labels)) // 2 % 2, "small", "large")).astype(object)
    document = slices_document(logits, labels, groups, {"object_size": sizes}, NAMES, 1, n_boot=400)
    wrong = logits.argmax(axis=1) != labels
    found = {one.value: one for one in document.slices}
    assert found["none"].fnr is None
    assert found["none"].fpr.value == pytest.approx(wrong[labels == 0].mean())
    for size in ("small", "large"):
        assert found[size].fpr is None
        rate = found[size].fnr
        assert rate.value == pytest.approx(wrong[sizes == size].mean())
        assert rate.low < rate.value < rate.high
    assert "FNR 0." in " ".join(slice_lines(document))
    swapped = slices_document(logits[:, ::-1], 1 - labels, groups, {"object_size": sizes}, NAMES[::-1], 0, n_boot=400)
    assert {one.value: (one.fpr, one.fnr) for one in swapped.slices} == {
        one.value: (one.fpr, one.fnr) for one in document.slices
    }
    more = np.c_[logits, np.full(len(labels), -9.0)]
    three = slices_document(more, labels, groups, {"object_size": sizes}, [*NAMES, "Sign"], 1, n_boot=50)
    assert {(one.fpr, one.fnr) for one in three.slices} == {(None, None)}


def test_a_slice_without_mistakes_has_a_rate_of_zero_and_a_high_end_above(document):
    logits, labels = np.eye(2)[np.arange(80) % 2], np.arange(80) % 2
    one = slices_document(logits, labels, None, {"city": np.array(["a", "b"])[np.arange(80) // 40]}, NAMES).slices[0]
    assert (one.fpr.value, one.fpr.low) == (0, 0)
    assert one.fpr.high == pytest.approx(1 - 0.025 ** (1 / 20))  # Clopper and Pearson, 20 photos


def test_the_bad_slice_is_first_and_the_small_one_is_last(document):
    first, last = document.slices[0], document.slices[-1]
    assert (first.value, first.small, first.stands_out) == ("fog", False, True)
    assert first.difference["balanced_accuracy"].high < 0
    assert (last.value, last.small, last.p_adjusted) == ("snow", True, None)
    assert last.metrics["accuracy"].value == 0  # worse than fog by any figure, of three photos
    worse = [one.value for one in document.slices if one.stands_out and one.p_adjusted < 0.05]
    assert [value for value in worse if value in ("fog", "snow")] == ["fog"]
    assert document.stand_out == len(worse) <= 2  # clear weather is better than a rest with the fog in it


def test_a_slice_of_the_harder_class_alone_is_not_bad_for_that():
    """Roadwork is missed in 30 %, None in 2 %, everywhere alike; one city has roadwork only."""
    generator = np.random.default_rng(1)
    labels = np.r_[np.ones(300, int), generator.integers(0, 2, 900)]
    city = np.array(["A"] * 300 + [f"B{i % 3}" for i in range(900)], dtype=object)
    wrong = generator.random(1200) < np.where(labels == 1, 0.3, 0.02)
    logits = np.eye(2)[np.where(wrong, 1 - labels, labels)]
    document = slices_document(logits, labels, None, {"city": city}, NAMES, n_boot=300)
    alone = next(one for one in document.slices if one.value == "A")
    assert alone.difference["accuracy"].high < 0  # what plain accuracy would say
    assert not alone.stands_out
    assert abs(alone.difference["balanced_accuracy"].difference) < 0.1
    assert alone.metrics["mcc"] == Interval(value=None, low=None, high=None)
    assert alone.metrics["balanced_accuracy"].value == pytest.approx(np.mean(~wrong[:300]))


@pytest.mark.slow
def test_few_stand_out_where_nothing_differs():
    """10 data sets whose slices are chance: adjusted, at most a few have any slice that stands out."""
    with_any = unadjusted = 0
    for seed in range(10):
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 2, 400)
        logits = np.eye(2)[np.where(generator.random(400) < 0.15, 1 - labels, labels)]
        slices = {f"c{k}": generator.integers(0, 4, 400).astype(str) for k in range(3)}
        document = slices_document(logits, labels, None, slices, NAMES, n_boot=100, seed=seed)
        with_any += document.stand_out > 0
        unadjusted += any(one.p < 0.05 for one in document.slices)
    assert with_any <= 2  # 5 % of 10, and two standard errors
    assert unadjusted > 2  # what the same slices look like to who does not count them


def test_what_is_printed_are_the_worst_large_ones_with_counts(document):
    lines = slice_lines(document)
    assert len(lines) == 5
    assert "of 10 by balanced accuracy" in lines[0]
    assert lines[1].startswith("  weather = fog: 0.")
    assert "photos, 75 groups" in lines[1]
    assert f"{document.stand_out} stand" in lines[-1]
    assert not any("snow" in line for line in lines)
    logits, labels, groups, slices = street(40)
    few = slices_document(logits, labels, groups, {"city": slices["city"]}, NAMES, n_boot=50)
    assert slice_lines(few) == ["slices: none of 5 has at least 30 photos in 10 groups"]
    assert slice_lines(slices_document(logits, labels, groups, {}, NAMES, n_boot=50)) == []


def test_more_rows_get_fewer_resamples_and_a_wrong_length_is_refused(monkeypatch):
    monkeypatch.setattr("natix_hf.report.slices._CELLS", 120_000)
    logits, labels, groups, slices = street(400)
    document = slices_document(logits, labels, groups, {"weather": slices["weather"]}, NAMES)
    assert document.resamples == 300
    with pytest.raises(ValueError, match="expected 400 values of city"):
        slices_document(logits, labels, groups, {"city": slices["city"][1:]}, NAMES)
