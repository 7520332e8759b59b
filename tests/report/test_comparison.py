"""Comparisons match other implementations: McNemar's test SciPy and all sign patterns, the rest counts by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import cohen_kappa_score

from natix_hf.documents.comparison import Comparison, Cost, JudgedDifference
from natix_hf.report.comparison import Judged, comparison_document, mcnemar
from natix_hf.report.comparison_page import comparison_html, comparison_lines
from natix_hf.report.intervals import bootstrap_intervals, paired_differences

_UNKNOWN = ("method", "parameters", "trainable_parameters", "megabytes", "training_seconds", "latency_p50")
COST = Cost(**dict.fromkeys(_UNKNOWN), times_read_before=1)
NAMES = ["None", "Roadwork"]


@pytest.mark.parametrize(("first", "second"), [(0, 0), (5, 0), (7, 12), (40, 61), (300, 200)])
def test_mcnemar_by_photos_is_the_exact_binomial_and_so_is_that_by_groups_of_one(first, second):
    one = np.r_[np.ones(first, bool), np.zeros(second + 9, bool)]
    two = np.r_[np.zeros(first, bool), np.ones(second, bool), np.zeros(9, bool)]
    found = mcnemar(one, two)
    exact = scipy.stats.binomtest(first, first + second).pvalue if first + second else 1.0
    # Twice the smaller tail, which is the same for a fair coin.
    tail = min(1.0, 2 * scipy.stats.binom.cdf(min(first, second), first + second, 0.5)) if first + second else 1.0
    assert found.p == pytest.approx(exact) == pytest.approx(tail)
    assert found.p_groups == pytest.approx(exact)
    assert (found.only_first, found.only_second, found.groups) == (first, second, first + second)


@pytest.mark.parametrize("seed", range(6))
def test_mcnemar_by_groups_counts_every_assignment_of_signs(seed):
    generator = np.random.default_rng(seed)
    groups = generator.integers(0, 9, 60)
    winner = generator.random(60) + 0.3 * (groups % 2)
    one, two = winner > 0.9, winner < 0.25
    surplus = np.array([one[groups == g].sum() - two[groups == g].sum() for g in range(9)])
    sums = [abs(np.dot(signs, surplus)) for signs in itertools.product((-1, 1), repeat=9)]
    expected = np.mean(np.array(sums) >= abs(surplus.sum()))
    assert mcnemar(one, two, np.array([f"video {g}" for g in groups])).p_groups == pytest.approx(expected)


def test_copies_of_photos_make_mcnemar_by_photos_surer_and_by_groups_not():
    one, two = np.arange(30) < 9, np.arange(30) >= 27
    single = mcnemar(one, two)
    copied = mcnemar(np.repeat(one, 5), np.repeat(two, 5), np.repeat(np.arange(30), 5))
    assert copied.p < single.p
    assert copied.p_groups == pytest.approx(single.p_groups)


def judged(name: str, labels: np.ndarray, mistakes: np.ndarray, seed: int) -> Judged:
    confidence = np.random.default_rng(seed).uniform(0.5, 3, len(labels))
    return Judged(name, np.eye(2)[np.where(mistakes, 1 - labels, labels)] * confidence[:, None], COST)


@pytest.fixture(scope="module")
def rows() -> dict:
    """400 photos, two per group; `worse` errs more at night, `other` differs from `first` only in its confidences."""
    generator = np.random.default_rng(0)
    labels, night = generator.integers(0, 2, 400), np.arange(400) // 2 % 4 == 0
    mistakes = generator.random(400) < 0.1
    worse = mistakes | (night & (generator.random(400) < 0.4))
    slices = {"daytime": np.where(night, "night", "day").astype(object)}
    slices["odd <b>"] = np.where(np.arange(400) < 4, "few", "many").astype(object)
    runs = [
        judged("first", labels, mistakes, 1),
        judged("worse", labels, worse, 2),
        judged("other", labels, mistakes, 3),
    ]
    return {
        "runs": runs,
        "labels": labels,
        "groups": np.array([f"g{i // 2}" for i in range(400)], dtype=object),
        "ids": [f"<i>{i:03}.jpg" for i in range(400)],
        "slices": slices,
        "label_names": NAMES,
    }


@pytest.fixture(scope="module")
def document(rows) -> Comparison:
    return comparison_document(**rows, n_boot=300, notes=["a note"])


def test_figures_and_differences_are_those_of_the_intervals(rows, document):
    assert Comparison.parse(document.text(), "") == document
    first, worse, _ = rows["runs"]
    figures = bootstrap_intervals(worse.logits, rows["labels"], rows["groups"], n_boot=300)
    assert {name: one.plain() for name, one in document.runs[1].metrics.items()} == figures
    beside = document.beside_first[0]
    gaps = paired_differences(worse.logits, first.logits, rows["labels"], rows["groups"], n_boot=300)
    for name, gap in gaps.items():
        assert beside.difference[name].plain() | gap == beside.difference[name].plain()
    assert beside.difference["accuracy"].better == "first"
    assert beside.difference["log_loss"].better == "first"  # lower is better
    assert document.beside_first[1].difference["accuracy"] == JudgedDifference(
        difference=0, low=0, high=0, better=None
    )


def test_counts_agreement_and_the_photos_that_part_them(rows, document):
    labels, (first, worse, _) = rows["labels"], rows["runs"]
    one, two = (run.logits.argmax(axis=1) for run in (first, worse))
    beside = document.beside_first[0]
    assert beside.right == {
        "both": sum((one == labels) & (two == labels)),
        "only_first": sum((one == labels) & (two != labels)),
        "only_this": sum((one != labels) & (two == labels)),
        "neither": sum((one != labels) & (two != labels)),
    }
    assert beside.decisions == [[int(sum((one == i) & (two == j))) for j in (0, 1)] for i in (0, 1)]
    assert beside.kappa == pytest.approx(cohen_kappa_score(one, two))
    assert beside.agreement == document.agreement[0][1] == np.mean(one == two)
    assert beside.differ == sum(one != two) == len(beside.photos)
    gaps = [abs(photo.first_p - photo.this_p) for photo in beside.photos]
    assert gaps == sorted(gaps, reverse=True)
    for photo in beside.photos:
        row = rows["ids"].index(photo.id)
        assert (photo.label, photo.first, photo.this) == (
            NAMES[labels[row]],
            NAMES[one[row]],
            NAMES[two[row]],
        )


def test_who_wins_where_and_few_photos_decide_nothing(document):
    slices = {row.value: row for row in document.beside_first[0].slices}
    assert document.beside_first[0].slices[0].value == "night"
    assert slices["night"].accuracy.better == "first"
    assert slices["day"].accuracy.better is None
    assert (slices["few"].small, slices["few"].n, slices["few"].groups) == (True, 4, 2)
    assert slices["few"].log_loss.better is None


def test_two_runs_of_different_names_are_demanded(rows):
    for runs in (rows["runs"][:1], [rows["runs"][0]] * 2):
        with pytest.raises(ValueError, match="two or more runs with different names"):
            comparison_document(**(rows | {"runs": runs}))


def test_the_text_says_who_is_better_and_the_page_holds_all_of_it_escaped(document):
    text = "\n".join(comparison_lines(document))
    assert "400 photos in 200 groups" in text
    assert "worse minus first:" in text
    assert "first is better" in text
    assert "daytime = night" in text
    assert "few" not in text
    assert "a note" in text
    page = comparison_html(document, "0")
    assert "<i>" not in page.split("<main")[1]
    assert "&lt;i&gt;000.jpg" in page or "&lt;i&gt;" in page
    assert "odd &lt;b&gt;" in page
    for word in ("http://", "https://", "src=", "@import"):
        assert word not in page
    assert page.count("<section") == 5  # figures, two pairs, agreement, notes
